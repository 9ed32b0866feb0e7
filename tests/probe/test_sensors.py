"""What the registry adds to a test of the path: scans that come into it, and hops that follow from its row."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from banua_probe import sensors
from banua_probe.config import Broker, Config, DnsQuery, Modem, PathTarget, WebTarget
from banua_probe.sensors import Surroundings, Task, tasks
from banua_probe.sensors.modems import SharedModem
from banua_wire.rows import Row, checked

if TYPE_CHECKING:
    from collections.abc import Callable

SCANNING = "the modem is scanning for operators"
LOST: dict[str, Any] = {
    "target": "t",
    "method": "icmp",
    "interface": "wwan0",
    "outcome": "failed",
    "reason": "no reply",
}


class Quick:
    """All that a scan asks of a modem; it finds nothing at once."""

    def scan(self) -> list[Any]:
        return []


@pytest.fixture
def modem() -> SharedModem:
    return SharedModem(Quick())  # type: ignore[arg-type]


def path_tasks(shared: SharedModem, **bound: Any) -> list[Task]:
    """The tasks that test the path, with a modem m1 that carries wwan0."""
    config = Config(
        name="p1", broker=Broker(host="localhost"),
        modem=[Modem(name="m1", device="/dev/null", dialect="3gpp", interface="wwan0")],
        path=[PathTarget(target="t", host="127.0.0.1", **bound)],
        dns=[DnsQuery(name="a.test", resolver="127.0.0.1", **bound)],
        web=[WebTarget(target="w", url="http://127.0.0.1/", **bound)],
    )  # fmt: skip
    clock = iter(range(70, 1000, 10))
    around = Surroundings(lambda: next(clock), lambda: (0, 0), random.Random(1))
    around.modems["m1"] = shared
    return [task for task in tasks(config, around) if task.name.split()[0] in {"path", "dns", "web"}]


def replace_tests(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object]) -> None:
    """Let each test lose all it sends while `meanwhile` happens."""

    def lost(kind: str) -> Callable[..., Row]:
        def run(*_: Any, **__: Any) -> Row:
            meanwhile()
            return Row(kind, 77, LOST)

        return run

    for name, kind in (("measure", "path"), ("ask", "dns"), ("fetch", "web")):
        monkeypatch.setattr(sensors, name, lost(kind))


@pytest.mark.parametrize("how", [{"modem": "m1"}, {"interface": "wwan0"}], ids=["by modem", "by interface"])
def test_a_test_into_which_a_scan_came_is_not_measured(
    modem: SharedModem, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scan begins after the test and ends before it: only that it took place can be told."""
    replace_tests(monkeypatch, modem.scan)
    monkeypatch.setattr(sensors, "measure_hops", lambda *_: pytest.fail("nothing follows from such a row"))
    rows = [row for task in path_tasks(modem, **how) for row in task.run()]
    assert sorted(row.kind for row in rows) == ["dns", "path", "web"]
    for row in rows:
        assert (checked(row).values["outcome"], row.values["reason"]) == ("not_measured", SCANNING)


def test_a_scan_of_another_modem_changes_nothing(modem: SharedModem, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_tests(monkeypatch, modem.scan)
    monkeypatch.setattr(sensors, "measure_hops", lambda *_: [])
    rows = [row for task in path_tasks(modem, interface="eth0") for row in task.run()]
    assert {row.values["outcome"] for row in rows} == {"failed"}


def test_no_hops_are_told_from_a_trace_into_which_a_scan_came(
    modem: SharedModem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The train before it is whole, and stays."""

    def trace(*_: Any) -> list[Row]:
        modem.scan()
        return [Row("hops", 78, {"target": "t", "outcome": "failed"})]

    replace_tests(monkeypatch, lambda: None)
    monkeypatch.setattr(sensors, "measure_hops", trace)
    assert path_tasks(modem, modem="m1")[0].run() == [Row("path", 77, LOST)]


def test_a_bug_in_a_trace_does_not_take_the_row_of_the_train_with_it(
    modem: SharedModem, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def trace(*_: Any) -> list[Row]:
        raise ZeroDivisionError("division by zero")

    replace_tests(monkeypatch, lambda: None)
    monkeypatch.setattr(sensors, "measure_hops", trace)
    path, hops = path_tasks(modem, modem="m1")[0].run()
    assert path == Row("path", 77, LOST)
    assert checked(hops).values == {
        "target": "t", "modem": "m1", "interface": "wwan0", "trigger": "failed", "outcome": "not_measured",
        "reason": "error in the probe: ZeroDivisionError('division by zero')",
    }  # fmt: skip
    assert "hops t failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text
