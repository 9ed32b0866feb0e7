"""May this message be believed? Envelope, topic, key and body are judged here, without a database at hand."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from banua_collector.registry import Key
from banua_wire import batch
from banua_wire.codec import Block
from banua_wire.envelope import Envelope, unpack
from banua_wire.errors import WireError
from banua_wire.rows import Row
from banua_wire.topics import parse


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it came: topic, payload and when (ms UTC)."""

    topic: str
    payload: bytes
    received_ms: int


_TOLD: Final = frozenset({"clock", "event", "lost"})


@dataclass(frozen=True, slots=True)
class Verified:
    """A batch of a registered probe, its signature good and its rows readable."""

    message: Message
    digest: bytes
    envelope: Envelope
    probe_id: int
    blocks: list[Block]

    @property
    def values(self) -> int:
        """How many values its rows hold: a measure of its memory."""
        return sum(block.values() for block in self.blocks)

    @property
    def boottimes_ms(self) -> tuple[int, int] | None:
        """The first and last row's CLOCK_BOOTTIME in ms, None without rows."""
        ends = [end for block in self.blocks for end in (block.boottimes_ms[0], block.boottimes_ms[-1])]
        return (min(ends), max(ends)) if ends else None

    def told(self) -> Iterator[Row]:
        """Yield the rows that SQL is told of: anchors, events, losses."""
        return (row for block in self.blocks if block.kind.name in _TOLD for row in block.rows())


@dataclass(frozen=True, slots=True)
class Refused:
    """A message that is kept in quarantine. `probe_id` is set when its signature is good: then it settles its seq."""

    message: Message
    digest: bytes
    envelope: Envelope
    speaker: str
    """The probe named in the topic: who is answered."""
    reason: str
    detail: str
    probe_id: int | None = None

    @property
    def values(self) -> int:
        """None of its rows is kept in memory."""
        return 0


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A message without a readable envelope: counted, not kept, not answered."""

    detail: str


Judgement = Verified | Refused | Unreadable


@dataclass(frozen=True, slots=True)
class Boot:
    """What is known of when a boot began: from its anchors, else not later than the first word of it was received."""

    begun_ms: int | None
    first_seen_ms: int | None


def judge(
    message: Message, keys_of: Callable[[str], Sequence[Key]], boot_of: Callable[[str, bytes], Boot]
) -> Judgement:
    """Return what `message` is; `keys_of` and `boot_of` look up by probe name (and boot id)."""
    try:
        speaker, _ = parse(message.topic)
        envelope, _ = unpack(message.payload)
    except WireError as error:
        return Unreadable(str(error))
    digest = batch.digest(message.payload)

    def refused(reason: str, detail: str, probe_id: int | None = None) -> Refused:
        return Refused(message, digest, envelope, speaker, reason, detail, probe_id)

    if envelope.probe != speaker:
        return refused("wrong_topic", f"signed by {envelope.probe}, published by {speaker}")
    keys = keys_of(speaker)
    if not keys:
        return refused("unknown_key", "no probe of this name is registered")
    key = next((key for key in keys if batch.verifies(key.public_key, message.payload)), None)
    if key is None:
        return refused("bad_signature", f"made with none of the probe's {len(keys)} keys")
    if key.revoked_ms is not None and message.received_ms >= key.revoked_ms:
        return refused("key_revoked", f"key {key.public_key.hex()[:16]} is revoked")
    try:
        blocks = batch.open_blocks(message.payload)
    except WireError as error:
        return refused("quarantined", str(error), key.probe_id)
    if key.retired_ms is not None and not _begun_before(
        key.retired_ms, blocks, boot_of(speaker, envelope.boot_id), message.received_ms
    ):
        return refused("key_retired", f"key {key.public_key.hex()[:16]} is retired, and this boot began later")
    return Verified(message, digest, envelope, key.probe_id, blocks)


def _begun_before(moment_ms: int, blocks: list[Block], boot: Boot, received_ms: int) -> bool:
    """Say whether a boot began before `moment_ms`: by its anchors, else before anything of it was received."""
    begun = boot.begun_ms
    for row in (row for block in blocks if block.kind.name == "clock" for row in block.rows()):
        unix_ms = row.values.get("unix_ms")
        if isinstance(unix_ms, int):
            begun = unix_ms - row.boottime_ms
    if begun is None:
        begun = received_ms if boot.first_seen_ms is None else min(boot.first_seen_ms, received_ms)
    return begun < moment_ms
