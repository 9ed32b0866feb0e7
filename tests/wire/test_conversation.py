"""Receipts and births: what is sent is read back, and nothing hostile gets further than a WireError."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from banua_wire import birth, receipt
from banua_wire.birth import State
from banua_wire.errors import WireError
from banua_wire.receipt import REASONS, Receipt

if TYPE_CHECKING:
    from collections.abc import Callable

RECEIPT = Receipt(
    stream=b"streamid", journal_id=b"journal1", ask=3, got=[(1, b"hash8..1"), (2, b"hash8..2")],
    rejects=[(3, b"hash8..3", "conflict")], stored_to=2, also=[(5, 9), (12, 12)], server_ms=1_790_000_000_000,
)  # fmt: skip
STATE = State(
    online=True, boot_id=bytes(16), stream=b"streamid", ask=4, next_seq=9, waiting=2, version="0.1.0"
)  # fmt: skip
RECEIPT_LIST = [
    b"streamid", b"journal1", 3, [[1, b"hash8..1"], [2, b"hash8..2"]], [[3, b"hash8..3", "conflict"]], 2,
    [[5, 9], [12, 12]], 1_790_000_000_000,
]  # fmt: skip
STATE_LIST = [True, bytes(16), b"streamid", 4, 9, 2, "0.1.0"]
pack = msgspec.msgpack.encode


def test_both_are_the_arrays_that_the_specification_says() -> None:
    assert receipt.encode(RECEIPT) == pack(RECEIPT_LIST)
    assert birth.encode(STATE) == pack(STATE_LIST)
    assert receipt.decode(pack(RECEIPT_LIST)) == RECEIPT
    assert birth.decode(pack(STATE_LIST)) == STATE


def test_what_a_newer_version_appends_is_ignored() -> None:
    assert receipt.decode(pack([*RECEIPT_LIST, {"new": 1}])) == RECEIPT
    assert birth.decode(pack([*STATE_LIST, 5])) == STATE


def test_what_a_receipt_settles() -> None:
    assert RECEIPT.highest == 12
    assert [seq for seq in range(1, 15) if RECEIPT.settles(seq)] == [1, 2, 5, 6, 7, 8, 9, 12]
    nothing = msgspec.structs.replace(RECEIPT, stored_to=0, also=[])
    assert (nothing.highest, nothing.settles(1)) == (0, False)


def test_every_reason_says_what_the_probe_does() -> None:
    assert REASONS == {
        "quarantined": "settled", "conflict": "reseal", "bad_signature": "keep", "unknown_key": "keep",
        "quarantine_full": "keep",
        "key_revoked": "keep", "key_retired": "keep", "wrong_topic": "keep",
    }  # fmt: skip


def put(whole: list[object], position: int, value: object) -> bytes:
    return pack([*whole[:position], value, *whole[position + 1 :]])


BAD_RECEIPTS: dict[int, list[object]] = {
    0: [None, "streamid", b"short", b"toolong..", 1],
    1: [None, b"", b"123456789"],
    2: [-1, 2**53 + 1, "3", None, 1.5, True],
    3: [
        None,
        [[0, b"hash8..1"]],
        [[2**32, b"hash8..1"]],
        [[1, b"short"]],
        [[1]],
        [[1, b"hash8..1", 1]],
        [5],
        [[1, b"hash8..1"]] * 1025,
    ],
    4: [[[1, b"hash8..1"]], [[1, b"hash8..1", "r" * 33]], [[1, b"hash8..1", 5]]],
    5: [-1, 2**32, None, "2"],
    6: [[[0, 1]], [[1]], [[1, 2**32]], [[1, 1]] * 9, 5],
    7: [-1, 2**43 + 1, None, 1.5],
}
BAD_STATES: dict[int, list[object]] = {
    0: [None, 1, "true"],
    1: [bytes(15), bytes(17), "x" * 16], 2: [bytes(7), None], 3: [0, 2**53 + 1, True], 4: [0, 2**32 + 1],
    5: [-1, 2**32 + 1], 6: ["v" * 33, None, b"0.1"],
}  # fmt: skip


@pytest.mark.parametrize(("position", "value"), [(p, v) for p, vs in BAD_RECEIPTS.items() for v in vs])
def test_a_receipt_with_a_wrong_part_is_refused(position: int, value: object) -> None:
    with pytest.raises(WireError, match="not a receipt"):
        receipt.decode(put(list(RECEIPT_LIST), position, value))


@pytest.mark.parametrize(("position", "value"), [(p, v) for p, vs in BAD_STATES.items() for v in vs])
def test_a_state_with_a_wrong_part_is_refused(position: int, value: object) -> None:
    with pytest.raises(WireError, match="not a state"):
        birth.decode(put(list(STATE_LIST), position, value))


DECODERS: list[tuple[Callable[[bytes], object], bytes]] = [
    (receipt.decode, pack(RECEIPT_LIST)),
    (birth.decode, pack(STATE_LIST)),
]
both = pytest.mark.parametrize(("decode", "good"), DECODERS, ids=["receipt", "state"])


@both
def test_cut_short_or_longer_is_refused(decode: Callable[[bytes], object], good: bytes) -> None:
    for length in range(len(good)):
        with pytest.raises(WireError):
            decode(good[:length])
    with pytest.raises(WireError):
        decode(good + b"\xc0")


@both
def test_a_flipped_bit_is_refused_or_read_within_limits(decode: Callable[[bytes], object], good: bytes) -> None:
    for position in range(len(good) * 8):
        flipped = bytearray(good)
        flipped[position // 8] ^= 1 << position % 8
        try:
            read = decode(bytes(flipped))
        except WireError:
            continue
        assert decode(msgspec.msgpack.encode(read)) == read


@both
@pytest.mark.parametrize("payload", [
    b"", b"\x91" * 60_000, b"\x81\x00" * 30_000, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\x98" + b"\xdd\xff\xff\xff\xff" * 8, bytes(70_000), b"\x99" + pack(RECEIPT_LIST)[1:] + b"\x91" * 60_000,
    b"\x98" + pack(STATE_LIST)[1:] + b"\x91" * 900, b"\xdc\xff\xff" + b"\x90" * 65_000,
], ids=range(11))  # fmt: skip
def test_the_hostile_is_refused_in_little_memory(
    decode: Callable[[bytes], object], good: bytes, payload: bytes
) -> None:
    assert good
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            decode(payload)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_neither(payload: bytes) -> None:
    for decode, _ in DECODERS:
        with pytest.raises(WireError):
            decode(payload)
