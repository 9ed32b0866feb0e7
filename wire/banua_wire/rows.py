"""A row and what makes it valid: the dictionary applied to one measurement."""

from dataclasses import dataclass
from typing import Final

from banua_wire.errors import WireError
from banua_wire.fields import BY_KIND, MAX_ARRAY, MAX_TEXT, Field, Kind, Type, Value

MAX_BOOTTIME_MS: Final = 2**43
"""Latest CLOCK_BOOTTIME a row may carry, in ms."""

Key = tuple[int | float | str | None, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement: kind, CLOCK_BOOTTIME in ms, and values by field name; what was not measured is absent."""

    kind: str
    boottime_ms: int
    values: dict[str, Value]

    @property
    def key(self) -> Key:
        """Values of the kind's key columns, None where absent: with kind and time, the row's identity in a boot."""
        return tuple(_scalar(self.values.get(name)) for name in kind_of(self).key)


def _scalar(value: Value | None) -> int | float | str | None:
    return None if isinstance(value, list) else value


def kind_of(row: Row) -> Kind:
    """Return the dictionary's kind of `row`; WireError if there is none."""
    kind = BY_KIND.get(row.kind)
    if kind is None:
        raise WireError(f"kind {row.kind!r} is not in the dictionary")
    return kind


def steps_of(field: Field, value: Value | None, where: str) -> int:
    """Return `value` as a whole number of the field's steps; WireError when it is no number within range."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WireError(f"{where}: {value!r:.60} is not a number")
    if not field.lo - 1 <= value <= field.hi + 1:  # NaN too; and before arithmetic that could overflow
        raise WireError(f"{where}: {_short(value)} is outside {_range(field)}")
    steps = value if field.steps == 1 and isinstance(value, int) else round(value * field.steps)
    check_range(field, steps, where)
    return steps


def check_range(field: Field, steps: int, where: str) -> None:
    """Raise WireError when `steps` lies outside the field's range."""
    if not field.lo * field.steps <= steps <= field.hi * field.steps:
        raise WireError(f"{where}: {_short(unit_value(field, steps))} is outside {_range(field)}")


def _short(value: float) -> str:
    if isinstance(value, int) and abs(value) >= 10**15:
        return "a number of over 15 digits"
    return f"{value:.12g}"


def _range(field: Field) -> str:
    return f"{field.lo:.15g}…{field.hi:.15g} {field.unit}".rstrip()


def unit_value(field: Field, steps: int) -> int | float:
    """Return the value in the field's unit that `steps` steps make."""
    return steps if field.steps == 1 else steps / field.steps


def check_text(value: object, where: str) -> str:
    """Return `value` if it is a text of 1 to MAX_TEXT characters, none of them a control character; else WireError."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT or not value.isprintable():
        raise WireError(f"{where}: {value!r:.60} is not a printable text of 1 to {MAX_TEXT} characters")
    return value


def _on_grid(field: Field, value: Value | None, where: str) -> Value:
    if field.type is Type.NUMBER:
        return unit_value(field, steps_of(field, value, where))
    if field.type is Type.TEXT:
        return check_text(value, where)
    if not isinstance(value, list) or len(value) > MAX_ARRAY:
        raise WireError(f"{where}: not an array of at most {MAX_ARRAY} entries")
    return [None if entry is None else unit_value(field, steps_of(field, entry, where)) for entry in value]


def checked(row: Row) -> Row:
    """Return `row` as it will arrive: every value on its field's grid. WireError names the field and the limit."""
    kind = kind_of(row)
    if (
        isinstance(row.boottime_ms, bool)
        or not isinstance(row.boottime_ms, int)
        or not 0 <= row.boottime_ms <= MAX_BOOTTIME_MS
    ):
        raise WireError(f"{row.kind}.boottime_ms: {row.boottime_ms!r:.60} is outside 0…{MAX_BOOTTIME_MS}")
    values: dict[str, Value] = {}
    for name, value in row.values.items():
        field = kind.field(name)
        if field is None:
            raise WireError(f"{row.kind}.{name!s:.60}: not in the dictionary")
        values[name] = _on_grid(field, value, f"{row.kind}.{name}")
    return Row(row.kind, row.boottime_ms, values)
