"""Write docs/data-dictionary.md from the table in banua_wire.fields.

usage: python tools/make_dictionary.py
"""

from pathlib import Path

from banua_wire.fields import KINDS, MAX_ARRAY, MAX_TEXT, SCHEMA, Field, Kind, Type

PAGE = Path(__file__).parents[1] / "docs/data-dictionary.md"
HEAD = f"""\
# Data dictionary

Schema {SCHEMA}. Made by `python tools/make_dictionary.py` from `wire/banua_wire/fields.py`; edit that, not this page.

A row is of one kind, carries the probe's CLOCK_BOOTTIME in milliseconds, and has values for any of its kind's
fields. What was not measured is absent: no zero, no sentinel. Two rows of one kind with the same time and the
same **key** cannot stand in one batch. Ids, names, types, units, steps and ranges never change; new fields
and kinds are added with a higher schema.

A *number* is a whole number of steps within its range, ends included. A *text* has 1 to {MAX_TEXT} printable
characters. An *array* has up to {MAX_ARRAY} numbers in order, absent where there is none. Kinds marked *SQL*
do not go to InfluxDB.
"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _range(field: Field) -> str:
    return "" if field.type is Type.TEXT else f"{field.lo:.15g} … {field.hi:.15g}"


def _line(kind: Kind, field: Field) -> str:
    step = "" if field.type is Type.TEXT else f"1/{field.steps}" if field.steps > 1 else "1"
    key = "key" if field.name in kind.key else ""
    cells = (
        str(field.id), f"`{field.name}`", key, field.type.value, field.unit, step, _range(field), str(field.since),
        field.meaning, field.source,
    )  # fmt: skip
    return f"| {' | '.join(map(_cell, cells))} |"


def _section(kind: Kind) -> str:
    key = ", ".join(f"`{name}`" for name in kind.key) or "none: one row a moment"
    sink = "" if kind.sink == "influx" else " SQL only."
    return "\n".join((
        f"## `{kind.name}` (kind {kind.id}, since schema {kind.since})",
        "",
        f"{kind.meaning}. Key: {key}.{sink}",
        "",
        "| id | field | key | type | unit | step | range | since | meaning | source |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_line(kind, field) for field in kind.fields),
        "",
    ))  # fmt: skip


def page() -> str:
    """Return the whole page."""
    return "\n".join((HEAD, *map(_section, KINDS)))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
