"""A target in memory: what stands where, and answers that fail when a test says so."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from banua_collector.project.target import Refusal, TargetUnavailableError

_LINE: Final = re.compile(r"((?:[^ \\]|\\.)+) (.+) (\d+)")
_NS_PER_MS: Final = 1_000_000


class MemoryTarget:
    """Points by series and ns. `answers` are used up one a call: ok, refused (nothing done), lost (done, untold)."""

    def __init__(self, answers: Iterable[str] = ()) -> None:
        self.points: dict[tuple[str, int], str] = {}
        self.answers = list(answers)
        self.calls: list[str] = []
        self.began_s: float | None = 1000.0

    def write(self, lines: Sequence[str]) -> list[Refusal]:
        """See `Target`."""
        answer = self._answer("write")
        for line in lines:
            found = _LINE.fullmatch(line)
            assert found is not None, line
            self.points[found[1], int(found[3])] = found[2]
        self._tell(answer)
        return []

    def started_s(self) -> float | None:
        """See `Target`."""
        return self.began_s

    def delete(self, probe: str, first_ms: int, last_ms: int) -> None:
        """See `Target`."""
        answer = self._answer("delete")
        tag = re.compile(rf",probe={probe}(,|$)")
        span = range(first_ms * _NS_PER_MS, (last_ms + 1) * _NS_PER_MS)
        self.points = {
            (series, ns): fields
            for (series, ns), fields in self.points.items()
            if ns not in span or not tag.search(series)
        }
        self._tell(answer)

    def _answer(self, call: str) -> str:
        self.calls.append(call)
        answer = self.answers.pop(0) if self.answers else "ok"
        if answer == "refused":
            raise TargetUnavailableError(f"{call}: refused")
        return answer

    def _tell(self, answer: str) -> None:
        if answer == "lost":
            raise TargetUnavailableError("the answer was lost")
