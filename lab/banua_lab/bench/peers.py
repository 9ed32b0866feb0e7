"""What a row costs our collector beside Telegraf: same broker, same InfluxDB, same rows, one after the other.

Telegraf gets the rows as the lines that our projection writes, at QoS 1, one a message and 60 a message; our collector
gets them as signed batches. Both drain a backlog, since then each works in its largest groups: Telegraf is held until
the broker has queued every row for it, and our sender keeps `ingest.WINDOW` batches without a receipt. Neither speaks
TLS or compresses what it writes. At the end the rows of one probe in the buckets are compared, value by value.
"""

import argparse
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from banua_collector.dating import Anchor, Dated, date
from banua_lab.bench import ingest
from banua_lab.bench.figures import Figure
from banua_lab.bench.fleet import VILLAGE, Batch, Probe, batches, fleet
from banua_lab.bench.servers import BenchError, Influxd, Memory, Mosquitto, Server, found
from banua_lab.ports import HOST
from banua_wire.batch import open_rows
from banua_wire.rows import Row

BATCHES: Final = {60: 1008, 10: 2016}
"""Batches of a run of ours, each of another probe, by rows a batch; Telegraf gets the rows of the first."""
TOPIC: Final = "lines"
WRITE_LINES: Final = 5000
"""Most lines in one write to InfluxDB: as our projection's."""
WAIT_S: Final = 60
GOAL, AIM = 1 / 3, 1 / 4
"""What a row of ours at 60 a batch may cost of Telegraf's at one line a message, and what is aimed at."""


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU of a program and of InfluxDB in µs a row, the most resident memory in MB, and rows a second."""

    cpu_us: float
    influxd_us: float
    rss_mb: float
    rows_a_second: float


class Telegraf(Server):
    """Telegraf from the broker's topic `TOPIC` to a bucket."""

    def __init__(self, folder: Path, broker: Mosquitto, influx: Influxd, lines_a_message: int) -> None:
        """Start it in `folder`, which names the bucket, and wait until it has connected."""
        config, log = folder / "telegraf.conf", folder / "telegraf.log"
        config.write_text(
            _CONFIG.format(
                broker=f"tcp://{HOST}:{broker.port}",
                topic=TOPIC,
                url=influx.url,
                org=influx.org,
                bucket=folder.name,
                token=influx.token,
                most=WRITE_LINES,
                buffer=WRITE_LINES * 20,
                undelivered=WRITE_LINES * 4 // lines_a_message,
            )
        )
        command: list[str | Path] = [found("telegraf"), "--config", config]
        super().__init__("telegraf", folder, command, lambda: "Connected" in log.read_text(errors="replace"))


_CONFIG: Final = """\
[agent]
flush_interval = "1s"
metric_batch_size = {most}
metric_buffer_limit = {buffer}
omit_hostname = true
[[inputs.mqtt_consumer]]
servers = ["{broker}"]
topics = ["{topic}"]
qos = 1
topic_tag = ""
data_format = "influx"
max_undelivered_messages = {undelivered}
[[outputs.influxdb_v2]]
urls = ["{url}"]
organization = "{org}"
bucket = "{bucket}"
token = "{token}"
content_encoding = "identity"
"""


def lines(probes: Iterable[Probe], made: Iterable[Batch]) -> Iterator[str]:
    """Yield the radio rows of each probe's one batch as lines, dated by the anchor in it."""
    for probe, batch in zip(probes, made, strict=True):
        *radio, clock = open_rows(batch.message)
        values: dict[str, Any] = clock.values
        anchors = [Anchor(clock.boottime_ms, values["error_ms"], values["unix_ms"])]
        for row in radio:
            if dated := date(row.boottime_ms, anchors):
                yield line(probe, row, dated)


def line(probe: Probe, row: Row, dated: Dated) -> str:
    """Return a radio row as the line of it that our projection writes."""
    tags = {"probe": probe.name, "modem": row.values["modem"], "place": probe.place}
    tags |= {"village": VILLAGE, "district": VILLAGE[:8], "regency": VILLAGE[:5]}
    values: dict[str, Any] = row.values | {"time_error_ms": dated.error_ms}
    fields = [f"{name}={_literal(value)}" for name, value in sorted(values.items()) if name != "modem"]
    series = ",".join([row.kind, *(f"{name}={value}" for name, value in sorted(tags.items()))])
    return f"{series} {','.join(fields)} {dated.unix_ms * 1_000_000}"


