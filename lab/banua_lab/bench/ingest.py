"""What a row costs the collector: from MQTT to InfluxDB's answer, or (`--backlog`) into the journal alone.

The fleet's batches are signed beforehand and sent from this process, each probe's in turn, so that at most `WINDOW`
wait for their receipt: as fast as the collector takes them. Measured is the collector's own process, from the first
batch until every row is found in InfluxDB by a query; its start is left out.
"""

import argparse
import math
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from banua_collector.db import migrate, open_engine
from banua_lab.bench.figures import Figure
from banua_lab.bench.fleet import Batch, Probe, batches, fleet, register
from banua_lab.bench.servers import BenchError, Collector, Influxd, Memory, Mosquitto
from banua_lab.ports import HOST
from banua_wire import receipt
from banua_wire.topics import topic

PROBES: Final = 2016
BATCHES: Final = 8064
ROWS_A_BATCH: Final = (60, 10)
DAY_BATCHES: Final = 48_384
"""A day of 2,016 probes with a row a minute in batches of 60."""
WINDOW: Final = 1000
SEND_S, BACKLOG_S, WAIT_S = 60, 170, 240
"""How long is sent at most, with projection and without, and how long InfluxDB is waited for then."""
TELEGRAF_US: Final = 36.0
"""CPU a row of Telegraf 1.37.2 as the goals were set: 25 fields as line protocol; `bench peers` measures it anew."""
CPU_GOALS_US: Final = {60: TELEGRAF_US / 3, 10: TELEGRAF_US}
DAY_MS: Final = 86_400_000
RECEIPT_S: Final = 60
GROWTH_GOAL: Final = 1.05
BACKLOG_GOAL_S: Final = 120.0


