"""The body of a batch: rows come back as they were, and nothing hostile gets further than a WireError."""

from __future__ import annotations

import math
import time
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from banua_wire import codec
from banua_wire.errors import WireError
from banua_wire.fields import KINDS, SCHEMA, Value
from banua_wire.rows import Row
from tests.wire.strategies import BATCHES, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from banua_wire.fields import Kind

PEAK_BYTES = 24_000_000
SECONDS = 5.0
ORDER = [kind.name for kind in KINDS]


def in_order(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda r: (ORDER.index(r.kind), r.boottime_ms, [(v is not None, v) for v in r.key]))


def body(blocks: object) -> bytes:
    return zlib.compress(msgspec.msgpack.encode(blocks))


def refused(payload: bytes, **known: int) -> str:
    """Decode a hostile body: it must end in WireError, soon and in little memory."""
    tracemalloc.start()
    before = time.monotonic()
    try:
        with pytest.raises(WireError) as raised:
            codec.decode(payload, **known)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < PEAK_BYTES
    assert time.monotonic() - before < SECONDS
    assert "\n" not in str(raised.value)
    return str(raised.value)


# --- what goes in comes out -----------------------------------------------------------------------------------------


@given(BATCHES)
def test_rows_of_every_kind_come_back_as_they_were(rows: list[Row]) -> None:
    assert codec.decode(codec.encode(rows)) == in_order(rows)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_kind_comes_back_with_types_kept(kind: Kind) -> None:
    @settings(max_examples=25)
    @given(st.lists(rows_of(kind), min_size=1, max_size=8, unique_by=lambda row: (row.boottime_ms, row.key)))
    def check(rows: list[Row]) -> None:
        back = codec.decode(codec.encode(rows))
        assert back == in_order(rows)
        for one, other in zip(back, in_order(rows), strict=True):
            assert {n: type(v) for n, v in one.values.items()} == {n: type(v) for n, v in other.values.items()}

    check()


@given(BATCHES, st.randoms())
def test_equal_rows_make_equal_bytes_in_any_order(rows: list[Row], random: Any) -> None:
    shuffled = [
        Row(row.kind, row.boottime_ms, dict(random.sample(list(row.values.items()), len(row.values)))) for row in rows
    ]
    random.shuffle(shuffled)
    assert codec.encode(shuffled) == codec.encode(rows)


def test_absent_zero_and_empty_stay_three_things() -> None:
    rows = [
        Row("path", 1, {"rtt_us": []}),
        Row("path", 2, {"rtt_us": [None]}),
        Row("path", 3, {"rtt_us": [0]}),
        Row("path", 4, {}),
    ]
    assert [row.values for row in codec.decode(codec.encode(rows))] == [row.values for row in rows]


def test_a_value_off_the_grid_arrives_on_its_nearest_step() -> None:
    (row,) = codec.decode(codec.encode([Row("radio", 5, {"rsrp_dbm": -97.26, "polls": 6.0})]))
    assert row.values == {"rsrp_dbm": -97.3, "polls": 6}


def test_an_hour_of_radio_rows_costs_what_the_design_promises() -> None:
    """A full row a minute, all levels moving: under 30 bytes a row (measured in the design: 24.7 with 27 fields)."""
    rows = [
        Row("radio", 60_000 * n + 13 * n % 7, {
            "modem": "m1", "polls": 6, "polls_registered": 6, "polls_limited": 0, "polls_no_service": 0,
            "polls_denied": 0,
            "polls_unknown": 0, "polls_failed": 0, "state": "registered", "rat": "lte", "sim_plmn": "51010",
            "plmn": "51010",
            "cell_id": 110319922, "tac": 26932, "pci": 30, "earfcn": 1825, "band": 3, "rsrp_dbm": -97 - n * 7 % 11 / 2,
            "rsrq_db": -11 - n * 5 % 7 / 2, "rssi_dbm": -66 - n * 3 % 9, "sinr_raw": 13 + n * 11 % 13,
            "sinr_formula": "quectel_2x-20", "value_age_ms": 100 + n * 37 % 91,
        }) for n in range(60)
    ]  # fmt: skip
    assert len(codec.encode(rows)) / len(rows) < 30


# --- what may not go in ---------------------------------------------------------------------------------------------

