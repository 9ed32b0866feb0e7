"""`make run`: broker, collector and this machine's own probe, without root, in one folder, until Ctrl-C.

The board and the round trips to the demo's own broker and page are measured for real; the modem is simulated, and says
so wherever its values show.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from banua_lab.ca import Authority
from banua_lab.modem import EmulatedModem
from banua_lab.ports import HOST, free_port
from banua_lab.scenario import load
from banua_probe import cli as probe_cli

PROBE: Final = "contoh-1"
VILLAGE: Final = "63.71.01.1001"
START_S: Final = 40
"""How long each part may take to start."""


class DemoError(Exception):
    """What keeps the demo from running, in one line."""


def default_state() -> Path:
    """Return the folder that holds all of the demo's state."""
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
    with contextlib.suppress(OSError):
        home.mkdir(parents=True, exist_ok=True)
        if os.access(home, os.W_OK):
            return home / "sinyal-banua-demo"
    return Path(tempfile.gettempdir()) / f"sinyal-banua-demo-{os.getuid()}"


def run(state: Path, port: int, broker: str) -> int:
    """Run the demo with its state in `state`, its page on `port`; `broker` is auto, mosquitto or amqtt."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    try:
        with contextlib.ExitStack() as stack:
            Demo(state, port, broker, stack, stop).run()
    except DemoError as error:
        print(f"banua-lab demo: {error}", file=sys.stderr)
        return 1
    print("stopped; what was measured is kept in", state)
    return 0


class Demo:
    """The parts of the demo, started one after another."""

    def __init__(self, state: Path, port: int, broker: str, stack: contextlib.ExitStack, stop: threading.Event) -> None:
        """Prepare; `stack` ends what was started, in reverse order."""
        self._state, self._port, self._broker, self._stack, self._stop = state, port, broker, stack, stop
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._broker_port = free_port()
        self._broker_name = ""
        self._began_ms = time.time_ns() // 1_000_000

    def run(self) -> None:
        """Start everything, say where to look, wait to be stopped."""
        url = f"http://{HOST}:{self._port}/"
        print(f"Sinyal Banua demo: polls and seals every 10 s (a real probe: a row a minute); state in {self._state}")
        self._prepare()
        self._say(1, f"broker: {self._start_broker()} on {HOST}:{self._broker_port}, TLS")
        self._start_modem()
        self._say(2, "modem: SIMULATED, a weak LTE cell (village-lte)")
        self._register()
        self._spawn("collector", _main("banua_collector.cli", "run", "--config", self._state / "collector.toml"))
        self._await("collector", lambda: _get(f"{url}healthz") is not None)
        self._say(3, "collector: journal in SQLite, pages up")
        self._spawn("probe", _main("banua_probe.cli", "run", "--config", self._state / "probe.toml"))
        self._say(4, f"probe {PROBE}: this board, round trips to the demo's own broker and page")
        self._await("probe", lambda: self._has_values(url))
        self._say(5, "first values have arrived")
        print(f"\n    open {url}\n\nCtrl-C stops it.", flush=True)
        while not self._stop.wait(0.5):
            self._check_children()

    # --- parts --------------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        _refuse_busy(self._port)
        try:
            self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._state.stat().st_uid != os.getuid():
                raise DemoError(f"state folder {self._state}: belongs to somebody else")
            self._authority = Authority.create(self._state / "tls")
        except OSError as error:
            raise DemoError(f"state folder {self._state}: {error.strerror}") from error

    def _start_broker(self) -> str:
        mosquitto = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
        if self._broker == "mosquitto" and mosquitto is None:
            raise DemoError("mosquitto is not installed; apt install mosquitto, or --broker amqtt")
        name = self._broker_name = "amqtt" if self._broker == "amqtt" or mosquitto is None else "mosquitto"
        server = self._authority.issue_server("broker")
        if name == "mosquitto" and mosquitto is not None:
            config = self._state / "mosquitto.conf"
            config.write_text(_mosquitto(self._broker_port, self._authority.cafile, server.cert, server.key))
            command: Sequence[str | Path] = [mosquitto, "-c", config]
        else:
            config = self._state / "amqtt.json"  # JSON is YAML
            config.write_text(_amqtt(self._broker_port, self._authority.cafile, server.cert, server.key))
            command = [sys.executable, "-m", "amqtt.scripts.broker_script", "-c", config]
        self._spawn("broker", command)
        self._await("broker", lambda: _listening(self._broker_port))
        return name

    def _start_modem(self) -> None:
        link = self._state / "modem"
        self._stack.enter_context(EmulatedModem(load("village-lte"), link_path=link))

    def _register(self) -> None:
        """Write both configurations; make the probe's key and register it, its place and its deployment, once."""
        broker = self._broker_section
        (self._state / "collector.toml").write_text(
            f'state_dir = "{self._state}/collector"\n{broker("collector")}[web]\nport = {self._port}\n'
        )
        (self._state / "probe.toml").write_text(
            _PROBE.format(state=self._state, broker=broker(PROBE), broker_port=self._broker_port, web=self._port)
        )
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
            if probe_cli.main(["init", "--config", str(self._state / "probe.toml")]):
                raise DemoError("the probe's key could not be made")
        register_demo(self._state / "collector.toml", Path(self._state / "probe/probe.key"))

    def _broker_section(self, name: str) -> str:
        credential = self._authority.issue_client(name)
        protocol = "3.1.1" if self._broker_name == "amqtt" else "auto"
        return (
            f'[broker]\nhost = "{HOST}"\nport = {self._broker_port}\nca_file = "{self._authority.cafile}"\n'
            f'cert_file = "{credential.cert}"\nkey_file = "{credential.key}"\nprotocol = "{protocol}"\n'
        )

    # --- processes ----------------------------------------------------------------------------------------------------

    def _spawn(self, name: str, command: Sequence[str | Path]) -> None:
        log = self._stack.enter_context((self._state / f"{name}.log").open("wb"))
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=self._state
        )
        self._children[name] = child
        self._stack.callback(_end, child)

    def _check_children(self) -> None:
        for name, child in self._children.items():
            if child.poll() is not None:
                text = (self._state / f"{name}.log").read_text(errors="replace").strip().splitlines()
                raise DemoError(f"{name} has ended: {text[-1] if text else f'exit code {child.returncode}'}")

    def _await(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_S
        while not ready():
            self._check_children()
            if self._stop.wait(0.1):
                raise DemoError("stopped while starting")
            if time.monotonic() > deadline:
                raise DemoError(f"{name} did not start within {START_S} s; see {self._state / f'{name}.log'}")

    def _has_values(self, url: str) -> bool:
        text = _get(f"{url}status.json")
        probes = json.loads(text)["probes"] if text else []
        probes = [probe for probe in probes if (probe["last_received_ms"] or 0) >= self._began_ms]
        kinds = {reading["kind"] for probe in probes for reading in probe["readings"]}
        return {"radio", "board", "path"} <= kinds

    def _say(self, number: int, text: str) -> None:
        print(f"[{number}/5] {text}", flush=True)


_PROBE: Final = """\
name = "contoh-1"
state_dir = "{state}/probe"
{broker}
[schedule]
commit_s = 10
seal_s = 10
board_s = 10
[[modem]]
name = "sim0"
device = "{state}/modem"
dialect = "quectel"
poll_s = 10
row_s = 10
simulated = true
[[path]]
target = "broker"
host = "127.0.0.1"
method = "tcp"
port = {broker_port}
every_s = 10
count = 5
interval_ms = 200
[[path]]
target = "loopback"
host = "127.0.0.1"
every_s = 10
count = 5
interval_ms = 200
trace = false
[[web]]
target = "responder"
url = "http://127.0.0.1:{web}/responder"
every_s = 10
[[path]]
target = "page"
host = "127.0.0.1"
method = "tcp"
port = {web}
every_s = 10
count = 5
interval_ms = 200
"""


def register_demo(config_file: Path, key_file: Path) -> None:
    """Register the demo's probe, place and deployment in its journal, where that is not done yet."""
    from banua_collector import registry  # noqa: PLC0415 (loads the database layer)
    from banua_collector.app import engine_of  # noqa: PLC0415
    from banua_collector.clock import wall_ms  # noqa: PLC0415
    from banua_collector.config import load as load_config  # noqa: PLC0415
    from banua_collector.db import migrate  # noqa: PLC0415
    from banua_wire.signature import public_of  # noqa: PLC0415

    engine = engine_of(load_config(config_file).database)
    migrate(engine)
    now = wall_ms()
    public = public_of(bytes.fromhex(key_file.read_text().strip()))
    with engine.begin() as conn:
        registry.load_villages(conn)
        names = {probe.name for probe in registry.list_probes(conn)}
        if PROBE not in names:
            registry.add_probe(conn, PROBE, public, now_ms=now)
            registry.add_place(conn, VILLAGE, "contoh", "Contoh (demo)", None, None)
            registry.deploy(conn, PROBE, "contoh", now - 60_000)
        elif public not in {key.public_key for key in registry.keys_of(conn, PROBE)}:
            registry.add_key(conn, PROBE, public, now_ms=now)
    engine.dispose()


def _mosquitto(port: int, ca: Path, cert: Path, key: Path) -> str:
    acl = next(file for file in (Path(__file__).parent / "acl", _CHECKOUT_ACL) if file.exists())
    return (
        f"listener {port} {HOST}\ncafile {ca}\ncertfile {cert}\nkeyfile {key}\nrequire_certificate true\n"
        f"use_identity_as_username true\nallow_anonymous false\nacl_file {acl}\nlog_dest stderr\n"
        + ("user root\n" if os.geteuid() == 0 else "")
    )


_CHECKOUT_ACL: Final = Path(__file__).resolve().parents[2] / "deploy/mosquitto/acl"


def _amqtt(port: int, ca: Path, cert: Path, key: Path) -> str:
    listener = {"type": "tcp", "bind": f"{HOST}:{port}", "ssl": True} | {
        "cafile": str(ca),
        "certfile": str(cert),
        "keyfile": str(key),
    }
    anonymous = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    return json.dumps({"listeners": {"default": listener}, "plugins": anonymous})


def _main(module: str, *arguments: str | Path) -> list[str | Path]:
    return [sys.executable, "-c", f"import sys, {module} as cli; sys.exit(cli.main())", *arguments]


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(timeout=15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _refuse_busy(port: int) -> None:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((HOST, port))
        except OSError:
            raise DemoError(f"port {port} is in use; choose another: make run ARGS='--port 8090'") from None


def _listening(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1):
            return True
    except OSError:
        return False


def _get(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 (our own loopback page)
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError):
        return None
