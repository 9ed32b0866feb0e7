"""A fleet whose batches are made beforehand: keys, hours of radio rows, sealed and signed, in the order of sending.

Of each round of batches `VARIANTS` different ones are encoded, and sealed for each probe under its own name, stream,
boot and key: what the collector gets is whole, and making a day of 2,016 probes takes seconds.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from sqlalchemy import Engine

from banua_collector import registry
from banua_lab.bench.radio import radio_rows
from banua_wire import codec
from banua_wire.envelope import Envelope, pack
from banua_wire.fields import SCHEMA, Value
from banua_wire.rows import Row
from banua_wire.signature import public_of, sign
from banua_wire.topics import topic

VARIANTS: Final = 8
VILLAGE: Final = "63.01.01.2001"
SEED: Final = 1
ANCHOR_ERROR_MS: Final = 60
SEALED_AFTER_MS: Final = 1000


@dataclass(frozen=True, slots=True)
class Batch:
    """A signed message, its topic, and its number of radio rows."""

    topic: str
    message: bytes
    rows: int


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe of the fleet: its secret key, stream and boot."""

    name: str
    secret: bytes
    stream: bytes
    boot_id: bytes

    @property
    def place(self) -> str:
        """The place where it stands."""
        return f"titik-{self.name}"


def fleet(count: int) -> list[Probe]:
    """Return `count` probes; the same for the same count."""
    rng = random.Random(SEED)  # noqa: S311 (a bench's keys)
    return [
        Probe(f"bench-{number:04}", rng.randbytes(32), rng.randbytes(8), rng.randbytes(16)) for number in range(count)
    ]


def register(engine: Engine, probes: Sequence[Probe], since_ms: int) -> None:
    """Register every probe, each at a place of its own since `since_ms`."""
    with engine.begin() as conn:
        registry.load_villages(conn)
        for probe in probes:
            registry.add_probe(conn, probe.name, public_of(probe.secret), now_ms=since_ms)
            registry.add_place(conn, VILLAGE, probe.place, probe.place)
            registry.deploy(conn, probe.name, probe.place, since_ms)


def bodies(rows_a_batch: int, began_ms: int) -> Iterator[list[bytes]]:
    """Yield, batch after batch, the encoded rows of every variant, and the anchor that a probe adds when it seals.

    The boots began at `began_ms` (unix).
    """
    streams = [radio_rows(seed) for seed in range(VARIANTS)]
    while True:
        yield [_body(list(islice(rows, rows_a_batch)), began_ms) for rows in streams]


def _body(rows: list[Row], began_ms: int) -> bytes:
    sealed_ms = rows[-1].boottime_ms + SEALED_AFTER_MS
    told: dict[str, Value] = {"unix_ms": began_ms + sealed_ms, "error_ms": ANCHOR_ERROR_MS, "source": "ntp"}
    return codec.encode([*rows, Row("clock", sealed_ms, told)])


def batches(probes: Sequence[Probe], count: int, rows_a_batch: int, began_ms: int) -> list[Batch]:
    """Return `count` batches, one of each probe in turn, as a fleet sends them."""
    made: list[Batch] = []
    for seq, encoded in enumerate(bodies(rows_a_batch, began_ms), start=1):
        for number, probe in enumerate(probes[: count - len(made)]):
            signed = pack(Envelope(probe.name, probe.stream, seq, probe.boot_id, SCHEMA), encoded[number % VARIANTS])
            made.append(Batch(topic(probe.name, "batch"), signed + sign(probe.secret, signed), rows_a_batch))
        if len(made) == count:
            return made
    raise AssertionError("rows come without end")