REFUSED: list[tuple[str, Row | list[Row], str]] = [
    ("kind", Row("nosuch", 1, {}), "kind 'nosuch' is not in the dictionary"),
    ("field", Row("board", 1, {"mood": 1}), "board.mood: not in the dictionary"),
    ("low", Row("radio", 1, {"rsrp_dbm": -157}), "radio.rsrp_dbm: -157 is outside -156…-44 dBm"),
    ("high", Row("radio", 1, {"rsrp_dbm": -43.9}), "radio.rsrp_dbm: -43.9 is outside -156…-44 dBm"),
    ("sentinel", Row("path", 1, {"wake_rtt_us": -1}), "path.wake_rtt_us: -1 is outside 0…60000000 µs"),
    ("in an array", Row("path", 1, {"rtt_us": [1, -1.0]}), "path.rtt_us: -1 is outside 0…60000000 µs"),
    ("nan", Row("radio", 1, {"rsrp_dbm": math.nan}), "radio.rsrp_dbm: nan is outside -156…-44 dBm"),
    ("inf", Row("radio", 1, {"rsrp_dbm": math.inf}), "radio.rsrp_dbm: inf is outside -156…-44 dBm"),
    ("overflow", Row("radio", 1, {"rsrp_dbm": 1.7e308}), "radio.rsrp_dbm: 1.7e+308 is outside -156…-44 dBm"),
    (
        "huge int",
        Row("board", 1, {"uptime_s": 10**400}),
        "board.uptime_s: a number of over 15 digits is outside 0…4294967295 s",
    ),
    ("bool", Row("board", 1, {"mains": True}), "board.mains: True is not a number"),
    ("text as number", Row("board", 1, {"mains": "1"}), "board.mains: '1' is not a number"),
    ("number as text", Row("event", 1, {"name": 1}), "event.name: 1 is not a printable text of 1 to 200 characters"),
    ("empty text", Row("event", 1, {"name": ""}), "event.name: '' is not a printable text of 1 to 200 characters"),
    (
        "newline",
        Row("event", 1, {"name": "a\nb"}),
        "event.name: 'a\\nb' is not a printable text of 1 to 200 characters",
    ),
    (
        "surrogate",
        Row("event", 1, {"name": "\ud800"}),
        "event.name: '\\ud800' is not a printable text of 1 to 200 characters",
    ),
    ("scalar as array", Row("path", 1, {"rtt_us": 5}), "path.rtt_us: not an array of at most 256 entries"),
    ("array as scalar", Row("board", 1, {"mains": [1]}), "board.mains: [1] is not a number"),
    ("long array", Row("path", 1, {"rtt_us": [1] * 257}), "path.rtt_us: not an array of at most 256 entries"),
    ("time before boot", Row("board", -1, {}), "board.boottime_ms: -1 is outside 0…8796093022208"),
    ("time too late", Row("board", 2**43 + 1, {}), "board.boottime_ms: 8796093022209 is outside 0…8796093022208"),
    ("time a bool", Row("board", True, {}), "board.boottime_ms: True is outside 0…8796093022208"),
    ("twins", [Row("board", 7, {"mains": 1}), Row("board", 7, {})], "board: two rows have the same boottime_ms"),
    (
        "twins by key",
        [Row("event", 7, {"name": "a", "n": 1})] * 2,
        "event: two rows have the same boottime_ms + name + n",
    ),
    (
        "twins without key",
        [Row("radio", 7, {}), Row("radio", 7, {"pci": 1})],
        "radio: two rows have the same boottime_ms + modem",
    ),
    ("too many", [Row("board", n, {}) for n in range(4097)], "more than 4096 rows in one batch"),
]


