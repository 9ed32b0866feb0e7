"""A whole chain in one folder: a probe process, a collector process, and what tests ask of them from outside.

The probe and the collector are started by their own commands, killed without warning where a test says so, and looked
into only through their databases, logs and pages.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Self, TypeVar

from banua_lab.ports import free_port
from banua_probe.outbox_file import copied

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from banua_lab.ca import Authority
    from tests.real.amqtt_broker import Amqtt
    from tests.real.influxd import Influxd
    from tests.real.mosquitto import Mosquitto

T = TypeVar("T")

PROBE = "kalsel-0001"
VILLAGE = "63.01.01.2001"


class Rig:
    """One broker, one collector and any number of probes; a context manager that ends what it started."""

    def __init__(
        self,
        folder: Path,
        broker: Mosquitto | Amqtt,
        authority: Authority,
        influx: tuple[Influxd, str] | None = None,
        limits: str = "",
        *,
        tls: bool = True,
    ) -> None:
        self.folder, self.broker, self.authority, self.influx = folder, broker, authority, influx
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.web_port = free_port()
        folder.mkdir(exist_ok=True)
        self.collector_config = folder / "collector.toml"
        self.tls = tls
        text = f"""\
state_dir = "{folder}/collector"
{limits}
{self.broker_section("collector")}
[web]
port = {self.web_port}
"""
        if influx is not None:
            server, bucket = influx
            token = folder / "influx.token"
            token.touch(mode=0o600)
            token.write_text(server.token)
            text += (
                f'[influx]\nurl = "{server.url}"\norg = "{server.org}"\nbucket = "{bucket}"\ntoken_file = "{token}"\n'
            )
        self.collector_config.write_text(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self.processes):
            self.kill(name)

    def broker_section(self, name: str) -> str:
        """Return the [broker] section of `name`."""
        text = f'[broker]\nhost = "127.0.0.1"\nport = {self.broker.port}\n'
        if not self.tls:
            return text + "tls = false\n"
        credential = self.authority.issue_client(name)
        return text + (
            f'ca_file = "{self.authority.cafile}"\ncert_file = "{credential.cert}"\nkey_file = "{credential.key}"\n'
        )

    # --- processes ----------------------------------------------------------------------------------------------------

    def start(self, name: str, command: Sequence[str], crash: str = "") -> None:
        """Start `command` as `name`; its output goes to a log of that name."""
        self.kill(name)
        environment = os.environ | ({"BANUA_CRASH_AT": crash} if crash else {})
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )

    def kill(self, name: str, number: int = signal.SIGKILL) -> int | None:
        """End the process `name` with a signal and return its exit code."""
        process = self.processes.pop(name, None)
        if process is None:
            return None
        if process.poll() is None:
            os.killpg(process.pid, number)  # a tracer's tracee, too
        return process.wait(timeout=60)

    def ended(self, name: str) -> bool:
        """Say whether the process `name` has ended by itself."""
        return self.processes[name].poll() is not None

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    # --- collector ----------------------------------------------------------------------------------------------------

    def collector(self, *words: str) -> str:
        """Run one `banua-collector` command and return what it prints."""
        done = subprocess.run(
            [*module("banua_collector.cli"), *words, "--config", str(self.collector_config)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start_collector(self, crash: str = "", prefix: Sequence[str] = ()) -> None:
        command = [*prefix, *module("banua_collector.cli"), "run", "--config", str(self.collector_config)]
        self.start("collector", command, crash)

    @property
    def journal(self) -> Path:
        return self.folder / "collector" / "banua.sqlite"

    def sql(self, query: str, *values: object) -> list[Any]:
        """Return rows of the collector's database, read from outside."""
        return rows(self.journal, query, *values)

    # --- probes -------------------------------------------------------------------------------------------------------

    def add_probe(
        self, name: str = PROBE, body: str = "", *, schedule: str = "commit_s = 1\nseal_s = 1\nboard_s = 2"
    ) -> Path:
        """Write a probe's configuration, make its key, register it, and return its folder."""
        folder = self.folder / name
        folder.mkdir()
        (folder / "probe.toml").write_text(f"""\
name = "{name}"
state_dir = "{folder}/state"
{self.broker_section(name)}
[schedule]
{schedule}
{body}
""")
        key = subprocess.run(
            [*module("banua_probe.cli"), "init", "--config", str(folder / "probe.toml")],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.strip()
        self.collector("probes", "add", name, "--key", key)
        return folder

    def start_probe(self, name: str = PROBE, crash: str = "") -> None:
        config = self.folder / name / "probe.toml"
        self.start(name, [*module("banua_probe.cli"), "run", "--config", str(config)], crash)

    def has_outbox(self, name: str) -> bool:
        """Say whether a probe has made its outbox yet."""
        file = self.folder / name / "state" / "outbox.db"
        return file.exists() and bool(rows(file, "SELECT 1 FROM meta WHERE name = 'stream'"))

    def outbox(self, name: str, query: str, *values: object) -> list[Any]:
        """Return rows of a probe's outbox, read from outside."""
        return rows(self.folder / name / "state" / "outbox.db", query, *values)


def module(name: str) -> list[str]:
    """Return the command that runs a module's `main` with this interpreter: PYTHONPATH decides whose code runs."""
    return [sys.executable, "-c", f"import sys, {name} as cli; sys.exit(cli.main())"]


def rows(file: Path, query: str, *values: object) -> list[Any]:
    """Return rows of a database; a probe's outbox is locked while it runs, so of a copy."""
    if file.name == "outbox.db":
        with copied(file) as copy:
            return copy.execute(query, values).fetchall()
    db = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10)
    try:
        return db.execute(query, values).fetchall()
    finally:
        db.close()


def wait_for(what: str, ask: Callable[[], T], within_s: float = 30.0) -> T:
    """Return the first true answer of `ask`; fail naming `what` when there is none in time."""
    deadline = time.monotonic() + within_s
    while True:
        answer = ask()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.1)


def truth_lines(file: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a truth file."""
    text = file.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
