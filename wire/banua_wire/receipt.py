"""What the collector answers: these batches are in the journal, fsynced; and this is all I know of the stream."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from banua_wire.packed import decoded

MAX_RECEIPT: Final = 1 << 16
"""Most bytes of a receipt."""
MAX_RANGES: Final = 8
"""Most ranges in `also`."""

Seq = Annotated[int, Meta(ge=1, le=2**32 - 1)]
Hash8 = Annotated[bytes, Meta(min_length=8, max_length=8)]
Stream = Annotated[bytes, Meta(min_length=8, max_length=8)]
Millis = Annotated[int, Meta(ge=0, le=2**43)]

#: Why a batch was refused → what the probe does with it. `settled`: the collector keeps it in quarantine, evictable.
#: `reseal`: its rows go out again under a new stream. `keep`: it stays unsent until a person has put things right.
REASONS: Final = {
    "quarantined": "settled",
    "conflict": "reseal",
    "bad_signature": "keep",
    "unknown_key": "keep",
    "quarantine_full": "keep",
    "key_revoked": "keep",
    "key_retired": "keep",
    "wrong_topic": "keep",
}


class Receipt(msgspec.Struct, array_like=True, frozen=True):
    """Sent after each commit, duplicate and birth, never retained.

    `got` and `rejects` name batches by seq and hash8; only such an entry settles a batch. `stored_to` (every seq up to
    it) and `also` (ranges beyond it) count what is settled of `stream`. `ask` echoes the birth this receipt answers, 0
    when it answers none; `server_ms` is the collector's wall time.
    """

    stream: Stream
    journal_id: Annotated[bytes, Meta(min_length=8, max_length=8)]
    ask: Annotated[int, Meta(ge=0, le=2**53)]
    got: Annotated[list[tuple[Seq, Hash8]], Meta(max_length=1024)]
    rejects: Annotated[list[tuple[Seq, Hash8, Annotated[str, Meta(max_length=32)]]], Meta(max_length=1024)]
    stored_to: Annotated[int, Meta(ge=0, le=2**32 - 1)]
    also: Annotated[list[tuple[Seq, Seq]], Meta(max_length=MAX_RANGES)]
    server_ms: Millis

    @property
    def highest(self) -> int:
        """The highest settled seq this receipt knows of, 0 if none."""
        return max([self.stored_to, *(last for _, last in self.also)])

    def settles(self, seq: int) -> bool:
        """Say whether `seq` is among the settled ones that this receipt counts."""
        return seq <= self.stored_to or any(first <= seq <= last for first, last in self.also)

    def denies(self, seq: int) -> bool:
        """Say whether `seq` is surely not settled: with MAX_RANGES ranges, what lies before the last one is unknown."""
        unknown = len(self.also) == MAX_RANGES and self.also[-2][1] < seq < self.also[-1][0]
        return not (unknown or self.settles(seq))


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Receipt).decode


def encode(receipt: Receipt) -> bytes:
    """Return the bytes of `receipt`."""
    return _encode(receipt)


def decode(payload: bytes) -> Receipt:
    """Return the receipt in `payload`; WireError when it is none."""
    return decoded(_decode, payload, "receipt", MAX_RECEIPT)
