"""A probe's clock that is wrong, and steps: rows keep their order and their number, and their times own up to it."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.faults.harness import Settings, World
from tests.faults.journals import SqliteJournal, on
from tests.faults.voice import Voice

if TYPE_CHECKING:
    from pathlib import Path

    from banua_lab.ca import Authority
    from tests.faults.journals import Journal
    from tests.real.influxd import Influxd

pytestmark = [pytest.mark.faults, pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(300)]

PROBES = 5
ERROR_MS = 2
"""Less than the kernel ever claims: a worse anchor would not count beside the collector's."""
STEPS_MS = (0, 3_600_000, -86_400_000, 0)
PHASE_S = 3


@on(SqliteJournal)
def test_a_clock_that_steps_doubles_nothing_and_its_times_own_up_to_it(
    tmp_path: Path, authority: Authority, influxd: Influxd, bucket: str, journal: Journal, seed: int
) -> None:
    """The kernel vouches for an hour ahead, then a day behind, then nobody does; a new boot makes all of it written.

    A row between anchors of one wrong clock stands where that clock was; one between clocks that disagree has an error
    that covers both. Nothing else may happen.
    """
    file = tmp_path / "clock"
    settings = Settings(probes=PROBES, load_options=["--clock", str(file)])
    with World(tmp_path, authority, (influxd, bucket), journal, seed, settings) as world:
        world.begin()
        for step_ms in STEPS_MS:
            file.with_suffix(".new").write_text(f"{step_ms} {ERROR_MS}")
            file.with_suffix(".new").rename(file)
            time.sleep(PHASE_S)
        file.unlink()
        time.sleep(PHASE_S)
        world.settle(dated=False)
        assert world.withheld(), "no row stood between clocks that disagree"
        now_ms = time.time_ns() // 1_000_000
        with ExitStack() as stack:
            for name in world.names:
                voice = stack.enter_context(Voice(world, name))
                voice.insist(voice.boot(now_ms, [1]))
        world.projected()
        evidence = world.evidence()
        evidence.claims = tuple(sorted(set(STEPS_MS)))
        world.compare(evidence)
