"""The plain head of a batch: whose it is and which one, readable without understanding its body.

``"BNUA" | version u8 | name length u8 | name | stream 8 | seq u32 | boot_id 16 | schema u16 | codec u8 |
body length u32``, big endian; the body follows, then 64 bytes of Ed25519 signature over everything before them.
"""

import struct
from dataclasses import dataclass
from typing import Final

from banua_wire.errors import WireError
from banua_wire.topics import is_name

MAGIC: Final = b"BNUA"
VERSION: Final = 1
CODEC: Final = 1
"""Columns in MessagePack under zlib; the only codec so far."""
MAX_MESSAGE: Final = 1 << 16
"""Most bytes of a whole batch: envelope, body and signature."""
SIGNATURE_BYTES: Final = 64
STREAM_BYTES: Final = 8
BOOT_BYTES: Final = 16
MAX_SEQ: Final = 2**32 - 1
MAX_SCHEMA: Final = 2**16 - 1
MAX_CODEC: Final = 2**8 - 1

_PREFIX = struct.Struct(">4sBB")
_FIXED = struct.Struct(">8sI16sHBI")


@dataclass(frozen=True, slots=True)
class Envelope:
    """Probe name, stream (8 random bytes, born with the outbox), seq 1, 2, … in it, Linux boot id, schema and codec."""

    probe: str
    stream: bytes
    seq: int
    boot_id: bytes
    schema: int
    codec: int = CODEC


def pack(envelope: Envelope, body: bytes) -> bytes:
    """Return the bytes that get signed: head and body. WireError when a field is outside its size."""
    if not is_name(envelope.probe):
        raise WireError(f"probe {envelope.probe!r:.60} is not a probe name")
    if len(envelope.stream) != STREAM_BYTES or len(envelope.boot_id) != BOOT_BYTES or not 1 <= envelope.seq <= MAX_SEQ:
        raise WireError(f"stream takes {STREAM_BYTES} bytes, boot_id {BOOT_BYTES}, seq 1…{MAX_SEQ}")
    if not 0 <= envelope.schema <= MAX_SCHEMA or not 0 <= envelope.codec <= MAX_CODEC:
        raise WireError(f"schema {envelope.schema} or codec {envelope.codec} is outside 0…{MAX_SCHEMA}, 0…{MAX_CODEC}")
    name = envelope.probe.encode("ascii")
    fixed = _FIXED.pack(envelope.stream, envelope.seq, envelope.boot_id, envelope.schema, envelope.codec, len(body))
    head = _PREFIX.pack(MAGIC, VERSION, len(name)) + name + fixed
    if len(head) + len(body) + SIGNATURE_BYTES > MAX_MESSAGE:
        raise WireError(f"batch of {len(head) + len(body) + SIGNATURE_BYTES} bytes is over {MAX_MESSAGE}")
    return head + body


def unpack(message: bytes) -> tuple[Envelope, bytes]:
    """Return envelope and body of a whole batch; WireError when its head is none or its length not what it says."""
    if not _PREFIX.size <= len(message) <= MAX_MESSAGE:
        raise WireError(f"message of {len(message)} bytes; a batch has {_PREFIX.size} to {MAX_MESSAGE}")
    magic, version, name_length = _PREFIX.unpack_from(message)
    if magic != MAGIC or version != VERSION:
        raise WireError(f"message starts with {message[:5].hex()}, a batch with {MAGIC.hex()}{VERSION:02x}")
    start = _PREFIX.size + name_length + _FIXED.size
    if len(message) < start + SIGNATURE_BYTES:
        raise WireError("message is cut short")
    name = message[_PREFIX.size : _PREFIX.size + name_length].decode("ascii", errors="replace")
    stream, seq, boot_id, schema, codec, length = _FIXED.unpack_from(message, _PREFIX.size + name_length)
    if not is_name(name) or seq == 0 or len(message) != start + length + SIGNATURE_BYTES:
        raise WireError(f"envelope of {name!r:.40} with seq {seq} and body length {length} does not fit its message")
    return Envelope(name, stream, seq, boot_id, schema, codec), message[start : start + length]
