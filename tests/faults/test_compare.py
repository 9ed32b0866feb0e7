"""The comparison itself: it is silent on what is right, and notices each thing that can go wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.compare import Evidence, Look, Made, Name, Stored, differences

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.faults

BOOT, STREAM = "b" * 32, b"stream-1"
WALL_MS = 1_700_000_000_000


def values(cell: int) -> dict[str, Any]:
    return {"modem": "sim0", "cell_id": cell, "rsrp_dbm": -105.5, "state": "registered"}


def name(seq: int) -> Name:
    return Name("p1", STREAM, seq, bytes([seq] * 8))


def right() -> Evidence:
    """Three rows in two batches; a fourth died in memory, 500 ms old, when the process was killed at 5000."""
    made = [Made(("p1", BOOT, "sim0", at), WALL_MS + at, values(at)) for at in (1000, 2000, 3000, 4500)]
    rows = [[("radio", at, values(at)) for at in ats] for ats in ((1000, 2000), (3000,))]
    rows[0].append(("clock", 900, {"unix_ms": WALL_MS + 900}))
    points = [
        {"_measurement": "radio", "probe": "p1", "time": (WALL_MS + at + 3) * 10**6, "time_error_ms": 5.0, **values(at)}
        for at in (1000, 2000, 3000)
    ]
    anchor = {"_measurement": "clock", "probe": "p1", "time": (WALL_MS + 900) * 10**6}
    return Evidence(
        made=made,
        looks=[Look(0, 5000, frozenset({("p1", BOOT, "sim0", 3000)}), frozenset({name(1)}))],
        receipts={name(1)},
        stored_to={("p1", STREAM): 2},
        journal=[Stored(name(seq), BOOT, rows[seq - 1]) for seq in (1, 2)],
        points=[*points, anchor],
        window_ms=1000,
    )


def test_what_is_right_makes_no_line() -> None:
    evidence = right()
    assert differences(evidence) == []
    assert evidence.figures["rows that died in memory"] == 1
    assert evidence.figures["oldest row that died in memory, ms"] == 500


def _lose_a_batch(evidence: Evidence) -> None:
    del evidence.journal[0]


def _lose_a_committed_row(evidence: Evidence) -> None:
    del evidence.journal[1]


def _lose_a_row_of_a_batch(evidence: Evidence) -> None:
    del evidence.journal[0].rows[0]


def _lose_an_old_row(evidence: Evidence) -> None:
    evidence.window_ms = 400


def _lose_a_row_nobody_killed(evidence: Evidence) -> None:
    evidence.looks = [replace(evidence.looks[0], ended_ms=4000)]


def _double_a_batch(evidence: Evidence) -> None:
    evidence.journal.append(evidence.journal[0])


def _double_a_row(evidence: Evidence) -> None:
    evidence.journal[1].rows.append(("radio", 1000, values(1000)))


def _change_a_row(evidence: Evidence) -> None:
    evidence.journal[0].rows[0] = ("radio", 1000, values(1000) | {"rsrp_dbm": -105.0})


def _invent_a_row(evidence: Evidence) -> None:
    evidence.journal[0].rows.append(("radio", 1500, values(1500)))


def _forget_a_receipt(evidence: Evidence) -> None:
    evidence.receipts.add(name(3))


def _receipt_too_early(evidence: Evidence) -> None:
    evidence.early = frozenset({name(1)})


def _count_too_far(evidence: Evidence) -> None:
    evidence.stored_to["p1", STREAM] = 3


def _lose_a_point(evidence: Evidence) -> None:
    del evidence.points[0]


def _double_a_point(evidence: Evidence) -> None:
    evidence.points.append(evidence.points[0] | {"time": evidence.points[0]["time"] + 1})


def _change_a_point(evidence: Evidence) -> None:
    evidence.points[0]["rsrp_dbm"] = -104.0


def _lose_a_field(evidence: Evidence) -> None:
    evidence.points[0]["state"] = None


def _invent_a_point(evidence: Evidence) -> None:
    evidence.points.append(evidence.points[0] | {"cell_id": 7})


def _misdate_a_point(evidence: Evidence) -> None:
    evidence.points[0]["time"] += 8 * 10**6


def _lose_an_anchor(evidence: Evidence) -> None:
    del evidence.points[-1]


def _invent_a_measurement(evidence: Evidence) -> None:
    evidence.points.append({"_measurement": "board", "probe": "p1", "time": 0})


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_lose_a_batch, "was sealed and is missing"),
        (_lose_a_committed_row, "was committed to the outbox and is missing"),
        (_lose_a_row_of_a_batch, "is missing, though a row made at 3000 was committed"),
        (_lose_an_old_row, "is missing, made 500 ms before the process's end"),
        (_lose_a_row_nobody_killed, "is missing, though its process was not killed"),
        (_double_a_batch, "stands there 2 times"),
        (_double_a_row, "stands in two batches"),
        (_change_a_row, "journal: ('p1', 'b"),
        (_invent_a_row, "was never made"),
        (_forget_a_receipt, "was receipted and is missing"),
        (_receipt_too_early, "was receipted before it was stored"),
        (_count_too_far, "was receipted to 3, without [3]"),
        (_lose_a_point, "stands there 0 times, not 1"),
        (_double_a_point, "stands there 2 times, not 1"),
        (_change_a_point, "influx: ('p1', 'b"),
        (_lose_a_field, "influx: ('p1', 'b"),
        (_invent_a_point, "influx: nobody made"),
        (_misdate_a_point, "is 11 ms off and says 5.0"),
        (_lose_an_anchor, "0 anchors of p1 stand there, 1 are in the journal"),
        (_invent_a_measurement, "nobody made a measurement board"),
    ],
    ids=lambda value: getattr(value, "__name__", "").strip("_"),
)
def test_each_thing_that_can_go_wrong_is_noticed(spoil: Callable[[Evidence], None], told: str) -> None:
    evidence = right()
    spoil(evidence)
    found = differences(evidence)
    assert any(told in line for line in found), found
