"""`make run` from the README: live values of this machine within 60 s, a clean stop, a second start, a busy port."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from banua_lab.ports import free_port
from tests.real.parts import ROOT, require_real

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(400)]

PLAIN_PATH = "/usr/local/bin:/usr/bin:/bin"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree as a fresh clone would have it, set up by its own Makefile, readable by everybody."""
    folder = tmp_path_factory.mktemp("clone")
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=False,
    ).stdout.split(b"\0")  # fmt: skip
    names = [os.fsdecode(name) for name in listed if name] or _walk()
    for name in names:
        if (ROOT / name).is_file():
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "tree" / name)
    home = folder / "home"
    home.mkdir()
    environment = {"HOME": str(home), "PATH": PLAIN_PATH}
    subprocess.run(["make", "setup"], cwd=folder / "tree", env=environment, check=True, timeout=300)
    return folder


def _walk() -> list[str]:
    return [str(file.relative_to(ROOT)) for file in ROOT.rglob("*") if ".venv" not in file.parts]


@contextlib.contextmanager
def make_run(clone: Path, home: Path, arguments: str, user: str | None = None) -> Iterator[tuple[Any, list[str]]]:
    environment = ["env", "-i", f"HOME={home}", f"PATH={PLAIN_PATH}"]
    command = [*environment, "make", "run", f"ARGS={arguments}"]
    if user is not None:
        command = [require_real("runuser"), "-u", user, "--", *command]
    lines: list[str] = []
    with subprocess.Popen(
        command, cwd=clone / "tree", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            yield process, lines
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C does: the whole foreground group gets it
            lines += process.stdout or []
            process.wait(timeout=60)


def shown(port: int) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/status.json", timeout=5) as answer:
        told: dict[str, Any] = json.load(answer)
    readings = sorted(told["probes"][0]["readings"], key=lambda reading: len(reading["values"]))
    return {reading["kind"]: reading for reading in readings}  # the fullest of each: nobody may not send ICMP


@pytest.mark.parametrize("broker", ["mosquitto", "amqtt"])
@pytest.mark.parametrize("user", [None, "nobody"])
def test_make_run_shows_live_values_of_this_machine(clone: Path, tmp_path: Path, user: str | None, broker: str) -> None:
    if user is not None and os.geteuid() != 0:
        user = None  # we are an unprivileged user already
    if broker == "mosquitto":
        require_real("mosquitto")
    port, home = free_port(), tmp_path / "home"
    home.mkdir()
    if user is not None:
        for parent in (tmp_path, *tmp_path.parents[:2]):
            parent.chmod(0o755)
        os.chown(home, pwd.getpwnam(user).pw_uid, -1)
    for start in ("first", "second"):
        began = time.monotonic()
        with make_run(clone, home, f"--port {port} --broker {broker}", user) as (process, lines):
            for line in process.stdout:
                lines.append(line)
                if "Ctrl-C" in line:
                    break
            assert time.monotonic() - began <= 60, f"{start} start"
            told = "".join(lines)
            assert f"http://127.0.0.1:{port}/" in told
            assert re.search(rf"broker: {broker}", told)
            kinds = shown(port)
            uptime = next(v["value"] for v in kinds["board"]["values"] if v["name"] == "uptime_s")
            assert abs(float(Path("/proc/uptime").read_text().split()[0]) - uptime) < 120, "the board's own uptime"
            assert kinds["radio"]["simulated"] is True
            assert kinds["board"]["simulated"] is False
            rtt = next(v["value"] for v in kinds["path"]["values"] if v["name"] == "rtt_min_ms")
            assert 0 < rtt < 1000
        assert any(line.startswith("stopped; what was measured is kept in") for line in lines), "".join(lines)
        with pytest.raises(OSError, match="refused"), socket.create_connection(("127.0.0.1", port), timeout=1):
            pass
    assert [path.name for path in (home / ".local/state").iterdir()] == ["sinyal-banua-demo"]


def test_a_port_in_use_is_one_clear_line(clone: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with make_run(clone, tmp_path, f"--port {port}") as (process, lines):
            lines.extend(process.stdout)
    told = "".join(lines)
    assert f"banua-lab demo: port {port} is in use; choose another" in told
    assert "Traceback" not in told
    assert process.returncode != 0
