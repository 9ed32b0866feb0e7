"""Valid rows of every kind, on the grid of their fields, for property tests here and elsewhere."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from banua_wire.fields import KINDS, MAX_ARRAY, MAX_TEXT, Field, Kind, Type, Value
from banua_wire.rows import MAX_BOOTTIME_MS, Row

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

TEXTS = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), min_size=1, max_size=MAX_TEXT)


def numbers(field: Field) -> SearchStrategy[int | float]:
    """Every number the dictionary says the field can hold: k/steps within lo…hi, its ends included."""
    steps = st.integers(math.ceil(field.lo * field.steps), math.floor(field.hi * field.steps))
    return steps if field.steps == 1 else steps.map(lambda k: k / field.steps)


def values(field: Field) -> SearchStrategy[Value]:
    match field.type:
        case Type.TEXT:
            return TEXTS
        case Type.NUMBER:
            return numbers(field)
        case Type.ARRAY:
            return st.lists(st.none() | numbers(field), max_size=MAX_ARRAY)


def rows_of(kind: Kind) -> SearchStrategy[Row]:
    columns = st.fixed_dictionaries({}, optional={field.name: values(field) for field in kind.fields})
    return st.builds(Row, st.just(kind.name), st.integers(0, MAX_BOOTTIME_MS), columns)


def identity(row: Row) -> tuple[str, int, tuple[object, ...]]:
    return row.kind, row.boottime_ms, row.key


ROWS = st.one_of([rows_of(kind) for kind in KINDS])
BATCHES = st.lists(ROWS, max_size=20, unique_by=identity)
