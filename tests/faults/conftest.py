"""What the fault tests share: a seed, a world of twenty probes, and the count of kills at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.harness import KILLS, World, seed_of_this_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from banua_lab.ca import Authority
    from tests.faults.journals import Journal
    from tests.real.influxd import Influxd


@pytest.fixture
def seed() -> int:
    return seed_of_this_run()


@pytest.fixture
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Journal:
    made: Journal = request.param(tmp_path / "journal")
    return made


@pytest.fixture
def world(
    tmp_path: Path, authority: Authority, influxd: Influxd, bucket: str, journal: Journal, seed: int
) -> Iterator[World]:
    with World(tmp_path, authority, (influxd, bucket), journal, seed) as made:
        yield made


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if KILLS:
        told = ", ".join(f"{name} {count}" for name, count in sorted(KILLS.items()))
        terminalreporter.write_line(f"kills with work in flight: {sum(KILLS.values())} ({told})")
