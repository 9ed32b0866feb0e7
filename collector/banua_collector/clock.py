"""The wall clock in the one unit that this package counts in, passed in by whoever composes; how a time is written."""

import re
import time
from datetime import UTC, datetime

from banua_collector.errors import CollectorError


def wall_ms() -> int:
    """Return now as milliseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1_000_000


def iso(ms: int) -> str:
    """Return the moment `ms` in ISO 8601, UTC, to the second."""
    return f"{datetime.fromtimestamp(ms // 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"


def month_of(unix_ms: int) -> str:
    """Return the UTC month of `unix_ms`, like 2026-11: the archive it belongs to."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m")


def month_span(month: str) -> tuple[int, int]:
    """Return when a UTC month like 2026-11 begins and when the next one does (ms); CollectorError if it is none."""
    if not re.fullmatch(r"(19[7-9]\d|2\d{3})-(0[1-9]|1[0-2])", month, re.ASCII):
        raise CollectorError(f"{month!r:.20} is not a month like 2026-11")
    year, number = int(month[:4]), int(month[5:])
    begins = datetime(year, number, 1, tzinfo=UTC)
    ends = datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)
    return int(begins.timestamp()) * 1000, int(ends.timestamp()) * 1000