def _literal(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(float(value))


def publish(port: int, payloads: Iterable[str]) -> None:
    """Publish `payloads` at QoS 1 and wait until the broker has acknowledged each."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.connect(HOST, port)
    client.loop_start()
    told = [client.publish(TOPIC, payload, qos=1) for payload in payloads]
    for info in told:
        info.wait_for_publish(WAIT_S)
    client.disconnect()
    client.loop_stop()


def telegrafs(folder: Path, broker: Mosquitto, influx: Influxd, rows: Sequence[str], lines_a_message: int) -> Cost:
    """Send `rows` to Telegraf and return what it took until InfluxDB has them all."""
    folder.mkdir()
    influx.create_bucket(folder.name)
    payloads = ["\n".join(rows[at : at + lines_a_message]) for at in range(0, len(rows), lines_a_message)]
    with Telegraf(folder, broker, influx, lines_a_message) as telegraf, Memory(telegraf) as memory:
        with telegraf.held():
            publish(broker.port, payloads)
            cpu_s, influxd_cpu_s, began = telegraf.cpu_s, influx.cpu_s, time.monotonic()
        influx.await_rows(folder.name, len(rows), WAIT_S, telegraf)
        return Cost(
            (telegraf.cpu_s - cpu_s) / len(rows) * 1e6,
            (influx.cpu_s - influxd_cpu_s) / len(rows) * 1e6,
            max(memory.quarters()),
            len(rows) / (time.monotonic() - began),
        )


def ours(folder: Path, broker: Mosquitto, influx: Influxd, probes: Sequence[Probe], made: Sequence[Batch]) -> Cost:
    """Send `made` to our collector and return what it took until InfluxDB has every row."""
    told = ingest.measure(folder, broker, influx, probes, made)
    return Cost(told.cpu_us, told.influxd_cpu_s / told.rows * 1e6, max(told.rss_mb), told.rows / told.whole_s)


def add_arguments(_: argparse.ArgumentParser) -> None:
    """Add nothing: the runs are comparable as they are."""


def run(_: argparse.Namespace) -> list[Figure]:
    """Measure Telegraf and the collector; BenchError, one line, when a part is missing or the rows are not the same."""
    sizes = {count: fleet(BATCHES[count]) for count in BATCHES}
    began_ms = ingest.began_ms()
    made = {count: batches(probes, BATCHES[count], count, began_ms) for count, probes in sizes.items()}
    rows = list(lines(sizes[60], made[60]))
    with tempfile.TemporaryDirectory(prefix="banua-bench-") as name:
        folder = Path(name)
        with Mosquitto(folder) as broker, Influxd(folder) as influx:
            theirs = {count: telegrafs(folder / f"telegraf-{count}", broker, influx, rows, count) for count in (1, 60)}
            mine = {count: ours(folder / f"ours-{count}", broker, influx, sizes[count], made[count]) for count in made}
            _compare(influx, sizes[60][0].name, ["telegraf-1", "telegraf-60", "ours-60"])
    return figures(theirs, mine)


def figures(theirs: dict[int, Cost], mine: dict[int, Cost]) -> list[Figure]:
    """Return the figures of Telegraf by lines a message and of ours by rows a batch, and our goals."""
    named = {f"Telegraf, {count} a message": cost for count, cost in theirs.items()}
    named |= {f"ours, {count} a batch": cost for count, cost in mine.items()}
    told: list[Figure] = []
    for name, cost in named.items():
        told += [
            Figure(f"{name}: CPU a row", cost.cpu_us, "µs"),
            Figure(f"{name}: CPU of influxd a row", cost.influxd_us, "µs"),
            Figure(f"{name}: memory", cost.rss_mb, "MB"),
            Figure(f"{name}: rows", cost.rows_a_second, "rows/s"),
        ]
    one = theirs[1].cpu_us
    return [
        *told,
        Figure("aimed at: ours, 60 a batch", one * AIM, "µs"),
        Figure("ours, 60 a batch, to Telegraf, 1 a message", mine[60].cpu_us / one, "", GOAL),
        Figure("ours, 10 a batch, to Telegraf, 1 a message", mine[10].cpu_us / one, "", 1.0),
    ]


def _compare(influx: Influxd, probe: str, buckets: Sequence[str]) -> None:
    first, *others = (influx.query(bucket, f"SELECT * FROM radio WHERE probe = '{probe}'") for bucket in buckets)  # noqa: S608
    if not first or any(other != first for other in others):
        raise BenchError(f"the rows of {probe} are not the same in the buckets {', '.join(buckets)}")
