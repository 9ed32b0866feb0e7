"""Lists as people and as machines read them: aligned text, or one JSON object a line.

An absent value is no text, never a zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

Entry = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Listing:
    """Rows with the same columns, and what to say when there are none."""

    entries: Sequence[Entry]
    empty: str = "nothing"
    columns: Sequence[str] = field(default=())
    note: str = ""
    """A line for people before the rows; for machines the rows say it all."""

    def json(self) -> str:
        """Return one JSON object a line."""
        return "".join(f"{msgspec.json.encode(dict(entry)).decode()}\n" for entry in self.entries)

    def text(self) -> str:
        """Return a table with a heading."""
        note = f"{self.note}\n" if self.note else ""
        if not self.entries:
            return f"{note}{self.empty}\n"
        columns = self.columns or list(self.entries[0])
        cells = [[column.upper() for column in columns]]
        cells += [[shown(entry.get(column)) for column in columns] for entry in self.entries]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
        return note + "".join(f"{line.rstrip()}\n" for line in lines)


def shown(value: Any) -> str:
    """Return a cell's text."""
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, list | tuple):
        return " ".join(shown(each) or "-" for each in value)
    return "" if value is None else str(value)


Answer = str | Listing
"""What a command prints."""
