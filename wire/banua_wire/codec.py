"""Rows to bytes and back: columns per kind, whole steps, delta coded, MessagePack, zlib.

A body is the zlib stream of one MessagePack array of blocks, one a kind, in the order of kind ids:
``[kind id, [t0, Δt, …], field id, column, field id, column, …]``. A column is one scalar when every row has the same
value, else an array with one entry a row and nil where a row has none; numbers in such an array are the difference to
the entry before that was there. Rows are in the order of time, then key, so equal rows make equal bytes.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

import msgspec

from banua_wire.errors import WireError
from banua_wire.fields import BY_KIND_ID, KINDS, MAX_ARRAY, SCHEMA, Field, Kind, Type, Value
from banua_wire.rows import MAX_BOOTTIME_MS, Row, check_range, check_text, checked, steps_of

MAX_ROWS: Final = 4096
"""Most rows in one body."""
MAX_BODY: Final = 1 << 18
"""Most bytes a body may inflate to."""

_pack = msgspec.msgpack.Encoder().encode
_Column = int | str | list[int | str | list[int | None] | None] | None
_unpack = msgspec.msgpack.Decoder(list[list[_Column]]).decode
_WHOLE: Final = frozenset({int})  # a bool is none
_TEXT: Final = frozenset({str})


@dataclass(frozen=True, slots=True)
class Block:
    """The rows of one kind as columns: a boottime (ms) each, and by field name a value or None for each row."""

    kind: Kind
    boottimes_ms: list[int]
    columns: dict[str, list[Value | None]]

    def keys(self) -> list[list[Any]]:
        """Return the columns of the kind's key, in its order; a key field that no row has is all None."""
        return [self.columns.get(name) or [None] * len(self.boottimes_ms) for name in self.kind.key]

    def values(self) -> int:
        """Return how many values it holds, boottimes and the entries of arrays too: a measure of its memory."""
        arrays = (self.columns.get(field.name, ()) for field in self.kind.fields if field.type is Type.ARRAY)
        entries = sum(len(value) for column in arrays for value in column if isinstance(value, list))
        return len(self.boottimes_ms) * (1 + len(self.columns)) + entries

    def rows(self) -> list[Row]:
        """Return the rows, each with the values it has."""
        if not self.columns:
            return [Row(self.kind.name, time, {}) for time in self.boottimes_ms]
        return [
            Row(
                self.kind.name,
                time,
                {name: value for name, value in zip(self.columns, values, strict=True) if value is not None},
            )
            for time, values in zip(self.boottimes_ms, zip(*self.columns.values(), strict=True), strict=True)
        ]


def encode(rows: Iterable[Row]) -> bytes:
    """Return the body for `rows`; WireError names what is outside the dictionary or stands twice."""
    by_kind: dict[str, list[Row]] = {}
    for row in rows:
        by_kind.setdefault(row.kind, []).append(checked(row))
    if sum(map(len, by_kind.values())) > MAX_ROWS:
        raise WireError(f"more than {MAX_ROWS} rows in one batch")
    blocks = [_block(kind, by_kind[kind.name]) for kind in KINDS if kind.name in by_kind]
    packed = _pack(blocks)
    if len(packed) > MAX_BODY:
        raise WireError(f"body of {len(packed)} bytes is over {MAX_BODY}")
    return zlib.compress(packed, 9)


def decode(body: bytes, schema: int = SCHEMA) -> list[Row]:
    """Return the rows of `body`, sealed with `schema`; WireError for anything malformed, in bounded time and memory."""
    return [row for block in decode_blocks(body, schema) for row in block.rows()]


def decode_blocks(body: bytes, schema: int = SCHEMA) -> list[Block]:
    """Return what `decode` does column by column, as it travels: a collector of many rows wants no object for each."""
    try:
        packed = _unpack(_inflate(body))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise WireError(f"body is not an array of blocks: {error!s:.100}") from None
    blocks: list[Block] = []
    room = MAX_ROWS
    for each in packed:
        blocks.append(_opened(each, schema, room))
        room -= len(blocks[-1].boottimes_ms)
    if len({block.kind.id for block in blocks}) != len(blocks):
        raise WireError("body has two blocks of one kind")
    return blocks


def _inflate(body: bytes) -> bytes:
    inflater = zlib.decompressobj()
    try:
        packed = inflater.decompress(body, MAX_BODY)
    except zlib.error as error:
        raise WireError(f"body is not zlib: {error!s:.100}") from None
    if not inflater.eof or inflater.unused_data:
        raise WireError(f"body is cut short, has bytes after its end, or inflates to over {MAX_BODY} bytes")
    return packed


def _block(kind: Kind, rows: list[Row]) -> list[Any]:
    rows.sort(key=lambda row: (row.boottime_ms, [(value is not None, value) for value in row.key]))
    _refuse_twins(kind, rows)
    block: list[Any] = [kind.id, _deltas([row.boottime_ms for row in rows])]
    for field in kind.fields:
        column = [row.values.get(field.name) for row in rows]
        if any(value is not None for value in column):
            block += (field.id, _column(field, column))
    return block