class Sender:
    """Sends batches at QoS 1; at most `WINDOW` of them are without a receipt at any time."""

    def __init__(self, port: int) -> None:
        """Connect to the broker on loopback."""
        self._room = threading.Semaphore(WINDOW)
        self._sent = self._answered = 0
        self._refused = ""
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = self._receipted
        self._client.connect(HOST, port)
        self._client.subscribe(topic("+", "receipt"), qos=1)
        self._client.loop_start()

    def send(self, made: Sequence[Batch], within_s: float) -> Sequence[Batch]:
        """Send `made` in order, as far as `within_s` allows, wait for every receipt, and return what was sent.

        BenchError when a batch is refused or never answered.
        """
        end = time.monotonic() + within_s
        for batch in made:
            self._take()
            if time.monotonic() > end:
                self._room.release()
                break
            self._client.publish(batch.topic, batch.message, qos=1)
            self._sent += 1
        for _ in range(WINDOW):
            self._take()
        return made[: self._sent]

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def _take(self) -> None:
        if not self._room.acquire(timeout=RECEIPT_S) or self._refused:
            why = self._refused or f"of {self._sent} sent, {self._answered} were answered, none for {RECEIPT_S} s"
            raise BenchError(f"batches without a receipt: {why}")

    def _receipted(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        told = receipt.decode(bytes(message.payload))
        if told.rejects:
            self._refused = told.rejects[0][2]
        self._answered += len(told.got)
        self._room.release(len(told.got) + len(told.rejects))


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run used: CPU of the collector (its first thread: MQTT and journal) and of InfluxDB, times, memory."""

    rows: int
    batches: int
    cpu_s: float
    main_cpu_s: float
    influxd_cpu_s: float
    journalled_s: float
    whole_s: float
    rss_mb: list[float]

    @property
    def cpu_us(self) -> float:
        """CPU of the collector in µs a row."""
        return self.cpu_s / self.rows * 1e6


def measure(
    folder: Path,
    broker: Mosquitto,
    influx: Influxd | None,
    probes: Sequence[Probe],
    made: Sequence[Batch],
    within_s: float = math.inf,
) -> Measured:
    """Send `made` to a collector with a new journal in `folder`, projecting to `influx` where there is one.

    What cannot be sent `within_s` is left out.
    """
    folder.mkdir()
    engine = open_engine(f"sqlite:///{folder}/banua.sqlite")
    migrate(engine)
    register(engine, probes, began_ms())
    engine.dispose()
    if influx is not None:
        influx.create_bucket(folder.name)
    sender = Sender(broker.port)
    try:
        with Collector(folder, broker, influx, folder.name) as collector, Memory(collector) as memory:
            cpu_s, main_cpu_s = collector.cpu_s, collector.main_cpu_s
            influxd_cpu_s = 0.0 if influx is None else influx.cpu_s
            began = time.monotonic()
            sent = sender.send(made, within_s)
            journalled_s = time.monotonic() - began
            rows = sum(batch.rows for batch in sent)
            if influx is not None:
                influx.await_rows(folder.name, rows, WAIT_S, collector)
                influxd_cpu_s = influx.cpu_s - influxd_cpu_s
            return Measured(
                rows,
                len(sent),
                collector.cpu_s - cpu_s,
                collector.main_cpu_s - main_cpu_s,
                influxd_cpu_s,
                journalled_s,
                time.monotonic() - began,
                memory.quarters(),
            )
    finally:
        sender.close()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the settings of this bench."""
    parser.add_argument("--rows-a-batch", type=int, choices=ROWS_A_BATCH, default=ROWS_A_BATCH[0], help="default 60")
    parser.add_argument(
        "--batches", type=int, default=None, help=f"at most (default {BATCHES}, with --backlog {DAY_BATCHES})"
    )
    parser.add_argument("--probes", type=int, default=PROBES, help=f"who take turns (default {PROBES})")
    parser.add_argument("--backlog", action="store_true", help="no projection: how fast a day's batches are journalled")


def run(arguments: argparse.Namespace) -> list[Figure]:
    """Measure one run; BenchError, one line, when something that it needs is missing."""
    count = arguments.batches or (DAY_BATCHES if arguments.backlog else BATCHES)
    probes = fleet(arguments.probes)
    made = batches(probes, count, arguments.rows_a_batch, began_ms())
    with tempfile.TemporaryDirectory(prefix="banua-bench-") as name:
        folder = Path(name)
        with Mosquitto(folder) as broker:
            if arguments.backlog:
                return backlog_figures(measure(folder / "backlog", broker, None, probes, made, BACKLOG_S))
            with Influxd(folder) as influx:
                measured = measure(folder / "ours", broker, influx, probes, made, SEND_S)
    return figures(measured, arguments.rows_a_batch)


def figures(measured: Measured, rows_a_batch: int) -> list[Figure]:
    """Return the figures of a whole run, with the goals of its batch size."""
    return [
        Figure("CPU a row", measured.cpu_us, "µs", CPU_GOALS_US[rows_a_batch]),
        Figure("of it in the first thread: MQTT and journal", measured.main_cpu_s / measured.rows * 1e6, "µs"),
        Figure("CPU of influxd a row", measured.influxd_cpu_s / measured.rows * 1e6, "µs"),
        Figure("rows", measured.rows, "rows"),
        Figure("rows into InfluxDB", measured.rows / measured.whole_s, "rows/s"),
        Figure("batches journalled", measured.batches / measured.journalled_s, "batches/s"),
        *_memory(measured),
    ]


def backlog_figures(measured: Measured) -> list[Figure]:
    """Return the figures of a run without projection; a day is extrapolated from what was sent, if that was less."""
    a_second = measured.batches / measured.journalled_s
    return [
        Figure("a day of 2,016 probes journalled", DAY_BATCHES / a_second, "s", BACKLOG_GOAL_S),
        Figure("batches", measured.batches, "batches"),
        Figure("batches journalled", a_second, "batches/s"),
        Figure("CPU a row", measured.cpu_us, "µs"),
        Figure("of it in the first thread: MQTT and journal", measured.main_cpu_s / measured.rows * 1e6, "µs"),
        *_memory(measured),
    ]


def _memory(measured: Measured) -> list[Figure]:
    quarters = [Figure(f"memory, quarter {n}", mb, "MB") for n, mb in enumerate(measured.rss_mb, start=1)]
    return [
        *quarters,
        Figure("memory, last quarter to second", measured.rss_mb[3] / measured.rss_mb[1], "", GROWTH_GOAL),
    ]


def began_ms() -> int:
    """Return when the fleet's boots began and its deployments start: the midnight (UTC) before yesterday's, in ms."""
    return (time.time_ns() // 1_000_000 // DAY_MS - 2) * DAY_MS
