"""What was said once is said again, in any order and years later: it counts once."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.faults.journals import PostgresJournal, on
from tests.faults.voice import Voice
from tests.system.rig import wait_for

if TYPE_CHECKING:
    from tests.faults.harness import World

pytestmark = [pytest.mark.faults, pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(300)]

YEAR_MS = 365 * 86_400_000


@on(PostgresJournal)
def test_batches_doubled_reordered_replayed_and_years_old_count_once(world: World) -> None:
    """By clients that have the probes' own certificates, while the load goes on; each batch is said three times."""
    world.begin()
    wait_for("batches to say again", lambda: len(world.watcher.batches) > 100)
    rng = random.Random(world.seed)
    now_ms = time.time_ns() // 1_000_000
    with ExitStack() as stack:
        voices = {name: stack.enter_context(Voice(world, name)) for name in world.names[:5]}
        old = [
            (name, voice.boot(now_ms - years * YEAR_MS, range(60_000, 90_000, 1000)))
            for years, (name, voice) in enumerate(voices.items(), start=1)
        ]
        said = [*[heard for heard in world.watcher.batches if heard[0] in voices], *old] * 3
        rng.shuffle(said)
        for name, message in said:
            voices[name].say(message)
        for name, message in old:
            voices[name].insist(message)
    print(f"{len(said)} batches were said again")
    world.settle()
    world.compare()
    answered = world.watcher.duplicates
    assert answered, "a batch that comes again is receipted again"
