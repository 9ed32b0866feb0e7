"""The journal's database as a part that can be killed: what differs between SQLite and PostgreSQL for these tests.

Read from outside by plain drivers; the product's own access code is never asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Protocol

import psycopg
import pytest

from tests.real.postgres import Postgres, _descendants
from tests.system.rig import rows, wait_for


class Journal(Protocol):
    """A database for the collector, in `folder`."""

    kind: ClassVar[str]
    can_be_killed: ClassVar[bool]

    def __init__(self, folder: Path) -> None: ...

    @property
    def url(self) -> str: ...

    @property
    def settings(self) -> str:
        """The collector's [database] section."""

    def start(self) -> None: ...

    def kill(self) -> None: ...

    def rows(self, query: str) -> list[Any]: ...


class SqliteJournal:
    """A file in the collector's folder; it dies with the collector."""

    kind: ClassVar[str] = "sqlite"
    can_be_killed: ClassVar[bool] = False

    def __init__(self, folder: Path) -> None:
        self.file = folder / "banua.sqlite"
        self.url = f"sqlite:///{self.file}"
        self.settings = f'[database]\nurl = "{self.url}"\n'

    def start(self) -> None:
        self.file.parent.mkdir(exist_ok=True)

    def kill(self) -> None:
        """Do nothing: there is no server."""

    def rows(self, query: str) -> list[Any]:
        return rows(self.file, query)


class PostgresJournal:
    """A cluster of its own; its data survives being killed."""

    kind: ClassVar[str] = "postgresql"
    can_be_killed: ClassVar[bool] = True

    def __init__(self, folder: Path) -> None:
        self.server = Postgres(folder)
        self.url = self.server.url("banua")
        self.settings = f'[database]\nurl = "{self.url}"\npassword_file = "{self.server.password_file}"\n'
        self._made = False

    def start(self) -> None:
        self.server.start()
        if not self._made:
            self.server.create("banua")
            self._made = True

    def kill(self) -> None:
        """Kill all its processes and wait for the last: until then another server may not take their place."""
        doomed = (
            [Path("/proc") / str(pid) for pid in _descendants(self.server.process.pid)] if self.server.process else []
        )
        self.server.kill()
        wait_for("the server's processes to go", lambda: not any(process.exists() for process in doomed))
        for lock in self.server.home.glob(".s.PGSQL.*"):
            lock.unlink()

    def rows(self, query: str) -> list[Any]:
        with psycopg.connect(self.server.dsn("banua"), connect_timeout=5) as conn:
            return conn.execute(query.encode()).fetchall()


def on(*kinds: type[Journal]) -> pytest.MarkDecorator:
    """Run a test on each of these databases."""
    return pytest.mark.parametrize("journal", kinds, indirect=True, ids=lambda kind: kind.kind)
