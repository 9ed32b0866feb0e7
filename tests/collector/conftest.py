"""What the collector's tests share: an empty, migrated database in a folder of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from banua_collector import db


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = db.open_engine(f"sqlite:///{tmp_path}/banua.sqlite")
    db.migrate(engine, now_ms=lambda: 1_760_000_000_000)
    yield engine
    engine.dispose()
