"""`board`: the state of the probe's own machine, read from /proc and /sys; what this board does not tell is absent."""

import contextlib
import os
from pathlib import Path
from typing import Final

from banua_probe.sensors.within import within_dictionary
from banua_wire.fields import Value
from banua_wire.rows import Row

_MB: Final = 1_000_000
_UNDERVOLTAGE: Final = "hwmon/*/in0_lcrit_alarm"


def read_board(root: Path, outbox_folder: Path) -> dict[str, Value]:
    """Return what the files below `root` ("/" on a board) say, in the dictionary's names and units."""
    values: dict[str, Value] = {}
    proc, sys_class = root / "proc", root / "sys/class"
    with contextlib.suppress(OSError, ValueError, IndexError):
        values["uptime_s"] = int(float((proc / "uptime").read_text().split()[0]))
    with contextlib.suppress(OSError, ValueError, IndexError):
        values["load1"] = float((proc / "loadavg").read_text().split()[0])
    with contextlib.suppress(OSError, ValueError, IndexError):
        values["memory_available_mb"] = parse_meminfo((proc / "meminfo").read_text())
    with contextlib.suppress(OSError):
        disk = os.statvfs(outbox_folder)
        values["disk_free_mb"] = disk.f_bavail * disk.f_frsize // _MB
    zones = _numbers(sys_class, "thermal/thermal_zone*/temp")
    if zones:
        values["temperature_c"] = max(zones) / 1000
    alarms = _numbers(sys_class, _UNDERVOLTAGE)
    if alarms:
        values["undervoltage"] = int(any(alarms))
    mains = _supplies(sys_class, "Mains", "online")
    if mains:
        values["mains"] = int(any(mains))
    charge = _supplies(sys_class, "Battery", "capacity")
    if charge:
        values["battery_pct"] = min(charge)
    return values


def parse_meminfo(text: str) -> int:
    """Return MemAvailable of /proc/meminfo in MB (10^6 bytes); IndexError when it is not there."""
    line = [line for line in text.splitlines() if line.startswith("MemAvailable:")][0]  # noqa: RUF015 (IndexError is told)
    return int(line.split()[1]) * 1024 // _MB


def _numbers(folder: Path, pattern: str) -> list[int]:
    numbers: list[int] = []
    for file in folder.glob(pattern):
        with contextlib.suppress(OSError, ValueError):
            numbers.append(int(file.read_text()))
    return numbers


def _supplies(sys_class: Path, kind: str, value: str) -> list[int]:
    numbers: list[int] = []
    for supply in (sys_class / "power_supply").glob("*"):
        with contextlib.suppress(OSError, ValueError):
            if (supply / "type").read_text().strip() == kind:
                numbers.append(int((supply / value).read_text()))
    return numbers


def board_row(boottime_ms: int, values: dict[str, Value], *, waiting: int, outbox_bytes: int) -> Row:
    """Return the row: the board's values and the outbox's backlog."""
    values = values | {"outbox_waiting": waiting, "outbox_kb": outbox_bytes // 1000}
    return Row("board", boottime_ms, within_dictionary("board", values))
