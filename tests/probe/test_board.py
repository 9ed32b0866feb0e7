"""The board's own state, read from a tree that a test writes; what is not there is absent."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from banua_probe.sensors.board import board_row, parse_meminfo, read_board
from banua_wire.rows import checked

if TYPE_CHECKING:
    from pathlib import Path

MEMINFO = """\
MemTotal:         948304 kB
MemFree:          123456 kB
MemAvailable:     612340 kB
Buffers:           20000 kB
"""


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def read(root: Path, **files: str) -> dict[str, Any]:
    values = read_board(tree(root, {name.replace("__", "/"): text for name, text in files.items()}), root)
    values.pop("disk_free_mb")
    return dict(values)


def test_a_raspberry_pi(tmp_path: Path) -> None:
    tree(tmp_path, {
        "proc/uptime": "12345.67 40000.00\n",
        "proc/loadavg": "0.52 0.40 0.30 1/123 4567\n",
        "proc/meminfo": MEMINFO,
        "sys/devices/thermal/zone0/temp": "48312\n",
        "sys/devices/thermal/zone1/temp": "51000\n",
        "sys/devices/hwmon/hwmon1/in0_lcrit_alarm": "1\n",
    })  # fmt: skip
    for link, target in (
        ("thermal/thermal_zone0", "thermal/zone0"),
        ("thermal/thermal_zone1", "thermal/zone1"),
        ("hwmon/hwmon1", "hwmon/hwmon1"),
    ):  # the kernel's classes are symbolic links
        place = tmp_path / "sys/class" / link
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(tmp_path / "sys/devices" / target)
    assert read(tmp_path) == {
        "uptime_s": 12345, "load1": 0.52, "memory_available_mb": 627, "temperature_c": 51.0, "undervoltage": 1,
    }  # fmt: skip


def test_a_board_that_tells_nothing(tmp_path: Path) -> None:
    assert read(tmp_path) == {}


@pytest.mark.parametrize("garbage", ["", "\n", "soon\n", "\x00"])
def test_garbage_is_absence(tmp_path: Path, garbage: str) -> None:
    assert read(
        tmp_path,
        proc__uptime=garbage,
        proc__loadavg=garbage,
        proc__meminfo=garbage,
        sys__class__thermal__thermal_zone0__temp=garbage,
        sys__class__power_supply__BAT0__type=garbage,
    ) == {}  # fmt: skip


def test_mains_and_battery(tmp_path: Path) -> None:
    supplies = tmp_path / "sys/class/power_supply"
    tree(supplies, {
        "AC/type": "Mains\n", "AC/online": "0\n", "BAT0/type": "Battery\n",
        "BAT0/capacity": "80\n", "BAT0/online": "1\n",
        "BAT1/type": "Battery\n", "BAT1/capacity": "35\n", "usb/type": "USB\n", "usb/online": "1\n",
    })  # fmt: skip
    assert read(tmp_path) == {"mains": 0, "battery_pct": 35}
    tree(supplies, {"AC2/type": "Mains\n", "AC2/online": "1\n"})
    assert read(tmp_path)["mains"] == 1


def test_the_free_space_is_where_the_outbox_lives(tmp_path: Path) -> None:
    space = os.statvfs(tmp_path)
    told = read_board(tmp_path, tmp_path)["disk_free_mb"]
    assert told == pytest.approx(space.f_bavail * space.f_frsize / 1e6, abs=200)
    assert "disk_free_mb" not in read_board(tmp_path, tmp_path / "nosuch")


def test_memory_is_in_millions_of_bytes() -> None:
    assert parse_meminfo(MEMINFO) == 612340 * 1024 // 10**6


def test_a_value_outside_the_dictionary_costs_no_row(tmp_path: Path) -> None:
    values = read_board(
        tree(tmp_path, {"sys/class/thermal/thermal_zone0/temp": "-274000", "proc/uptime": "5.0 1.0"}), tmp_path
    )
    row = checked(board_row(7, values, waiting=3, outbox_bytes=123_456))
    assert "temperature_c" not in row.values
    assert (row.values["uptime_s"], row.values["outbox_waiting"], row.values["outbox_kb"]) == (5, 3, 123)


def test_this_machine_fits_the_dictionary(tmp_path: Path) -> None:
    from pathlib import Path

    values = read_board(Path("/"), tmp_path)
    assert checked(board_row(1, values, waiting=0, outbox_bytes=0)).values["uptime_s"] == pytest.approx(
        float(Path("/proc/uptime").read_text().split()[0]), abs=5
    )
