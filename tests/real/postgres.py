"""A real PostgreSQL cluster of our own in a temporary folder, on loopback, with a password as offices have it."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import psycopg
import pytest

from tests.real.parts import require_real
from tests.real.server import Server

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType


class Postgres(Server):
    """A cluster that survives stop, kill and start. As root it runs as `postgres`: the server refuses root."""

    name: ClassVar[str] = "postgres"
    user: ClassVar[str] = "banua"

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        super().__init__(folder)
        self.bin = Path(require_real("initdb")).parent
        self.home = Path(tempfile.mkdtemp(prefix="banua-postgres-"))  # pytest closes its own folders to other users
        self.data = self.home / "data"
        self.password = secrets.token_urlsafe(16)
        self.password_file = folder / "password"
        self.password_file.write_text(self.password)
        self.password_file.chmod(0o600)
        self.settings = {
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": str(self.home),
            "max_connections": "60",
            "fsync": "on" if durable else "off",
        }
        self._initialised = False

    def command(self) -> Sequence[str]:
        settings = [word for name, value in self.settings.items() for word in ("-c", f"{name}={value}")]
        return [*self._as_server(), str(self.bin / "postgres"), "-D", str(self.data), *settings]

    def start(self, deadline_s: float = 30) -> None:
        if not self._initialised:
            self._initialise()
        super().start(deadline_s)

    def kill(self) -> None:
        """End all of its processes as a power cut would."""
        if self.process is None:
            return
        pids = [self.process.pid, *_descendants(self.process.pid)]
        for pid in reversed(pids):
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue
        self.process.wait()
        self.process = None
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def stop(self, deadline_s: float = 15) -> None:
        if self.process is None:
            return
        subprocess.run(
            [*self._as_server(), self.bin / "pg_ctl", "-D", self.data, "-m", "fast", "-w", "stop"],
            check=False,
            capture_output=True,
            cwd=self.home,
        )
        self.process.wait(deadline_s)
        self.process = None

    def ready(self) -> bool:
        try:
            with psycopg.connect(self.dsn("postgres"), connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False

    def dsn(self, database: str) -> str:
        return f"host={self.host} port={self.port} user={self.user} password={self.password} dbname={database}"

    def url(self, database: str) -> str:
        """Return what `database.url` of the collector's settings says; the password is in `password_file`."""
        return f"postgresql://{self.user}@{self.host}:{self.port}/{database}"

    def create(self, database: str) -> str:
        """Make an empty database and return its name."""
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as conn:
            conn.execute(f'CREATE DATABASE "{database}"')
        return database

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        shutil.rmtree(self.home, ignore_errors=True)

    def _as_server(self) -> list[str]:
        return ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []

    def _initialise(self) -> None:
        words = [*self._as_server(), str(self.bin / "initdb"), "-D", str(self.data), "-U", self.user, "-A"]
        words += ["scram-sha-256", f"--pwfile={self.home}/asked", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8"]
        if self._as_server():
            shutil.chown(self.home, "postgres")
        asked = self.home / "asked"
        asked.write_text(self.password)
        asked.chmod(0o644)  # for as long as initdb takes, below a folder of mode 0700
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=self.home)
        asked.unlink()
        if done.returncode:
            pytest.fail(f"initdb: {done.stderr}", pytrace=False)
        self._initialised = True


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            found = re.match(r"(\d+) \(.*\) \S (\d+)", stat.read_text(), re.DOTALL)
        except OSError:
            continue
        if found:
            children.setdefault(int(found[2]), []).append(int(found[1]))
    wanted = list(children.get(pid, []))
    for child in wanted:
        wanted += children.get(child, [])
    return wanted
