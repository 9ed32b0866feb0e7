"""The wall clock in the one unit that this package counts in, passed in by whoever composes; how a time is written."""

import time
from datetime import UTC, datetime


def wall_ms() -> int:
    """Return now as milliseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1_000_000


def iso(ms: int) -> str:
    """Return the moment `ms` in ISO 8601, UTC, to the second."""
    return f"{datetime.fromtimestamp(ms // 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"


def month_of(unix_ms: int) -> str:
    """Return the UTC month of `unix_ms`, like 2026-11: the archive it belongs to."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m")
