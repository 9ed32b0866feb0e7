"""Scans for operators: three outcomes told apart, a budget, and one owner for each modem on a real pty."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banua_lab.modem import EmulatedModem
from banua_lab.scenario import load
from banua_probe.config import Broker, Config, DnsQuery, Modem, PathTarget, WebTarget
from banua_probe.modem.at_modem import AtModem
from banua_probe.modem.dialects import DIALECTS
from banua_probe.modem.errors import ModemUnavailable
from banua_probe.modem.port import AtPort
from banua_probe.modem.reading import Rat
from banua_probe.modem.scan import Receivable, Status
from banua_probe.sensors import Surroundings, Task, tasks
from banua_probe.sensors.modems import SharedModem
from banua_probe.sensors.operators import DAY_MS, OperatorScans, ScanBudget, operator_rows
from banua_wire.rows import Row, checked

SCAN = "AT+COPS=?"
TELKOMSEL = Receivable("51010", "lte", "current", "TELKOMSEL")
XL = Receivable("51011", None, "forbidden", None)


def values(rows: list[Row]) -> list[dict[str, Any]]:
    return [checked(row).values for row in rows]


def test_a_row_for_each_network_and_the_summary() -> None:
    rows = operator_rows("m1", 5, [TELKOMSEL, XL], took_ms=61_000, simulated=True)
    assert [(row.kind, row.boottime_ms) for row in rows] == [("operators", 5)] * 3
    assert values(rows) == [
        {"plmn": "51010", "status": "current", "rat": "lte", "operator": "TELKOMSEL", "modem": "m1"}
        | {"outcome": "measured", "simulated": 1},
        {"plmn": "51011", "status": "forbidden", "modem": "m1", "outcome": "measured", "simulated": 1},
        {"modem": "m1", "outcome": "measured", "count": 2, "took_ms": 61_000, "simulated": 1},
    ]
    assert [row.key for row in rows] == [("m1", "51010", "lte"), ("m1", "51011", None), ("m1", None, None)]


def test_nothing_found_is_measured_and_neither_failed_nor_not_measured_has_a_count() -> None:
    assert values(operator_rows("m1", 5, [], took_ms=9)) == [
        {"modem": "m1", "outcome": "measured", "count": 0, "took_ms": 9}
    ]
    assert values(operator_rows("m1", 5, [], outcome="failed", reason="no answer", took_ms=9)) == [
        {"modem": "m1", "outcome": "failed", "reason": "no answer", "took_ms": 9}
    ]
    assert values(operator_rows("m1", 5, [], outcome="not_measured", reason="x" * 300)) == [
        {"modem": "m1", "outcome": "not_measured", "reason": "x" * 200}
    ]


PLMN = st.from_regex(r"[0-9]{5,6}", fullmatch=True)
RATS = st.sampled_from(["gsm", "umts", "lte", "nr_sa", "nr_nsa", None])
STATUSES = st.sampled_from(["unknown", "available", "current", "forbidden"])


@given(PLMN, RATS, STATUSES, st.none() | st.text(max_size=300), st.integers(0, 2**40))
def test_every_row_is_within_the_dictionary(
    plmn: str, rat: Rat | None, status: Status, name: str | None, took_ms: int
) -> None:
    for row in operator_rows("m1", 0, [Receivable(plmn, rat, status, name)], took_ms=took_ms):
        checked(row)


@pytest.mark.parametrize(
    ("scans_ms", "now_ms", "waiting", "expected"),
    [
        ((), 0, 0, ""),
        ((), 0, 2, ""),
        ((), 0, 3, "backlog draining: 3 batches waiting"),
        ((), 0, 37, "backlog draining: 37 batches waiting"),
        ((0,), 1, 0, ""),
        ((0, 10), 20, 0, "budget: 2 scans in 24 h used"),
        ((0, 10), 20, 37, "budget: 2 scans in 24 h used"),
        ((0, 10), DAY_MS - 1, 0, "budget: 2 scans in 24 h used"),
        ((0, 10), DAY_MS, 0, ""),
        ((0, 10), DAY_MS, 9, "backlog draining: 9 batches waiting"),
    ],
)
def test_the_budget_in_timed_steps(scans_ms: tuple[int, ...], now_ms: int, waiting: int, expected: str) -> None:
    budget = ScanBudget(2)
    for at_ms in scans_ms:
        budget.spend(at_ms)
    assert budget.refusal(now_ms, waiting) == expected


@given(st.lists(st.integers(1, DAY_MS), max_size=60), st.integers(1, 24))
def test_no_day_sees_more_scans_than_the_budget(waits_ms: list[int], a_day: int) -> None:
    budget, now_ms, scans = ScanBudget(a_day), 0, []
    for wait_ms in waits_ms:
        now_ms += wait_ms
        if not budget.refusal(now_ms, 0):
            budget.spend(now_ms)
            scans.append(now_ms)
    for at_ms in scans:
        assert sum(at_ms <= other < at_ms + DAY_MS for other in scans) <= a_day


@dataclass
class Scripted:
    """A port that answers a scan from a list; None is no answer."""

    scans: list[list[str] | None]
    asked: list[str] = field(default_factory=list)
    session: int = 1

    def open(self) -> int:
        return 0

    def exchange(self, command: str, timeout_s: float) -> list[str]:
        assert timeout_s > 0
        self.asked.append(command)
        reply = self.scans.pop(0) if command == SCAN else ["OK"]
        if reply is None:
            raise ModemUnavailable("silent")
        return reply


def scans(port: Scripted, waiting: int = 0, a_day: int = 6) -> OperatorScans:
    settings = Modem(name="m1", device="/dev/null", dialect="3gpp", operators_a_day=a_day)
    clock = iter(range(0, 10_000, 50))
    modem = SharedModem(AtModem(port, DIALECTS["3gpp"]))
    return OperatorScans(settings, modem, lambda: next(clock), lambda: waiting)


def test_a_scan_is_measured_or_failed_with_its_reason() -> None:
    one = '+COPS: (2,"TELKOMSEL","","51010",7),,(0-4),(0-2)'
    port = Scripted([[one, "OK"], ["+COPS: ,,(0-4),(0-2)", "OK"], ["+CME ERROR: 3"], ["OK"], None])
    runner = scans(port)
    assert [values(runner.run())[-1] for _ in range(5)] == [
        {"modem": "m1", "outcome": "measured", "count": 1, "took_ms": 50},
        {"modem": "m1", "outcome": "measured", "count": 0, "took_ms": 50},
        {"modem": "m1", "outcome": "failed", "reason": "refused by the modem: +CME ERROR: 3", "took_ms": 50},
        {"modem": "m1", "outcome": "failed", "reason": "unreadable: a scan without a list of networks", "took_ms": 50},
        {"modem": "m1", "outcome": "failed", "reason": "no answer: silent", "took_ms": 50},
    ]


def test_a_scan_that_is_not_allowed_leaves_the_modem_alone() -> None:
    port = Scripted([])
    assert values(scans(port, waiting=37).run()) == [
        {"modem": "m1", "outcome": "not_measured", "reason": "backlog draining: 37 batches waiting"}
    ]
    assert port.asked == []


def test_failed_scans_count_too() -> None:
    port = Scripted([["ERROR"], ["ERROR"]])
    runner = scans(port, a_day=2)
    told = [values(runner.run())[0] for _ in range(3)]
    assert [row["outcome"] for row in told] == ["failed", "failed", "not_measured"]
    assert told[2]["reason"] == "budget: 2 scans in 24 h used"


@contextmanager
def probe(*modems: Modem, backlog: int = 0) -> Iterator[dict[str, Task]]:
    config = Config(name="p1", broker=Broker(host="localhost"), modem=list(modems), path=[])
    around = Surroundings(lambda: time.monotonic_ns() // 1_000_000, lambda: (backlog, 0), random.Random(1))
    yield {task.name: task for task in tasks(config, around)}


def emulated(stack: ExitStack, name: str, scan_s: float = 0, **how: Any) -> Modem:
    modem = EmulatedModem(load("village-lte"), delays_s={SCAN: scan_s})
    device = stack.enter_context(modem).device
    return Modem(name=name, device=device, dialect="quectel", poll_s=1, row_s=3, operators_s=3600, **how)


def test_while_a_modem_scans_its_polls_are_skipped_and_not_failed() -> None:
    with ExitStack() as stack, probe(emulated(stack, "m1", scan_s=1.5)) as tasks_by_name:
        radio, neighbours = tasks_by_name["radio m1"], tasks_by_name["neighbours m1"]
        assert radio.run() == []
        scanned: list[Row] = []
        scan = threading.Thread(target=lambda: scanned.extend(tasks_by_name["operators m1"].run()))
        scan.start()
        time.sleep(0.5)
        began = time.monotonic()
        assert values(neighbours.run()) == [
            {"modem": "m1", "outcome": "not_measured", "reason": "the modem is scanning"}
        ]
        assert radio.run() == []
        assert time.monotonic() - began < 0.5  # nobody waits for a scan
        scan.join()
        (row,) = values(radio.run())
        assert (row["polls"], row["polls_skipped"], row["polls_failed"], row["polls_registered"]) == (2, 1, 0, 2)
        assert row["sim_plmn"] == "51010"
        told = values(scanned)
        assert [(row.get("plmn"), row.get("rat"), row.get("status")) for row in told] == [
            ("51010", "lte", "current"), ("51010", "gsm", "available"), ("51001", "lte", "forbidden"),
            (None, None, None),
        ]  # fmt: skip
        assert told[-1]["count"] == 3
        assert told[-1]["took_ms"] >= 1500


def test_the_sensors_of_a_modem_share_its_port_at_the_same_time() -> None:
    with ExitStack() as stack, probe(emulated(stack, "m1")) as tasks_by_name:
        rows: list[Row] = []
        threads = [
            threading.Thread(target=lambda task=task: rows.extend(row for _ in range(3) for row in task.run()))
            for task in tasks_by_name.values()
            if task.name.split()[0] in {"radio", "neighbours", "operators"}
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        told = values(rows)
        assert len(threads) == 3
        # A poll or a look that met the scan was skipped or not measured; nothing failed.
        assert [row for row in told if row.get("outcome") == "failed" or row.get("polls_failed")] == []


def test_two_modems_on_one_operator_scan_and_poll_apart() -> None:
    with ExitStack() as stack:
        first, second = emulated(stack, "m1", scan_s=1.5), emulated(stack, "m2")
        with probe(first, second) as tasks_by_name:
            scanned: list[Row] = []
            scan = threading.Thread(target=lambda: scanned.extend(tasks_by_name["operators m1"].run()))
            scan.start()
            time.sleep(0.5)
            polled = [row for _ in range(3) for row in tasks_by_name["radio m2"].run()]
            assert [(row["modem"], row["polls_registered"]) for row in values(polled)] == [("m2", 3)]
            assert "polls_skipped" not in polled[0].values
            scanned.extend(tasks_by_name["operators m2"].run())
            scan.join()
    keys = [row.key for row in scanned]
    assert {("m1", "51010", "lte"), ("m2", "51010", "lte")} <= set(keys)
    assert len(set(keys)) == len(keys) == 8


def test_a_scan_that_is_never_answered_ends_in_its_time_and_the_next_poll_works() -> None:
    with EmulatedModem(load("village-lte")) as emulator:
        port = AtPort(emulator.device)
        modem = AtModem(port, DIALECTS["quectel"])
        assert modem.poll().state == "registered"
        emulator.hang()
        began = time.monotonic()
        with pytest.raises(ModemUnavailable, match="no complete reply in time"):
            modem.scan(0.5)
        assert time.monotonic() - began < 2
        emulator.resume()
        time.sleep(0.1)
        assert modem.poll().state == "registered"
        assert [network.plmn for network in modem.scan(5)] == ["51010", "51010", "51001"]
        port.close()


def test_a_scan_with_a_modem_that_is_gone_failed(tmp_path: Path) -> None:
    gone = Modem(name="m1", device=str(tmp_path / "gone"), dialect="quectel", operators_s=3600)
    with probe(gone) as tasks_by_name:
        (row,) = values(tasks_by_name["operators m1"].run())
    assert row["outcome"] == "failed"
    assert row["reason"].startswith("no answer: ")


def test_tasks_follow_the_settings() -> None:
    def names(*, single: bool = False, **how: Any) -> set[str]:
        modem = Modem(name="m1", device="/dev/null", **({"dialect": "quectel"} | how))
        config = Config(name="p1", broker=Broker(host="localhost"), modem=[modem], path=[])
        around = Surroundings(lambda: 0, lambda: (0, 0), random.Random(1))
        told = {task.name for task in tasks(config, around, single=single)}
        return {name for name in told if name.split()[0] in {"radio", "neighbours", "operators"}}

    assert names() == {"radio m1", "neighbours m1"}
    assert names(neighbours_s=0, operators_s=3600) == {"radio m1", "operators m1"}
    assert names(operators_s=3600, single=True) == {"radio m1", "neighbours m1"}
    assert names(dialect="simcom") == {"radio m1"}


@pytest.mark.parametrize("how", [{"modem": "m1"}, {"interface": "wwan0"}], ids=["by modem", "by interface"])
def test_a_test_bound_to_a_scanning_modem_is_not_measured(how: dict[str, Any]) -> None:
    """Its data rests while it scans: a train that is lost then would be a made-up loss."""
    modem = Modem(name="m1", device="/dev/null", dialect="3gpp", interface="wwan0")
    config = Config(
        name="p1", broker=Broker(host="localhost"), modem=[modem],
        path=[PathTarget(target="t", host="127.0.0.1", **how)],
        dns=[DnsQuery(name="a.test", resolver="127.0.0.1", **how)],
        web=[WebTarget(target="w", url="http://127.0.0.1/", **how)],
    )  # fmt: skip
    around = Surroundings(lambda: 77, lambda: (0, 0), random.Random(1))
    scanned, resume = threading.Event(), threading.Event()

    class Scanning:
        def scan(self) -> list[Receivable]:
            scanned.set()
            resume.wait(10)
            return []

    around.modems["m1"] = SharedModem(Scanning())  # type: ignore[arg-type]  # all that a scan asks of a modem
    tests = [task for task in tasks(config, around) if task.name.split()[0] in {"path", "dns", "web"}]
    scan = threading.Thread(target=around.modems["m1"].scan)
    scan.start()
    assert scanned.wait(10)
    rows = [row for task in tests for row in task.run()]
    resume.set()
    scan.join()
    assert sorted(row.kind for row in rows) == ["dns", "path", "web"]
    for row in rows:
        assert checked(row).values["reason"] == "the modem is scanning for operators"
        assert (row.values["outcome"], "rtt_us" in row.values) == ("not_measured", False)
    assert tests[0].run()[0].values.get("reason") != "the modem is scanning for operators", "and afterwards it runs"
