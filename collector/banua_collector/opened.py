"""Batches that ingest has just opened, kept for the projection of the same process, which would open them again.

Only a shortcut: what is not here is read from the journal, and what is here says the same, for a batch never changes.
"""

import threading
from collections.abc import Callable
from typing import Final

from banua_wire.batch import open_blocks
from banua_wire.codec import Block

MAX_VALUES: Final = 700_000
"""Most values kept, about 30 MB, or 24,000 rows of a modem: what comes while there is no room is not kept."""
MAX_AGE_S: Final = 60.0
"""What nobody has asked for by then, another process has projected, or it may not be projected at all."""


class Opened:
    """The columns of some batches, by the batch's hash; for several threads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Begin empty; `clock` tells monotonic seconds."""
        self._clock, self._lock = clock, threading.Lock()
        self._kept: dict[bytes, tuple[float, int, list[Block]]] = {}  # the oldest first
        self.values = 0

    def keep(self, digest: bytes, blocks: list[Block]) -> None:
        """Keep an opened batch if there is room."""
        values = sum(block.values() for block in blocks)
        now = self._clock()
        with self._lock:
            while self._kept and now - next(iter(self._kept.values()))[0] > MAX_AGE_S:
                self._drop(next(iter(self._kept)))
            if digest not in self._kept and self.values + values <= MAX_VALUES:
                self._kept[digest] = now, values, blocks
                self.values += values

    def blocks(self, digest: bytes, message: bytes) -> list[Block]:
        """Return the columns of the batch `message` whose hash is `digest`, and forget them."""
        with self._lock:
            kept = self._drop(digest)
        return open_blocks(message) if kept is None else kept

    def _drop(self, digest: bytes) -> list[Block] | None:
        _, values, blocks = self._kept.pop(digest, (0.0, 0, None))
        self.values -= values
        return blocks
