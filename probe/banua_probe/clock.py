"""The probe's clocks: CLOCK_BOOTTIME dates every row, anchors tie it to wall time; one that nobody vouches for is none.

An anchor is a `clock` row: this boottime was that wall time, give or take. The kernel vouches when its clock is
disciplined (adjtimex(2) says so and how far off it may be); else the collector's answers do.
"""

import ctypes
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from banua_wire.fields import Value
from banua_wire.rows import Row

_STA_UNSYNC: Final = 0x0040
_STA_NANO: Final = 0x2000
NTP_FLOOR_MS: Final = 50
_TIME_ERROR: Final = 5
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class _Timex(ctypes.Structure):
    """The head of struct timex of adjtimex(2); the rest is room enough for any architecture."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


def boottime_ms() -> int:
    """Return CLOCK_BOOTTIME in ms: monotonic, counts suspension, starts at 0 with the boot."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def boot_id() -> bytes:
    """Return the kernel's 16-byte id of this boot."""
    return bytes.fromhex(_BOOT_ID.read_text().strip().replace("-", ""))


@dataclass(frozen=True, slots=True)
class Anchor:
    """`boottime_ms` was `unix_ms` within ± `error_ms`, says `source` (ntp, gnss or collector)."""

    boottime_ms: int
    unix_ms: int
    error_ms: int
    source: str

    def row(self) -> Row:
        """Return the anchor as the `clock` row that travels."""
        values: dict[str, Value] = {"unix_ms": self.unix_ms, "error_ms": self.error_ms, "source": self.source}
        return Row("clock", self.boottime_ms, values)


def ntp_anchor() -> Anchor | None:
    """Return an anchor from the kernel's disciplined clock, None while the kernel does not call it synchronised."""
    timex = _Timex()
    before = boottime_ms()
    unix_ms = time.time_ns() // 1_000_000
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    if state in {-1, _TIME_ERROR} or timex.status & _STA_UNSYNC:
        return None
    spread = boottime_ms() - before
    return Anchor(before, unix_ms, ntp_error_ms(timex.maxerror, timex.offset, timex.status) + spread, "ntp")


def ntp_error_ms(maxerror_us: int, offset: int, status: int) -> int:
    """Return the bound on the kernel clock's error in ms.

    The kernel's own bound, plus what is still being slewed away (`offset`, in ns where STA_NANO is set, else µs), plus
    a floor for the asymmetry of the path to the server, which some clients never report.
    """
    slewing_us = -(-abs(offset) // 1000) if status & _STA_NANO else abs(offset)
    return NTP_FLOOR_MS - (-(maxerror_us + slewing_us) // 1000)
