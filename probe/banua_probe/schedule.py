"""When things are due: a random phase, then a steady period with a little jitter, never wall time.

The random start follows RFC 3432 §4.1.2 and keeps a thousand probes out of step.
"""

import random
from dataclasses import dataclass

JITTER = 0.05
"""Largest part of a period by which one run is early or late; periods do not drift by it."""


@dataclass(slots=True)
class Periodic:
    """The n-th run is due at start + phase + n·period ± jitter, in ms of CLOCK_BOOTTIME."""

    period_ms: int
    start_ms: int
    rng: random.Random
    next_ms: int = 0
    _tick_ms: int = 0

    def __post_init__(self) -> None:
        self._tick_ms = self.start_ms + round(self.rng.random() * self.period_ms)
        self.next_ms = self._tick_ms

    def advance(self, now_ms: int) -> None:
        """Take note of a run at `now_ms`; runs that were missed meanwhile are skipped, never made up for in a burst."""
        missed = max((now_ms - self._tick_ms) // self.period_ms, 0)
        self._tick_ms += (missed + 1) * self.period_ms
        self.next_ms = self._tick_ms + round(self.rng.uniform(-JITTER, JITTER) * self.period_ms)


@dataclass(slots=True)
class SealPolicy:
    """When rows go to disk and when they are sealed.

    Rows are committed every `commit_ms`. They are sealed every `seal_ms` while online, by `OFFLINE_ROWS` while offline,
    and at once on a change of state, at most `URGENT_A_DAY` times a day.
    """

    commit_ms: int
    seal_ms: int
    last_commit_ms: int
    last_seal_ms: int
    _urgent: bool = False
    _urgent_ms: tuple[int, ...] = ()
    _rest_until_ms: int = 0

    def state_changed(self, now_ms: int) -> None:
        """Ask for sealing at once, within the day's allowance."""
        self._urgent_ms = tuple(at for at in self._urgent_ms if now_ms - at < DAY_MS)
        if len(self._urgent_ms) < URGENT_A_DAY:
            self._urgent_ms += (now_ms,)
            self._urgent = True

    def seal_due(self, now_ms: int, rows: int, *, online: bool) -> bool:
        """Say whether `rows` rows are to be sealed now."""
        if not rows or now_ms < self._rest_until_ms:
            return False
        return self._urgent or (now_ms - self.last_seal_ms >= self.seal_ms if online else rows >= OFFLINE_ROWS)

    def commit_due(self, now_ms: int) -> bool:
        """Say whether rows in memory are to be written to disk now."""
        return now_ms >= self._rest_until_ms and now_ms - self.last_commit_ms >= self.commit_ms

    def refused(self, until_ms: int) -> None:
        """Take note that the disk refuses writes: nothing is due before `until_ms`."""
        self._rest_until_ms = until_ms

    def sealed(self, now_ms: int) -> None:
        """Take note of a seal, which is a commit too."""
        self.last_seal_ms = self.last_commit_ms = now_ms
        self._urgent = False

    def committed(self, now_ms: int) -> None:
        """Take note of a commit."""
        self.last_commit_ms = now_ms


OFFLINE_ROWS = 60
URGENT_A_DAY = 24
DAY_MS = 86_400_000
