"""Random kills of every part with work in flight, and kills at every named point: nothing is lost, nothing doubled."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.faults.harness import storm
from tests.faults.journals import PostgresJournal, SqliteJournal, on
from tests.system.rig import wait_for

if TYPE_CHECKING:
    from tests.faults.harness import World

pytestmark = [pytest.mark.faults, pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(600)]

KILLS_EACH = {"sqlite": 15, "postgresql": 25}
"""Kills of each part; together over 200, and over 25 of each."""


@on(SqliteJournal, PostgresJournal)
def test_random_kills_of_every_part_lose_and_double_nothing(world: World) -> None:
    """Kills of each part at random moments; parts start again at once, so that several are away at a time."""
    world.begin()
    kills_each = KILLS_EACH[world.journal.kind]
    storm(world, kills_each, random.Random(world.seed))
    assert world.kills == dict.fromkeys(world.parts, kills_each), "a part without work in flight does not count"
    world.settle()
    world.compare()


@on(SqliteJournal, PostgresJournal)
def test_kills_at_every_named_point_lose_and_double_nothing(world: World) -> None:
    """BANUA_CRASH_AT ends collector and probes exactly where a power cut hurts most."""
    world.begin()
    for point in ("before_commit", "after_commit", "before_receipt"):
        for nth in (1, 4):
            world.rig.kill("collector")
            world.start_collector(f"{point}:{nth}")
            wait_for(f"the collector to die {point}", lambda: world.rig.ended("collector"))
            world.died("collector", point)
            world.start_collector()
    for point in ("mid_seal", "after_publish"):
        for nth in (1, 30):
            world.kill_load()
            world.start_load(f"{point}:{nth}")
            wait_for(f"the load to die {point}", lambda: world.rig.ended("load"))
            world.died("load", point)
            world.kill_load()
            world.start_load()
    world.settle()
    world.compare()
