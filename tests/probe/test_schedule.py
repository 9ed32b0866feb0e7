"""When things are due: random phase, steady period, no bursts; and when rows are written and sealed."""

from __future__ import annotations

import random

import pytest

from banua_probe.schedule import Periodic, SealPolicy

S = 1000
DAY = 86_400 * S


def test_a_thousand_probes_started_together_are_spread_over_the_period() -> None:
    starts = [Periodic(60 * S, 5000, random.Random(seed)).next_ms - 5000 for seed in range(1000)]
    assert min(starts) >= 0
    assert max(starts) <= 60 * S
    tenths = [sum(n * 6 * S <= start < (n + 1) * 6 * S for start in starts) for n in range(10)]
    assert min(tenths) > 60  # 100 expected, give or take 10


def test_the_period_neither_drifts_nor_is_exact() -> None:
    due = Periodic(10 * S, 0, random.Random(1))
    phase = due.next_ms
    offsets = []
    for n in range(1, 1001):
        due.advance(due.next_ms)
        offsets.append(due.next_ms - phase - n * 10 * S)
    assert max(map(abs, offsets)) <= 500
    assert len(set(offsets)) > 300
    assert abs(sum(offsets) / len(offsets)) < 50


def test_what_was_missed_is_not_made_up_for_in_a_burst() -> None:
    due = Periodic(10 * S, 0, random.Random(2))
    due.advance(due.next_ms)
    late = due.next_ms + 1000 * S
    due.advance(late)
    assert late - 500 <= due.next_ms <= late + 10 * S + 500
    following = due.next_ms
    due.advance(following)
    assert due.next_ms - following >= 9 * S


POLICY: list[tuple[str, list[tuple[int, str, bool, bool, int, bool, bool]]]] = [
    # name, then: after ms, what happened ("", sealed, committed, changed), online, …, rows, seal due, commit due
    ("online: every 5 minutes", [
        (299 * S, "", True, False, 1, False, False),
        (1 * S, "", True, False, 1, True, True),
        (0, "sealed", True, False, 1, False, False),
        (300 * S, "", True, False, 1, True, True),
    ]),
    ("no rows: nothing to seal", [(3000 * S, "", True, False, 0, False, True)]),
    ("offline: by 60 rows", [
        (3000 * S, "", False, False, 59, False, True),
        (0, "committed", False, False, 59, False, False),
        (0, "", False, False, 60, True, False),
        (0, "sealed", False, False, 0, False, False),
    ]),
    ("a change of state: at once, online or not", [
        (0, "changed", False, False, 1, True, False),
        (0, "sealed", False, False, 1, False, False),
        (0, "changed", True, False, 1, True, False),
    ]),
]  # fmt: skip


@pytest.mark.parametrize("steps", [steps for _, steps in POLICY], ids=[name for name, _ in POLICY])
def test_when_rows_are_sealed(steps: list[tuple[int, str, bool, bool, int, bool, bool]]) -> None:
    now = 10 * S
    policy = SealPolicy(300 * S, 300 * S, now, now)
    for number, (after, what, online, _, rows, seal, commit) in enumerate(steps):
        now += after
        if what == "sealed":
            policy.sealed(now)
        elif what == "committed":
            policy.committed(now)
        elif what == "changed":
            policy.state_changed(now)
        assert (policy.seal_due(now, rows, online=online), policy.commit_due(now)) == (seal, commit), f"step {number}"


def test_at_most_24_urgent_seals_in_any_24_hours() -> None:
    policy = SealPolicy(300 * S, 300 * S, 0, 0)
    urgent = []
    for minute in range(3 * 24 * 60):  # a modem that flaps every minute for three days, offline
        now = minute * 60 * S
        policy.state_changed(now)
        if policy.seal_due(now, 1, online=False):
            urgent.append(now)
            policy.sealed(now)
    assert urgent[:24] == [n * 60 * S for n in range(24)]
    for first, last in zip(urgent, urgent[24:], strict=False):
        assert last - first >= DAY
    assert len(urgent) == 3 * 24