def _column(field: Field, values: list[Value | None]) -> Any:
    if field.type is Type.ARRAY:
        return [_steps(field, value) if isinstance(value, list) else None for value in values]
    first = values[0]
    if all(value == first for value in values):
        return first if field.type is Type.TEXT else steps_of(field, first, field.name)
    return values if field.type is Type.TEXT else _deltas(_steps(field, values))


def _steps(field: Field, values: Sequence[Value | None]) -> list[int | None]:
    return [None if value is None else steps_of(field, value, field.name) for value in values]


def _deltas(values: Sequence[int | None]) -> list[int | None]:
    deltas: list[int | None] = []
    before = 0
    for value in values:
        deltas.append(None if value is None else value - before)
        before = before if value is None else value
    return deltas


def _opened(block: list[Any], schema: int, room: int) -> Block:
    kind = BY_KIND_ID.get(block[0]) if block and type(block[0]) is int else None
    if kind is None or kind.since > schema:
        raise WireError(f"block of no kind that schema {schema} knows")
    times = _times(block[1] if len(block) > 1 else None, f"{kind.name}.boottime_ms")
    if not 0 < len(times) <= room:
        raise WireError(f"{kind.name}: {len(times)} rows, where 1 to {room} may stand (at most {MAX_ROWS} a batch)")
    opened = Block(kind, times, {})
    for field_id, column in zip(block[2::2], block[3::2], strict=False):
        field = kind.field_by_id(field_id) if type(field_id) is int else None
        if field is None or field.since > schema or field.name in opened.columns:
            raise WireError(f"{kind.name}: field {field_id!r:.20} is unknown to schema {schema} or stands twice")
        opened.columns[field.name] = _values(field, column, len(times), f"{kind.name}.{field.name}")
    if len(block) % 2:
        raise WireError(f"{kind.name}: a field id without its column")
    if len(set(zip(times, *opened.keys(), strict=True))) != len(times):
        raise _twins(kind)
    return opened


def _times(column: Any, where: str) -> list[int]:
    if not isinstance(column, list) or len(column) > MAX_ROWS:
        raise WireError(f"{where}: not an array of at most {MAX_ROWS} entries")
    _only_whole(column, where)
    times = list(accumulate(column))
    if times and (min(column) < 0 or times[-1] > MAX_BOOTTIME_MS):
        raise WireError(f"{where}: goes back or is over {MAX_BOOTTIME_MS}")
    return times


def _values(field: Field, column: Any, n: int, where: str) -> list[Value | None]:
    """Return a column's value for each of `n` rows, None where a row has none."""
    if not isinstance(column, list):
        if field.type is Type.ARRAY:
            raise WireError(f"{where}: an array field needs one entry a row")
        return [_texts([column], where)[0] if field.type is Type.TEXT else _numbers(field, [column], where)[0]] * n
    if len(column) != n:
        raise WireError(f"{where}: {len(column)} entries for {n} rows")
    there = [entry for entry in column if entry is not None] if None in column else column
    values: Sequence[Value]
    if field.type is Type.TEXT:
        values = _texts(there, where)
    elif field.type is Type.ARRAY:
        values = [_array(field, entry, where) for entry in there]
    else:
        _only_whole(there, where)
        values = _in_unit(field, list(accumulate(there)), where)
    if there is column:
        return list(values)
    left = iter(values)
    return [None if entry is None else next(left) for entry in column]


def _texts(texts: list[Any], where: str) -> list[str]:
    for text in set(texts) if _TEXT.issuperset(map(type, texts)) else texts:
        check_text(text, where)
    return texts


def _array(field: Field, entries: Any, where: str) -> list[int | float | None]:
    if not isinstance(entries, list) or len(entries) > MAX_ARRAY:
        raise WireError(f"{where}: not an array of at most {MAX_ARRAY} entries")
    left = iter(_numbers(field, [entry for entry in entries if entry is not None], where))
    return [None if entry is None else next(left) for entry in entries]


def _numbers(field: Field, steps: list[Any], where: str) -> list[int] | list[float]:
    """Return whole steps as values in the field's unit."""
    _only_whole(steps, where)
    return _in_unit(field, steps, where)


def _in_unit(field: Field, steps: list[int], where: str) -> list[int] | list[float]:
    if not steps:
        return []
    for extreme in (min(steps), max(steps)):
        check_range(field, extreme, where)
    return steps if field.steps == 1 else [each / field.steps for each in steps]


def _only_whole(entries: list[Any], where: str) -> None:
    if not _WHOLE.issuperset(map(type, entries)):
        wrong = next(entry for entry in entries if type(entry) is not int)
        raise WireError(f"{where}: {wrong!r:.40} is not a whole number of steps")


def _refuse_twins(kind: Kind, rows: list[Row]) -> None:
    if len({(row.boottime_ms, row.key) for row in rows}) != len(rows):
        raise _twins(kind)


def _twins(kind: Kind) -> WireError:
    return WireError(f"{kind.name}: two rows have the same {' + '.join(('boottime_ms', *kind.key))}")