@pytest.mark.parametrize(("rows", "message"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_encode_names_what_it_refuses(rows: Row | list[Row], message: str) -> None:
    with pytest.raises(WireError) as raised:
        codec.encode(rows if isinstance(rows, list) else [rows])
    assert str(raised.value) == message


def test_a_text_may_have_200_characters_and_not_201() -> None:
    long: dict[str, Value] = {"name": "ñ" * 200}
    assert codec.decode(codec.encode([Row("event", 1, long)]))[0].values == long
    with pytest.raises(WireError, match="not a printable text"):
        codec.encode([Row("event", 1, {"name": "ñ" * 201})])


def test_values_that_off_grid_twins_share_after_rounding_are_twins() -> None:
    """The key is compared as it will arrive, not as it was given."""
    with pytest.raises(WireError, match="two rows"):
        codec.encode([Row("event", 1, {"name": "a", "n": 1}), Row("event", 1, {"name": "a", "n": 1.2})])


def test_4096_rows_fit() -> None:
    rows = [Row("board", n, {}) for n in range(4096)]
    assert codec.decode(codec.encode(rows)) == rows


# --- hostile bodies -------------------------------------------------------------------------------------------------

SAMPLE = codec.encode([
    Row("radio", 1000, {"modem": "m1", "polls": 6, "rsrp_dbm": -97.5, "state": "registered"}),
    Row("radio", 61000, {"modem": "m1", "polls": 6, "rsrp_dbm": -99, "state": "limited"}),
    Row("path", 2000, {"target": "t", "rtt_us": [40000, None, 41000]}),
    Row("event", 3000, {"name": "start", "n": 1}),
])  # fmt: skip


def array32(count: int) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big")


def test_every_truncation_is_refused() -> None:
    for length in range(len(SAMPLE)):
        refused(SAMPLE[:length])


def test_every_trailing_byte_is_refused() -> None:
    refused(SAMPLE + b"\0")
    refused(zlib.compress(zlib.decompress(SAMPLE) + b"\xc0"))


def test_a_flipped_bit_is_refused_or_still_valid_rows() -> None:
    """Under zlib a checksum notices it; without, what is accepted must be something that encode would accept too."""
    for position in range(len(SAMPLE) * 8):
        flipped = bytearray(SAMPLE)
        flipped[position // 8] ^= 1 << position % 8
        try:
            rows = codec.decode(bytes(flipped))
        except WireError:
            continue
        assert rows == codec.decode(SAMPLE)  # a flag of zlib's header that changes nothing
    packed = zlib.decompress(SAMPLE)
    for position in range(len(packed) * 8):
        flipped = bytearray(packed)
        flipped[position // 8] ^= 1 << position % 8
        try:
            rows = codec.decode(zlib.compress(bytes(flipped)))
        except WireError:
            continue
        assert codec.decode(codec.encode(rows)) == in_order(rows)


@settings(max_examples=300)
@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused(payload: bytes) -> None:
    with pytest.raises(WireError):
        codec.decode(payload)


_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
)
_NESTED = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.integers(0, 9), inner, max_size=3),
    max_leaves=30,
)


@settings(max_examples=300)
@given(st.lists(st.lists(_NESTED, max_size=6) | _NESTED, max_size=4) | _NESTED)
def test_arbitrary_structures_are_refused_or_valid_rows(blocks: object) -> None:
    try:
        rows = codec.decode(body(blocks))
    except WireError:
        return
    assert codec.decode(codec.encode(rows)) == in_order(rows)


def test_a_zlib_bomb_is_refused_without_being_inflated() -> None:
    bomb = zlib.compress(bytes(200_000_000), 9)
    assert "inflates to over" in refused(bomb)


_MANY = codec.MAX_BODY - 6
HEAVY: dict[str, Callable[[], bytes]] = {
    "2^32-1 blocks": lambda: array32(2**32 - 1),
    "2^32-1 entries in a block": lambda: b"\x91" + array32(2**32 - 1),
    "2^32-1 entries in a column": lambda: b"\x91\x94\x01\x91\x00\x02" + array32(2**32 - 1),
    "2^32-1 bytes of text": lambda: b"\x91\x94\x01\x91\x00\x01\xdb\xff\xff\xff\xff",
    "2^32-1 pairs of a map": lambda: b"\x91\x94\x01\x91\x00\x01\xdf\xff\xff\xff\xff",
    "arrays in arrays": lambda: b"\x91" * codec.MAX_BODY,
    "maps in maps": lambda: b"\x91\x91" + b"\x81\x00" * (codec.MAX_BODY // 2 - 1),
    "empty blocks": lambda: array32(_MANY) + b"\x90" * _MANY,
    "empty columns": lambda: b"\x91" + array32(_MANY) + b"\x90" * _MANY,
    "empty entries": lambda: b"\x91\x91" + array32(_MANY) + b"\x90" * _MANY,
    "small maps": lambda: b"\x91" + array32(_MANY // 3) + b"\x81\x00\xc0" * (_MANY // 3),
    "small texts": lambda: b"\x91" + array32(_MANY // 2) + b"\xa1a" * (_MANY // 2),
    "floats": lambda: b"\x91" + array32(_MANY // 9) + b"\xcb\0\0\0\0\0\0\0\x01" * (_MANY // 9),
    "an extension type": lambda: b"\x91\x94\x01\x91\x00\x01\xc7\x01\x05\x00",
    "times without end": lambda: b"\x91\x92\x03" + array32(_MANY - 4) + b"\x00" * (_MANY - 4),
    "text that is not UTF-8": lambda: b"\x91\x94\x05\x91\x00\x01\xa2\xff\xfe",
}  # fmt: skip


@pytest.mark.parametrize("packed", HEAVY.values(), ids=HEAVY)
def test_what_only_claims_to_be_large_costs_little(packed: Callable[[], bytes]) -> None:
    refused(zlib.compress(packed(), 9))


T = [0, 60000]
WRONG: list[tuple[str, object, str]] = [
    ("no block", 5, "array"),
    ("block no array", [5], "array"),
    ("empty block", [[]], f"no kind that schema {SCHEMA} knows"),
    ("kind unknown", [[99, T]], f"no kind that schema {SCHEMA} knows"),
    ("kind a text", [["radio", T]], f"no kind that schema {SCHEMA} knows"),
    ("kind a bool", [[True, T]], "array"),
    ("kind a float", [[1.0, T]], "array"),
    ("no times", [[1]], "radio.boottime_ms: not an array"),
    ("times a number", [[1, 5]], "radio.boottime_ms: not an array"),
    ("times with nil", [[1, [0, None]]], "not a whole number"),
    ("times with text", [[1, [0, "1"]]], "not a whole number"),
    ("time goes back", [[1, [9, -1]]], "goes back"),
    ("time over the limit", [[1, [2**43, 1]]], "is over 8796093022208"),
    ("no rows", [[1, []]], "0 rows, where 1 to 4096 may stand"),
    ("field unknown", [[1, T, 99, 1]], f"field 99 is unknown to schema {SCHEMA} or stands twice"),
    ("field a text", [[1, T, "pci", 1]], "field 'pci' is unknown"),
    ("field twice", [[1, T, 15, 1, 15, 2]], f"field 15 is unknown to schema {SCHEMA} or stands twice"),
    ("field without column", [[1, T, 15]], "a field id without its column"),
    ("column too short", [[1, T, 15, [1]]], "1 entries for 2 rows"),
    ("column too long", [[1, T, 15, [1, 1, 1]]], "3 entries for 2 rows"),
    ("constant nil", [[1, T, 15, None]], "not a whole number"),
    ("constant out of range", [[1, T, 15, 1008]], "radio.pci: 1008 is outside 0…1007"),
    ("number a text", [[1, T, 15, "1"]], "not a whole number"),
    ("entry a text", [[1, T, 15, [1, "1"]]], "not a whole number"),
    ("entry a list", [[1, T, 15, [1, [1]]]], "not a whole number"),
    ("sum out of range", [[1, T, 15, [1000, 8]]], "radio.pci: 1008 is outside 0…1007"),
    ("sum of huge deltas", [[1, T, 15, [2**64 - 1, 2**64 - 1]]], "is outside 0…1007"),
    ("text a number", [[1, T, 9, 5]], "not a printable text"),
    ("text entry a number", [[1, T, 9, ["a", 5]]], "not a printable text"),
    ("text too long", [[1, T, 9, "a" * 201]], "not a printable text"),
    ("text with a control", [[1, T, 9, "a\x00"]], "not a printable text"),
    ("array a number", [[2, T, 5, 5]], "an array field needs one entry a row"),
    ("array entry a number", [[2, T, 5, [5, 5]]], "not an array"),
    ("array too long", [[2, T, 5, [[0] * 257, None]]], "not an array of at most 256"),
    ("array with text", [[2, T, 5, [["a"], None]]], "array"),
    ("array nested", [[2, T, 5, [[[1]], None]]], "array"),
    ("array out of range", [[2, T, 5, [[-1], None]]], "path.rtt_us: -1 is outside"),
    ("kind twice", [[3, [1]], [3, [2]]], "two blocks of one kind"),
    ("twins", [[3, [1, 0]]], "board: two rows have the same boottime_ms"),
    ("twins by key", [[5, [1, 0], 1, "a"]], "event: two rows have the same boottime_ms + name + n"),
    ("too many rows", [[3, [0] + [1] * 4096]], "not an array of at most 4096"),
    ("too many rows together", [[3, [0] + [1] * 4094], [5, T]], "2 rows, where 1 to 1 may stand"),
]  # fmt: skip


@pytest.mark.parametrize(("blocks", "message"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_wrong_type_or_value_in_any_position_is_refused_by_name(blocks: object, message: str) -> None:
    assert message in refused(body(blocks))


def test_a_schema_older_than_the_dictionary_knows_no_field_of_it() -> None:
    """Every field here is `since` 1: a body that says schema 0 can hold none of them."""
    refused(SAMPLE, schema=0)
