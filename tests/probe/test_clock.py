"""The probe's clocks against the kernel's own account of them."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

from banua_probe import clock
from banua_probe.clock import Anchor
from banua_wire.rows import checked


def test_boottime_is_the_kernels_uptime_in_ms() -> None:
    uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    assert abs(clock.boottime_ms() - uptime_s * 1000) < 2000
    first = clock.boottime_ms()
    time.sleep(0.05)
    assert 45 <= clock.boottime_ms() - first < 2000


def test_the_boot_id_is_the_kernels() -> None:
    told = uuid.UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    assert clock.boot_id() == told.bytes == clock.boot_id()


def test_the_kernels_error_counts_what_is_still_slewed_and_has_a_floor() -> None:
    """An NTP client may say maxerror 0 while the clock is still 350 ms off: the bound says so."""
    assert clock.ntp_error_ms(0, 0, 0) == 50
    assert clock.ntp_error_ms(0, -350_000, 0) == 400
    assert clock.ntp_error_ms(1500, 350_000_000, 0x2000) == 402


def test_an_anchor_travels_as_a_clock_row() -> None:
    row = checked(Anchor(5, 1_790_000_000_000, 17, "collector").row())
    assert (row.kind, row.boottime_ms) == ("clock", 5)
    assert row.values == {"unix_ms": 1_790_000_000_000, "error_ms": 17, "source": "collector"}


def test_the_kernels_anchor_is_true_or_there_is_none() -> None:
    """Whether this machine's clock is disciplined is not ours to say; if it is, the anchor must agree with it."""
    anchor = clock.ntp_anchor()
    if anchor is None:
        return
    checked(anchor.row())
    assert anchor.source == "ntp"
    assert anchor.error_ms >= 1
    boot_at = time.time_ns() // 1_000_000 - clock.boottime_ms()
    assert abs(anchor.unix_ms - anchor.boottime_ms - boot_at) < 50
