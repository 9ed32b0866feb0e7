"""What the collector's tests share: an empty, migrated database of its own for each test, on either kind of server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, text

from banua_collector import db
from banua_collector.tables import journal, metadata
from tests.real.postgres import Postgres

BORN_MS = 1_760_000_000_000
MONTHS = ("1970-01", "2025-09", "2025-10")
"""When batches of tests are received that are journalled without the ingest, which makes a month's partition."""


@pytest.fixture
def sqlite_engine(tmp_path: Path) -> Iterator[Engine]:
    engine = db.open_engine(f"sqlite:///{tmp_path}/banua.sqlite")
    db.migrate(engine, now_ms=lambda: BORN_MS)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A cluster without fsync: logic is tested here, not power cuts."""
    with Postgres(tmp_path_factory.mktemp("postgres"), durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def migrated(postgres: Postgres) -> Iterator[Engine]:
    engine = db.open_engine(postgres.url(postgres.create("banua")), postgres.password)
    db.migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def migrated_too(postgres: Postgres) -> Iterator[Engine]:
    engine = db.open_engine(postgres.url(postgres.create("rebuilt")), postgres.password)
    db.migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def postgres_engine(postgres: Postgres, migrated: Engine) -> Iterator[Engine]:
    """Give the one migrated database, emptied: a new one for each test would cost a checkpoint each."""
    yield from _emptied(postgres, migrated, "banua")


def _emptied(postgres: Postgres, migrated: Engine, name: str) -> Iterator[Engine]:
    with migrated.begin() as conn:
        head = conn.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
        conn.execute(text(f"TRUNCATE {', '.join(table.name for table in metadata.sorted_tables)} RESTART IDENTITY"))
        conn.execute(insert(journal).values(journal_id=db.new_journal_id(), minted_ms=BORN_MS))
    engine = db.open_engine(postgres.url(name), postgres.password)
    for month in MONTHS:
        db.ensure_month(engine, month)
    yield engine
    engine.dispose()
    with migrated.begin() as conn:
        conn.execute(text("UPDATE alembic_version SET version_num = :head"), {"head": head})


@pytest.fixture(
    params=[
        pytest.param("sqlite", marks=pytest.mark.both),
        pytest.param("postgresql", marks=[pytest.mark.both, pytest.mark.real]),
    ]
)
def engine(request: pytest.FixtureRequest) -> Engine:
    """Give a test both databases, one after the other: what is true of one is true of the other."""
    engine: Engine = request.getfixturevalue("sqlite_engine" if request.param == "sqlite" else "postgres_engine")
    return engine


@pytest.fixture
def fresh(engine: Engine, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Give a second, empty journal on the same kind of database as `engine`."""
    if engine.dialect.name == db.POSTGRESQL:
        migrated_too: Engine = request.getfixturevalue("migrated_too")
        yield from _emptied(request.getfixturevalue("postgres"), migrated_too, "rebuilt")
        return
    other = db.open_engine(f"sqlite:///{tmp_path}/rebuilt.sqlite")
    db.migrate(other, now_ms=lambda: BORN_MS)
    yield other
    other.dispose()
