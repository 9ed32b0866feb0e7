"""Benches: each prints figures beside their goals and the command that made them, and tells a missed goal by exit 2.

A bench is a module of this package: `add_arguments(parser)` adds its options, `run(arguments)` returns its figures. It
is imported only when it is named, since each needs other extras. `BENCHES` is the registry.
"""

from typing import Final

BENCHES: Final = {
    "wire": "bytes of a radio record in a batch, beside JSON",
    "probe": "memory and CPU of the daemon with everything on",
    "outbox": "bytes that the outbox writes to disk in a day",
    "ingest": "CPU a row of the collector, from MQTT to InfluxDB; --backlog: into the journal",
    "peers": "CPU a row of the collector and of Telegraf, from MQTT to InfluxDB",
}
"""Module and sub-command → its line of help."""
