"""Envelope and signature: a batch cannot be altered unnoticed, and a hostile head is refused."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey, VerifyKey

from banua_wire import batch, signature
from banua_wire.envelope import Envelope, pack, unpack
from banua_wire.errors import WireError
from banua_wire.fields import SCHEMA
from banua_wire.rows import Row

SECRET = bytes(range(32))
PUBLIC = bytes(SigningKey(SECRET).verify_key)
HEAD = Envelope("kalsel-0001", b"streamid", 7, bytes(range(16)), 1)
ROWS = [Row("board", 5, {"mains": 1}), Row("event", 6, {"name": "start", "n": 1})]
MESSAGE = batch.seal(SECRET, HEAD, ROWS)


def test_the_bytes_are_laid_out_as_the_specification_says() -> None:
    """Taken apart with struct alone."""
    assert MESSAGE[:6] == b"BNUA\x01\x0b"
    assert MESSAGE[6:17] == b"kalsel-0001"
    fixed = struct.unpack(">8sI16sHBI", MESSAGE[17:52])
    assert fixed == (b"streamid", 7, bytes(range(16)), 1, 1, len(MESSAGE) - 52 - 64)
    VerifyKey(PUBLIC).verify(MESSAGE[:-64], MESSAGE[-64:])


def test_what_was_sealed_is_read_back_and_verifies() -> None:
    assert unpack(MESSAGE)[0] == HEAD
    assert batch.open_rows(MESSAGE) == ROWS
    assert batch.verifies(PUBLIC, MESSAGE)
    assert batch.digest(MESSAGE).hex() == hashlib.sha256(MESSAGE).hexdigest()


def test_every_altered_byte_is_noticed() -> None:
    for position in range(len(MESSAGE)):
        for flip in (1, 0x80, 0xFF):
            altered = bytearray(MESSAGE)
            altered[position] ^= flip
            try:
                unpack(bytes(altered))
            except WireError:
                continue
            assert not batch.verifies(PUBLIC, bytes(altered)), position


def test_every_truncation_and_every_addition_is_refused() -> None:
    for length in range(len(MESSAGE)):
        with pytest.raises(WireError):
            unpack(MESSAGE[:length])
        assert not batch.verifies(PUBLIC, MESSAGE[:length])
    with pytest.raises(WireError, match="does not fit its message"):
        unpack(MESSAGE + b"\0")


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_no_batch(payload: bytes) -> None:
    for message in (payload, b"BNUA\x01" + payload):
        with pytest.raises(WireError):
            batch.open_rows(message)
    assert not batch.verifies(PUBLIC, payload)


def test_another_key_does_not_verify() -> None:
    assert not batch.verifies(bytes(SigningKey.generate().verify_key), MESSAGE)
    assert not batch.verifies(bytes(32), MESSAGE)
    assert not batch.verifies(PUBLIC[:31], MESSAGE)
    assert not batch.verifies(b"", MESSAGE)


@pytest.mark.parametrize("envelope", [
    replace(HEAD, probe="Kalsel"), replace(HEAD, probe=""),
    replace(HEAD, probe="a" * 33), replace(HEAD, stream=b"short"),
    replace(HEAD, boot_id=bytes(15)), replace(HEAD, seq=0), replace(HEAD, seq=2**32), replace(HEAD, seq=-1),
    replace(HEAD, schema=2**16), replace(HEAD, schema=-1), replace(HEAD, codec=256), replace(HEAD, codec=-1),
])  # fmt: skip
def test_a_head_outside_its_sizes_is_not_packed(envelope: Envelope) -> None:
    with pytest.raises(WireError):
        pack(envelope, b"")


def test_a_message_has_at_most_65536_bytes() -> None:
    room = 65536 - len(pack(HEAD, b"")) - 64
    assert len(pack(HEAD, bytes(room))) + 64 == 65536
    with pytest.raises(WireError, match="batch of 65537 bytes is over 65536"):
        pack(HEAD, bytes(room + 1))
    whole = pack(HEAD, bytes(room)) + bytes(64)
    assert unpack(whole)[1] == bytes(room)
    with pytest.raises(WireError, match="65537 bytes"):
        unpack(whole + b"\0")


@pytest.mark.parametrize(("schema", "codec"), [(SCHEMA + 1, 1), (1, 2), (65535, 255)])
def test_what_a_newer_version_sealed_keeps_a_readable_head(schema: int, codec: int) -> None:
    """It can be quarantined under its name and seq, and replayed by a later version."""
    signed = pack(replace(HEAD, schema=schema, codec=codec), b"what this version cannot know")
    message = signed + signature.sign(SECRET, signed)
    assert unpack(message)[0].seq == 7
    assert batch.verifies(PUBLIC, message)
    with pytest.raises(WireError, match=f"schema {schema}, codec {codec}: this version reads"):
        batch.open_rows(message)


def test_ed25519_as_rfc_8032_has_it() -> None:
    """RFC 8032 §7.1, TEST 2."""
    secret = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    public = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    signed = (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert signature.public_of(secret).hex() == public
    assert signature.sign(secret, b"\x72").hex() == signed
    assert signature.verifies(signature.parse_public(public), b"\x72", bytes.fromhex(signed))


@settings(max_examples=50)
@given(st.text(max_size=80))
def test_a_public_key_is_64_hexadecimal_digits(text: str) -> None:
    with pytest.raises(WireError, match="is not 64 hexadecimal digits"):
        signature.parse_public(text)


def test_a_public_key_with_gaps_is_refused() -> None:
    with pytest.raises(WireError, match="is not 64 hexadecimal digits"):
        signature.parse_public("00 " * 32)


def test_secrets_differ_and_a_short_one_is_refused() -> None:
    assert len({signature.new_secret() for _ in range(20)}) == 20
    with pytest.raises(WireError, match="secret key of 31 bytes"):
        signature.public_of(bytes(31))
