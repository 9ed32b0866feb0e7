"""The processes of a bench: a broker, an InfluxDB and a collector on loopback, and what each of them uses.

They speak without TLS, as they may on one machine; their files are in a folder of the bench's own.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from banua_lab.ports import HOST, free_port

START_S: Final = 40
SAMPLE_S: Final = 0.1
_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_TOOLS: Final = Path(__file__).resolve().parents[3] / "tools"


class BenchError(Exception):
    """What keeps a bench from running, in one line."""


class Server:
    """A child process with its files and log in `folder`; a context manager that ends it."""

    def __init__(self, name: str, folder: Path, command: Sequence[str | Path], ready: Callable[[], bool]) -> None:
        """Start `command` and wait until it is `ready`; BenchError when it does not get there."""
        self.name = name
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder)
        deadline = time.monotonic() + START_S
        while not ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise BenchError(f"{name} did not start: {self._last_words()}")
            time.sleep(0.05)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End it; whatever it does not finish within 15 s is of no interest."""
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def check(self) -> None:
        """Raise BenchError when it has ended."""
        if self._process.poll() is not None:
            raise BenchError(f"{self.name} has ended: {self._last_words()}")

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep it from running while the context lasts."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    @property
    def cpu_s(self) -> float:
        """CPU seconds used so far, user and system, by all its threads."""
        return _cpu_s(Path(f"/proc/{self._process.pid}/stat"))

    @property
    def main_cpu_s(self) -> float:
        """CPU seconds used so far by its first thread."""
        return _cpu_s(Path(f"/proc/{self._process.pid}/task/{self._process.pid}/stat"))

    @property
    def rss_mb(self) -> float:
        """Resident memory in 10^6 bytes."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * _PAGE_BYTES / 1e6

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def _cpu_s(stat: Path) -> float:
    fields = stat.read_text().rpartition(")")[2].split()  # the name before it may have spaces
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


class Memory:
    """Samples the resident memory of a server for as long as the context lasts."""

    def __init__(self, server: Server) -> None:
        """Prepare; entering the context starts it."""
        self._server, self._ended = server, threading.Event()
        self._samples: list[float] = []
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            self._samples.append(self._server.rss_mb)

    def quarters(self) -> list[float]:
        """Return the highest sample (MB) of each quarter of the time since the start."""
        samples = self._samples or [self._server.rss_mb]
        ends = [len(samples) * quarter // 4 for quarter in range(5)]
        return [max(samples[start : max(end, start + 1)]) for start, end in pairwise(ends)]


class Mosquitto(Server):
    """A broker that keeps every message until it is taken."""

    def __init__(self, folder: Path) -> None:
        """Start it."""
        program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if program is None:
            raise BenchError("mosquitto is not installed; apt-get install mosquitto")
        self.port = free_port()
        config = folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} {HOST}\nallow_anonymous true\nmax_queued_messages 0\n"
            "log_dest stderr\nlog_type error\n" + ("user root\n" if os.geteuid() == 0 else "")
        )
        super().__init__("mosquitto", folder, [program, "-c", config], lambda: listening(self.port))


class Influxd(Server):
    """An InfluxDB 2.7, set up with an organisation and a token."""

    org: Final = "banua"

    def __init__(self, folder: Path) -> None:
        """Start it and set it up."""
        program = found("influxd")
        port = free_port()
        self.url, self.token = f"http://{HOST}:{port}", secrets.token_hex(16)
        command = [
            program,
            f"--bolt-path={folder / 'influxd.bolt'}",
            f"--engine-path={folder / 'engine'}",
            f"--sqlite-path={folder / 'influxd.sqlite'}",
            f"--http-bind-address={HOST}:{port}",
            "--reporting-disabled",
            "--log-level=error",
        ]
        super().__init__("influxd", folder, command, lambda: get(f"{self.url}/health") is not None)
        setup = {"username": "bench", "password": secrets.token_hex(8), "org": self.org, "bucket": "first"}
        self._post("/api/v2/setup", setup | {"token": self.token})
        self._org_id: str = json.loads(self._ask(f"/api/v2/orgs?org={self.org}"))["orgs"][0]["id"]

    def create_bucket(self, name: str) -> None:
        """Make an empty bucket."""
        self._post("/api/v2/buckets", {"orgID": self._org_id, "name": name})

    def query(self, bucket: str, influxql: str) -> list[dict[str, Any]]:
        """Return the rows that `influxql` selects, by column name, times in ns."""
        words = urllib.parse.urlencode({"db": bucket, "q": influxql, "epoch": "ns"})
        [result] = json.loads(self._ask(f"/query?{words}"))["results"]
        return [
            dict(zip(series["columns"], values, strict=True))
            for series in result.get("series", [])
            for values in series["values"]
        ]

    def count(self, bucket: str) -> int:
        """Return how many radio rows stand in `bucket`."""
        rows = self.query(bucket, "SELECT count(time_error_ms) FROM radio")
        return int(rows[0]["count"]) if rows else 0

    def await_rows(self, bucket: str, count: int, within_s: float, *watched: Server) -> None:
        """Wait until `count` radio rows stand in `bucket`; BenchError when they do not in time."""
        deadline = time.monotonic() + within_s
        while (there := self.count(bucket)) < count:
            for server in watched:
                server.check()
            if time.monotonic() > deadline:
                raise BenchError(f"{there} of {count} rows stand in InfluxDB after {within_s:.0f} s")
            time.sleep(0.5)

    def _post(self, path: str, body: dict[str, str]) -> None:
        self._ask(path, json.dumps(body).encode())

    def _ask(self, path: str, body: bytes | None = None) -> str:
        request = urllib.request.Request(self.url + path, data=body)  # noqa: S310 (our own server on loopback)
        request.add_header("Authorization", f"Token {self.token}")
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return str(answer.read().decode())


class Collector(Server):
    """The collector as it is run: its journal in `folder`, its projection to `bucket`, or none."""

    def __init__(self, folder: Path, broker: Mosquitto, influx: Influxd | None, bucket: str = "") -> None:
        """Start it and wait until it has subscribed; the journal may be there already."""
        web = free_port()
        text = (
            f'state_dir = "{folder}"\n[broker]\nhost = "{HOST}"\nport = {broker.port}\ntls = false\n'
            f"[web]\nport = {web}\n"
        )
        if influx is not None:
            token = folder / "influx.token"
            token.touch(mode=0o600)
            token.write_text(influx.token)
            text += (
                f'[influx]\nurl = "{influx.url}"\norg = "{influx.org}"\nbucket = "{bucket}"\ntoken_file = "{token}"\n'
            )
        config = folder / "collector.toml"
        config.write_text(text)
        code = "import sys, banua_collector.cli as cli; sys.exit(cli.main())"
        command: list[str | Path] = [sys.executable, "-c", code, "run", "--config", config]
        super().__init__("collector", folder, command, lambda: get(f"http://{HOST}:{web}/readyz") is not None)


def found(name: str) -> str:
    """Return the program `name` that the checkout's ``tools/get-NAME`` made; BenchError tells how to get it."""
    tool = _TOOLS / f"get-{name}"
    if not tool.exists():
        raise BenchError(f"{name} is got by tools/get-{name}, which only a checkout has")
    answer = subprocess.run([tool, "--no-build"], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise BenchError(f"{name} is missing; tools/get-{name} makes it")
    return answer.stdout.strip()


def listening(port: int) -> bool:
    """Say whether something listens on `port`."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


def get(url: str) -> str | None:
    """Return what `url`, on loopback, answers; None for anything but a success."""
    with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310
        return str(answer.read().decode())
    return None
