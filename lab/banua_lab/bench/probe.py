"""What the daemon costs its board: memory and CPU of `banua-probe run` with everything on.

Board, two emulated modems, paths by ICMP and TCP, DNS, a page and traces run against responders on loopback; a real
broker (TLS) and a real collector receipt what comes. A brisk run, every sensor every few seconds, is for the memory
once all code has run, which its rows must show. Then a run at the default rates is for the CPU, from the connection on:
the burst of the start is told apart.
"""

import argparse
import contextlib
import os
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from banua_lab.bench.figures import Figure
from banua_lab.demo import PROBE, Demo, DemoError, register_demo
from banua_lab.faults import DnsFault, DnsMode, WebFault
from banua_lab.modem import EmulatedModem
from banua_lab.ports import HOST, free_port
from banua_lab.scenario import load
from banua_probe import cli as probe_cli
from banua_wire.batch import open_rows

GOAL_MB: Final = 40.0
GOAL_CPU_PCT: Final = 1.0
BRISK_S: Final = 40
KINDS: Final = {"board", "radio", "neighbours", "path", "hops", "dns", "web"}
MODEMS: Final = ("m1", "m2")
_NAME: Final = "mqtt.example.org"
_TICKS: Final = os.sysconf("SC_CLK_TCK")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the settings of this bench."""
    parser.add_argument("--seconds", type=int, default=120, help="at the default rates (default 120)")
    parser.add_argument("--broker", choices=("auto", "mosquitto", "amqtt"), default="auto")


def run(arguments: argparse.Namespace) -> list[Figure]:
    """Run the daemon twice and return its figures; DemoError says what could not start."""
    with tempfile.TemporaryDirectory(prefix="banua-bench-") as name, contextlib.ExitStack() as stack:
        daemon = Daemon(Path(name), arguments.broker, stack)
        daemon.prepare()
        brisk = daemon.measure(BRISK_S, brisk=True)
        if missing := KINDS - daemon.kinds():
            raise DemoError(f"the probe has not run everything: no rows of {', '.join(sorted(missing))}")
        usual = daemon.measure(arguments.seconds, brisk=False)
    return figures(brisk, usual)


@dataclass(frozen=True, slots=True)
class Usage:
    """What one run used: CPU until the connection and after it, and memory at its end (MB: 10^6 bytes)."""

    start_cpu_s: float
    cpu_s: float
    elapsed_s: float
    rss_mb: float
    peak_mb: float

    @property
    def cpu_pct(self) -> float:
        """CPU in percent of one core, without the start."""
        return self.cpu_s / self.elapsed_s * 100


def figures(brisk: Usage, usual: Usage) -> list[Figure]:
    """Return the figures of both runs."""
    return [
        Figure("resident memory after everything ran (VmRSS)", brisk.rss_mb, "MB", GOAL_MB),
        Figure("its peak (VmHWM)", brisk.peak_mb, "MB"),
        Figure("resident memory at the default rates (VmRSS)", usual.rss_mb, "MB", GOAL_MB),
        Figure("its peak (VmHWM)", usual.peak_mb, "MB"),
        Figure(f"CPU at the default rates, {usual.elapsed_s:.0f} s", usual.cpu_pct, "% of a core", GOAL_CPU_PCT),
        Figure("CPU of the start, not in it", usual.start_cpu_s, "s"),
        Figure("CPU with every sensor every few seconds", brisk.cpu_pct, "% of a core"),
    ]


class Daemon(Demo):
    """The parts of the demo with a probe that has everything on."""

    def __init__(self, state: Path, broker: str, stack: contextlib.ExitStack) -> None:
        """Prepare; `stack` ends what was started."""
        super().__init__(state, free_port(), broker, stack, threading.Event())
        self._dns = stack.enter_context(DnsFault(DnsMode.TABLE, {_NAME: ["192.0.2.10"]}))
        self._web = stack.enter_context(WebFault())

    def prepare(self) -> None:
        """Start all but the probe."""
        self._prepare()
        print(
            f"broker: {self._start_broker()}; collector, two modems, name server and page on loopback", file=sys.stderr
        )
        for modem in MODEMS:
            self._stack.enter_context(EmulatedModem(load("village-lte"), link_path=self._state / modem))
        (self._state / "collector.toml").write_text(
            f'state_dir = "{self._state}/collector"\n{self._broker_section("collector")}[web]\nport = {self._port}\n'
        )
        self._configure(brisk=True)
        with contextlib.redirect_stdout(None):
            probe_cli.main(["init", "--config", str(self._state / "probe.toml")])
        register_demo(self._state / "collector.toml", self._state / "probe/probe.key")
        self._spawn("collector", _program("banua-collector", self._state / "collector.toml"))
        self._await("collector", lambda: "connected" in self._said("collector"))

    def kinds(self) -> set[str]:
        """Return the kinds of rows that the probe has sealed; it must have ended."""
        with contextlib.closing(sqlite3.connect(self._state / "probe/outbox.db")) as db:
            return {row.kind for (message,) in db.execute("SELECT message FROM batches") for row in open_rows(message)}

    def measure(self, seconds: int, *, brisk: bool) -> Usage:
        """Run the probe for so long after it has connected, then end it."""
        self._configure(brisk=brisk)
        self._spawn("probe", _program("banua-probe", self._state / "probe.toml"))
        probe = self._children["probe"]
        self._await("probe", lambda: "connected to" in self._said("probe"))
        start_cpu_s, began = cpu_s(probe.pid), time.monotonic()
        while time.monotonic() < began + seconds:
            self._check_children()
            time.sleep(0.5)
        proc = Path(f"/proc/{probe.pid}")
        rss_mb, peak_mb = memory_mb((proc / "status").read_text(encoding="ascii"))
        used = Usage(start_cpu_s, cpu_s(probe.pid) - start_cpu_s, time.monotonic() - began, rss_mb, peak_mb)
        probe.terminate()
        probe.wait(timeout=30)
        del self._children["probe"]
        return used

    def _said(self, name: str) -> str:
        return (self._state / f"{name}.log").read_text(errors="replace")

    def _configure(self, *, brisk: bool) -> None:
        """Write the probe's configuration, with every rate at its default unless `brisk`."""
        often = "every_s = 5\n" if brisk else ""
        sections = [f'name = "{PROBE}"\nstate_dir = "{self._state}/probe"\n{self._broker_section(PROBE)}']
        if brisk:
            sections.append("[schedule]\ncommit_s = 5\nseal_s = 5\nboard_s = 5\n")
        sections += [
            f'[[modem]]\nname = "{modem}"\ndevice = "{self._state}/{modem}"\ndialect = "quectel"\nsimulated = true\n'
            + ("poll_s = 1\nrow_s = 6\nneighbours_s = 5\n" if brisk else "")
            for modem in MODEMS
        ]
        closed = free_port()  # nothing listens there: the train fails and is traced
        sections += [
            f'[[path]]\ntarget = "loopback"\nhost = "{HOST}"\n{often}',
            f'[[path]]\ntarget = "broker"\nhost = "{HOST}"\nmethod = "tcp"\nport = {self._broker_port}\n{often}',
            f'[[path]]\ntarget = "closed"\nhost = "{HOST}"\nmethod = "tcp"\nport = {closed}\n{often}',
            *(
                f'[[dns]]\nname = "{name}"\nresolver = "{HOST}"\nport = {self._dns.port}\n{often}'
                for name in (_NAME, "sinyal-banua.invalid")
            ),
            f'[[web]]\ntarget = "responder"\nurl = "{self._web.url}/responder"\n{often}',
        ]
        (self._state / "probe.toml").write_text("".join(sections))


def cpu_s(pid: int) -> float:
    """Return user and system time of a process, all its threads, in s."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) / _TICKS


def memory_mb(status: str) -> tuple[float, float]:
    """Return VmRSS and VmHWM from a process's ``status`` (its kB are of 1024 bytes) in MB of 10^6 bytes."""
    lines = dict(line.split(":", 1) for line in status.splitlines())
    rss, peak = (int(lines[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM"))
    return rss, peak


def _program(name: str, config: Path) -> Sequence[str | Path]:
    return [Path(sys.executable).with_name(name), "run", "--config", config]
