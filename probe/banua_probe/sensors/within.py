"""What a sensor was told but the dictionary cannot hold is unknown: left out, never clipped, and never a lost row."""

from banua_wire.fields import BY_KIND, Value


def within_dictionary(kind: str, values: dict[str, Value]) -> dict[str, Value]:
    """Return `values` without numbers outside their field's range."""
    kept: dict[str, Value] = {}
    for name, value in values.items():
        field = BY_KIND[kind].field(name)
        if field is not None and (not isinstance(value, int | float) or field.lo <= value <= field.hi):
            kept[name] = value
    return kept
