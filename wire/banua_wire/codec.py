"""Rows to bytes and back: columns per kind, whole steps, delta coded, MessagePack, zlib.

A body is the zlib stream of one MessagePack array of blocks, one a kind, in the order of kind ids:
``[kind id, [t0, Δt, …], field id, column, field id, column, …]``. A column is one scalar when every row has the same
value, else an array with one entry a row and nil where a row has none; numbers in such an array are the difference to
the entry before that was there. Rows are in the order of time, then key, so equal rows make equal bytes.
"""

import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from banua_wire.errors import WireError
from banua_wire.fields import BY_KIND_ID, KINDS, MAX_ARRAY, SCHEMA, Field, Kind, Type, Value
from banua_wire.rows import MAX_BOOTTIME_MS, Row, check_range, check_text, checked, steps_of, unit_value

MAX_ROWS: Final = 4096
"""Most rows in one body."""
MAX_BODY: Final = 1 << 18
"""Most bytes a body may inflate to."""

_pack = msgspec.msgpack.Encoder().encode
_Column = int | str | list[int | str | list[int | None] | None] | None
_unpack = msgspec.msgpack.Decoder(list[list[_Column]]).decode


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
    try:
        blocks = _unpack(_inflate(body))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise WireError(f"body is not an array of blocks: {error!s:.100}") from None
    rows: list[Row] = []
    for block in blocks:
        rows.extend(_rows(block, schema, MAX_ROWS - len(rows)))
    if len({block[0] for block in blocks}) != len(blocks):
        raise WireError("body has two blocks of one kind")
    return rows


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


def _rows(block: list[Any], schema: int, room: int) -> list[Row]:
    kind = BY_KIND_ID.get(block[0]) if block and type(block[0]) is int else None
    if kind is None or kind.since > schema:
        raise WireError(f"block of no kind that schema {schema} knows")
    times = _sums(block[1] if len(block) > 1 else None, f"{kind.name}.boottime_ms", MAX_BOOTTIME_MS)
    if not 0 < len(times) <= room:
        raise WireError(f"{kind.name}: {len(times)} rows, where 1 to {room} may stand (at most {MAX_ROWS} a batch)")
    rows = [Row(kind.name, time, {}) for time in times]
    seen: set[str] = set()
    for field_id, column in zip(block[2::2], block[3::2], strict=False):
        field = kind.field_by_id(field_id) if type(field_id) is int else None
        if field is None or field.since > schema or field.name in seen:
            raise WireError(f"{kind.name}: field {field_id!r:.20} is unknown to schema {schema} or stands twice")
        seen.add(field.name)
        _fill(rows, kind, field, column)
    if len(block) % 2:
        raise WireError(f"{kind.name}: a field id without its column")
    _refuse_twins(kind, rows)
    return rows


def _fill(rows: list[Row], kind: Kind, field: Field, column: Any) -> None:
    where = f"{kind.name}.{field.name}"
    if not isinstance(column, list):
        if field.type is Type.ARRAY:
            raise WireError(f"{where}: an array field needs one entry a row")
        constant = _entry(field, column, where)
        for row in rows:
            row.values[field.name] = constant
        return
    if len(column) != len(rows):
        raise WireError(f"{where}: {len(column)} entries for {len(rows)} rows")
    total = 0
    for row, entry in zip(rows, column, strict=True):
        if entry is None:
            continue
        if field.type is Type.NUMBER:
            total += _whole(entry, where)
            entry = total  # noqa: PLW2901 (the running sum is the entry)
        row.values[field.name] = _entry(field, entry, where)


def _entry(field: Field, entry: Any, where: str) -> Value:
    if field.type is Type.TEXT:
        return check_text(entry, where)
    if field.type is Type.NUMBER:
        return _in_unit(field, entry, where)
    if not isinstance(entry, list) or len(entry) > MAX_ARRAY:
        raise WireError(f"{where}: not an array of at most {MAX_ARRAY} entries")
    return [None if step is None else _in_unit(field, step, where) for step in entry]


def _in_unit(field: Field, entry: Any, where: str) -> int | float:
    steps = _whole(entry, where)
    check_range(field, steps, where)
    return unit_value(field, steps)


def _whole(entry: Any, where: str) -> int:
    if type(entry) is not int:
        raise WireError(f"{where}: {entry!r:.40} is not a whole number of steps")
    return entry


def _sums(column: Any, where: str, limit: int) -> list[int]:
    if not isinstance(column, list) or len(column) > MAX_ROWS:
        raise WireError(f"{where}: not an array of at most {MAX_ROWS} entries")
    sums: list[int] = []
    total = 0
    for entry in column:
        step = _whole(entry, where)
        total += step
        if step < 0 or total > limit:
            raise WireError(f"{where}: {total} goes back or is over {limit}")
        sums.append(total)
    return sums


def _refuse_twins(kind: Kind, rows: list[Row]) -> None:
    if len({(row.boottime_ms, row.key) for row in rows}) != len(rows):
        raise WireError(f"{kind.name}: two rows have the same {' + '.join(('boottime_ms', *kind.key))}")
