"""A whole batch: rows sealed under one envelope and signed; immutable from then on."""

import hashlib
from collections.abc import Iterable

from banua_wire import codec, signature
from banua_wire.envelope import CODEC, SIGNATURE_BYTES, Envelope, pack, unpack
from banua_wire.errors import WireError
from banua_wire.fields import SCHEMA
from banua_wire.rows import Row

HASH8_BYTES = 8


def seal(secret: bytes, envelope: Envelope, rows: Iterable[Row]) -> bytes:
    """Return the message for `rows`; WireError when they are too many or outside the dictionary."""
    signed = pack(envelope, codec.encode(rows))
    return signed + signature.sign(secret, signed)


def verifies(public: bytes, message: bytes) -> bool:
    """Say whether the message's signature was made with the secret of `public`."""
    return signature.verifies(public, message[:-SIGNATURE_BYTES], message[-SIGNATURE_BYTES:])


def open_rows(message: bytes) -> list[Row]:
    """Return the rows of a whole message, signature left to `verifies`; WireError if this version cannot read it."""
    return [row for block in open_blocks(message) for row in block.rows()]


def open_blocks(message: bytes) -> list[codec.Block]:
    """Return the rows of a whole message as columns, a block a kind; otherwise like `open_rows`."""
    envelope, body = unpack(message)
    if envelope.schema > SCHEMA or envelope.codec != CODEC:
        raise WireError(
            f"schema {envelope.schema}, codec {envelope.codec}: this version reads schemas to {SCHEMA}, codec {CODEC}"
        )
    return codec.decode_blocks(body, envelope.schema)


def digest(message: bytes) -> bytes:
    """Return the SHA-256 (32 bytes) that names the message; its first 8 bytes are the receipt's hash8."""
    return hashlib.sha256(message).digest()
