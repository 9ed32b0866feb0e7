"""What a sensor was told but the dictionary cannot hold is unknown: left out, never clipped, and never a lost row."""

from typing import Final

from banua_wire.fields import BY_KIND, MAX_TEXT, Type, Value

_PROSE: Final = "reason"
"""The one text that is written for people: too long, it is cut, for its beginning says what happened."""


def within_dictionary(kind: str, values: dict[str, Value]) -> dict[str, Value]:
    """Return `values` without numbers outside their field's range and texts that no row can hold."""
    kept: dict[str, Value] = {}
    for name, value in values.items():
        field = BY_KIND[kind].field(name)
        if field is None:
            continue
        if name == _PROSE and isinstance(value, str):
            value = printable(value)[:MAX_TEXT]  # noqa: PLW2901 (the value as it can be kept)
        if field.type is Type.TEXT:
            holds = isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable()
        else:
            holds = not isinstance(value, int | float) or field.lo <= value <= field.hi
        if holds:
            kept[name] = value
    return kept


def printable(text: str) -> str:
    """Return `text` with a blank for each character that a row cannot hold."""
    return "".join(char if char.isprintable() else " " for char in text)
