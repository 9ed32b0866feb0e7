"""Milliseconds since 1970 in the words people and archives use."""

from datetime import UTC, datetime


def month_of(unix_ms: int) -> str:
    """Return the UTC month of `unix_ms`, like 2026-11: the archive it belongs to."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m")
