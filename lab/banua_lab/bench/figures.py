"""What a bench found: figures, each with its unit and goal; printed as a table or as one JSON object."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MISSED: Final = 2
"""Exit status when a goal is missed."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One value in `unit`; `goal`, in the same unit, is the most it may be (the least, unless `at_most`), or None."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    at_most: bool = True

    @property
    def met(self) -> bool:
        """Say whether the goal is met, as it always is where there is none; what is not a number meets no goal."""
        if self.goal is None:
            return True
        return self.value <= self.goal if self.at_most else self.value >= self.goal

    @property
    def goal_text(self) -> str:
        """The goal as a reader is told it, empty where there is none."""
        return "" if self.goal is None else f"{'≤' if self.at_most else '≥'} {self.goal:g} {self.unit}"

    @property
    def value_text(self) -> str:
        """The value with its unit, rounded to four digits; a miss is never rounded to its goal."""
        rounded = f"{self.value:.4g}" if abs(self.value) < 1e4 else f"{self.value:.0f}"  # noqa: PLR2004 (no exponent)
        if not self.met and self.goal is not None and float(rounded) == self.goal:
            rounded = str(self.value)
        return f"{rounded} {self.unit}"


def table(command: str, figures: Sequence[Figure]) -> str:
    """Return figures as lines, one each with its goal, under the command that made them."""
    name_width = max(len(figure.name) for figure in figures)
    value_width = max(len(figure.value_text) for figure in figures)
    lines = [f"$ {command}"]
    for figure in figures:
        verdict = "" if figure.goal is None else f"  goal {figure.goal_text}: {'met' if figure.met else 'missed'}"
        lines.append(f"{figure.name:{name_width}}  {figure.value_text:>{value_width}}{verdict}")
    return "\n".join(lines)


def as_json(command: str, figures: Sequence[Figure]) -> str:
    """Return one JSON object: the command, and its figures with name, value, unit, goal, at_most and met."""
    told = [
        {
            "name": figure.name,
            "value": figure.value,
            "unit": figure.unit,
            "goal": figure.goal,
            "at_most": figure.at_most,
            "met": figure.met,
        }
        for figure in figures
    ]
    return json.dumps({"command": command, "figures": told}, ensure_ascii=False)


def exit_status(figures: Sequence[Figure]) -> int:
    """Return 0, or 2 with one line on standard error that names every missed goal."""
    missed = [f"{figure.name} {figure.value_text}, goal {figure.goal_text}" for figure in figures if not figure.met]
    if not missed:
        return 0
    print(f"missed: {'; '.join(missed)}", file=sys.stderr)
    return MISSED


def tell(command: str, figures: Sequence[Figure], *, as_object: bool) -> int:
    """Print figures as a table, or as one JSON object, and return the exit status."""
    print(as_json(command, figures) if as_object else table(command, figures))
    return exit_status(figures)
