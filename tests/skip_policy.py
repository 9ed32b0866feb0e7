"""A skipped test proves nothing: a skip or xfail that tests/allowed_skips.txt does not list fails the session.

Only the process that gathers the results judges (under xdist, the controller).
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.real.parts import ALLOW_MISSING, missing_allowed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ALLOWED = "tests/allowed_skips.txt"


def read_allowed(text: str) -> Iterator[str]:
    """Yield the patterns: node ids with `*` for anything, each followed by ` # ` and the reason."""
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        pattern, _, reason = line.partition(" # ")
        if not reason.strip():
            raise ValueError(f"no reason given: {line}")
        yield pattern.strip()


def matches(pattern: str, nodeid: str) -> bool:
    """Match literally except for `*`: node ids are full of brackets."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), nodeid) is not None


def unlisted(skipped: Iterable[str], patterns: Iterable[str]) -> list[str]:
    known = list(patterns)
    return sorted(nodeid for nodeid in set(skipped) if not any(matches(pattern, nodeid) for pattern in known))


class SkipPolicy:
    """Count what did not run."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.skipped: list[str] = []
        self.missing: list[str] = []
        self.refused: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped or hasattr(report, "wasxfail"):
            self._count(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._count(report)

    def _count(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        excused = missing_allowed() and f"Skipped: {ALLOW_MISSING}:" in str(report.longrepr)
        (self.missing if excused else self.skipped).append(report.nodeid)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over the modules that a worker skipped whole: xdist does not pass those reports on."""
        self.skipped.extend(getattr(node, "workeroutput", {}).get("skipped_modules", []))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(self.config, "workeroutput"):
            self.config.workeroutput["skipped_modules"] = [nodeid for nodeid in self.skipped if "::" not in nodeid]
            return
        allowed = read_allowed((self.config.rootpath / ALLOWED).read_text())
        self.refused = unlisted(self.skipped, allowed)
        if self.refused and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        line = terminalreporter.write_line
        for nodeid in self.missing:
            line(f"not proven, a real part is missing: {nodeid}", yellow=True)
        for nodeid in self.refused:
            line(f"skipped or xfailed without being listed in {ALLOWED}: {nodeid}", red=True)


def pytest_configure(config: pytest.Config) -> None:
    if missing_allowed() and os.environ.get("CI"):
        pytest.exit(f"{ALLOW_MISSING} is refused in continuous integration: every real part must be there", 4)
    config.pluginmanager.register(SkipPolicy(config), "skip-policy")
