"""What is promised of the journal holds on both databases: the same tests, counted, and the counts must be equal."""

from __future__ import annotations

import re
from collections import Counter

import pytest

DATABASES = ("sqlite", "postgresql")


class BothDatabases:
    """Count the tests that passed on each database; a session of `-m both` fails when the counts differ."""

    def __init__(self, *, judges: bool) -> None:
        self.passed: Counter[str] = Counter()
        self.judges = judges

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found = re.search(rf"[\[-]({'|'.join(DATABASES)})[\]-]", report.nodeid)
        if found and report.when == "call" and report.passed:
            self.passed[found[1]] += 1

    @property
    def differ(self) -> bool:
        return self.judges and len({self.passed[name] for name in DATABASES}) != 1

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.differ and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.judges:
            told = ", ".join(f"{self.passed[name]} on {name}" for name in DATABASES)
            terminalreporter.write_line(f"both databases: {told}", red=self.differ)


def pytest_configure(config: pytest.Config) -> None:
    whole = config.getoption("-m") == "both" and not hasattr(config, "workerinput")
    config.pluginmanager.register(BothDatabases(judges=whole), "both-databases")
