"""The conversation as timed steps: what is put in after how long, and what may then go out."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from banua_probe.delivery import Delivery, Plan
from banua_probe.outbox import Ref
from banua_wire.receipt import Receipt

if TYPE_CHECKING:
    from collections.abc import Callable

    from banua_probe.delivery import Verdict

S = 1000
MINUTE = 60 * S
STREAM = b"streamid"
T0 = 500_000


class Steady(random.Random):
    """Chance that always takes the middle."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def ref(n: int, tries: int = 0) -> Ref:
    return Ref(n, STREAM, n, n.to_bytes(8), tries)


def receipt(**values: Any) -> Receipt:
    usual: dict[str, Any] = {
        "stream": STREAM, "journal_id": b"journal1", "ask": 0, "got": [], "rejects": [], "stored_to": 0, "also": [],
        "server_ms": 0,
    }  # fmt: skip
    return Receipt(**(usual | values))


@dataclass
class Talk:
    """A delivery and the time."""

    delivery: Delivery
    now: int = T0
    next_seq: int = 1000

    def connected(self, ask: int = 1) -> None:
        self.delivery.connected(ask, self.now)

    def sent(self, *numbers: int) -> None:
        for n in numbers:
            self.delivery.sent(ref(n), self.now)

    def got(self, *numbers: int, **values: Any) -> Verdict:
        refs = [ref(n) for n in numbers]
        return self.delivery.received(receipt(**values), refs, STREAM, self.next_seq, self.now)

    def answered(self, ask: int = 1, **values: Any) -> Verdict:
        return self.got(ask=ask, **values)


def talk(newest_before_start: int = 0) -> Talk:
    return Talk(Delivery(Steady(), newest_before_start))


NOTHING = Plan()
ASK = Plan(ask=True)
OLDEST, NEWEST = Plan(batches=1), Plan(batches=1, live=1)


def window(room: int, *, ask: bool = False) -> Plan:
    return Plan(ask, room, live=room // 2)


Step = tuple[int, "Callable[[Talk], object]", Plan]


def sends(*numbers: int) -> Callable[[Talk], object]:
    return lambda t: t.sent(*numbers)


def gets(*numbers: int, **values: Any) -> Callable[[Talk], object]:
    return lambda t: t.got(*numbers, **values)


def asks(ask: int) -> Callable[[Talk], object]:
    return lambda t: t.delivery.asked(ask, t.now)


def nothing(_: Talk) -> None:
    return


TABLE: dict[str, list[Step]] = {
    "not connected: nothing goes out": [(0, nothing, NOTHING), (90 * S, nothing, NOTHING)],
    "the ask goes first, batches after its answer": [
        (0, Talk.connected, NOTHING),
        (2 * S, nothing, NOTHING),
        (3 * S, Talk.answered, window(16)),
    ],
    "an older ask's answer is not the answer": [
        (0, lambda t: t.connected(7), NOTHING),
        (1 * S, lambda t: t.answered(6), NOTHING),
        (1 * S, lambda t: t.answered(7), window(16)),
    ],
    "the window is 16": [
        (0, Talk.connected, NOTHING),
        (1 * S, Talk.answered, window(16)),
        (0, sends(*range(1, 11)), window(6)),
        (0, sends(*range(11, 17)), window(0)),
        (1 * S, gets(3, 4), window(2)),
    ],
    "an unanswered ask: it alone after a minute, then 1, 2, 4 … 30 minutes apart": [
        (0, Talk.connected, NOTHING),
        (59 * S, nothing, NOTHING),
        (1 * S, nothing, ASK),
        (1, nothing, NOTHING),
        (MINUTE - 2, nothing, NOTHING),
        (1, nothing, ASK),
        (2 * MINUTE - 1, nothing, NOTHING),
        (1, nothing, ASK),
        (4 * MINUTE, nothing, ASK),
        (8 * MINUTE, nothing, ASK),
        (16 * MINUTE, nothing, ASK),
        (30 * MINUTE - 1, nothing, NOTHING),
        (1, nothing, ASK),
        (30 * MINUTE, nothing, ASK),
    ],
    "silence while batches are under way: ask, one batch on its answer, the window on its receipt": [
        (0, Talk.connected, NOTHING),
        (0, Talk.answered, window(16)),
        (5 * S, sends(1, 2, 3), window(13)),
        (59 * S, nothing, window(13)),
        (1 * S, nothing, ASK),
        (0, asks(2), NOTHING),
        (5 * S, lambda t: t.answered(2), OLDEST),
        (0, sends(1), NOTHING),
        (2 * S, gets(1), window(16)),
        (90 * MINUTE, nothing, window(16)),
    ],
    "a batch on trial that stays unanswered for a minute: quiet, and the back-off goes on; then the newest": [
        (0, Talk.connected, NOTHING),
        (0, Talk.answered, window(16)),
        (0, sends(1), window(15)),
        (MINUTE, nothing, ASK),
        (0, asks(2), NOTHING),
        (5 * S, lambda t: t.answered(2), OLDEST),
        (0, sends(1), NOTHING),
        (MINUTE - 1, nothing, NOTHING),
        (1, nothing, ASK),
        (0, asks(3), NOTHING),
        (0, lambda t: t.answered(3), NEWEST),
        (0, sends(9), NOTHING),
        (2 * MINUTE - 1, nothing, NOTHING),
        (1, nothing, ASK),
        (0, asks(4), NOTHING),
        (4 * MINUTE - 1, lambda t: t.answered(4), OLDEST),
        (0, sends(1), NOTHING),
        (MINUTE - 1, nothing, NOTHING),
        (1, nothing, ASK),
    ],
    "an answered ask with nothing to send: no further ask, and one batch once there is one": [
        (0, Talk.connected, NOTHING),
        (MINUTE, nothing, ASK),
        (0, asks(2), NOTHING),
        (1 * S, lambda t: t.answered(2), OLDEST),
        (5 * 60 * MINUTE, nothing, OLDEST),
        (0, sends(1), NOTHING),
        (MINUTE - 1, nothing, NOTHING),
        (1, nothing, ASK),
    ],
    "a receipt for what went out before the silence opens the window too": [
        (0, Talk.connected, NOTHING),
        (0, Talk.answered, window(16)),
        (0, sends(1, 2), window(14)),
        (MINUTE, nothing, ASK),
        (0, asks(2), NOTHING),
        (1 * S, gets(2), window(16)),
    ],
    "a new connection is no receipt: still one batch alone": [
        (0, Talk.connected, NOTHING),
        (0, Talk.answered, window(16)),
        (0, sends(1, 2), window(14)),
        (MINUTE, nothing, ASK),
        (0, asks(2), NOTHING),
        (1 * S, lambda t: t.delivery.disconnected(), NOTHING),
        (0, lambda t: t.connected(3), NOTHING),
        (1 * S, lambda t: t.answered(3), OLDEST),
        (0, sends(1), NOTHING),
        (1 * S, gets(1), window(16)),
    ],
    "an ask answered again: what was under way goes again, one batch first; the ninth answer lets nothing go": [
        (0, Talk.connected, NOTHING),
        (0, Talk.answered, window(16)),
        (0, sends(1, 2, 3), window(13)),
        (5 * S, Talk.answered, OLDEST),
        (0, sends(1), NOTHING),
        (5 * S, Talk.answered, NEWEST),
        (0, sends(3), NOTHING),
        *[(0, Talk.answered, OLDEST), (0, sends(1), NOTHING), (0, Talk.answered, NEWEST), (0, sends(3), NOTHING)] * 2,
        (5 * S, Talk.answered, OLDEST),
        (0, sends(1), NOTHING),
        (5 * S, Talk.answered, NOTHING),
        (5 * S, Talk.answered, NOTHING),
        (31 * MINUTE, nothing, ASK),
        (0, asks(2), NOTHING),
        (0, lambda t: t.answered(2), NEWEST),
    ],
    "an ask answered a second time with nothing under way changes nothing": [
        (0, Talk.connected, NOTHING),
        (0, Talk.answered, window(16)),
        (5 * S, Talk.answered, window(16)),
        (5 * S, Talk.answered, window(16)),
    ],
    "nothing under way is no silence": [
        (0, Talk.connected, NOTHING),
        (1 * S, Talk.answered, window(16)),
        (1 * S, sends(1), window(15)),
        (1 * S, gets(1), window(16)),
        (23 * 60 * MINUTE, nothing, window(16)),
    ],
    "back-off begins at a minute again after a receipt": [
        (0, Talk.connected, NOTHING),
        (MINUTE, nothing, ASK),
        (MINUTE, nothing, ASK),
        (0, asks(2), NOTHING),
        (1 * S, lambda t: t.answered(2), OLDEST),
        (0, sends(1), NOTHING),
        (1 * S, gets(1), window(16)),
        (0, sends(2), window(15)),
        (MINUTE, nothing, ASK),
        (MINUTE - 1, nothing, NOTHING),
        (1, nothing, ASK),
    ],
    "it asks again every day": [
        (0, Talk.connected, NOTHING),
        (0, Talk.answered, window(16)),
        (86_400_000 - 1, nothing, window(16)),
        (1, nothing, window(16, ask=True)),
        (0, asks(2), window(16)),
    ],
    "it asks again, but not at once, when a receipt shows less than is known": [
        (0, Talk.connected, NOTHING),
        (0, lambda t: t.answered(stored_to=10), window(16)),
        (1 * S, gets(stored_to=9), window(16)),
        (59 * S, nothing, window(16, ask=True)),
        (0, asks(2), window(16)),
        (1 * S, lambda t: t.answered(2, stored_to=9), window(16)),
        (1 * S, gets(stored_to=9), window(16)),
        (2 * MINUTE, nothing, window(16)),
    ],
    "a new connection asks first again": [
        (0, Talk.connected, NOTHING),
        (0, Talk.answered, window(16)),
        (1 * S, sends(1), window(15)),
        (1 * S, lambda t: t.delivery.disconnected(), NOTHING),
        (2 * MINUTE, nothing, NOTHING),
        (0, lambda t: t.connected(2), NOTHING),
        (1 * S, lambda t: t.answered(2), window(16)),
    ],
    "no matching subscribers (0x10): quiet until a receipt": [
        (0, Talk.connected, NOTHING),
        (0, Talk.answered, window(16)),
        (0, sends(1, 2), window(14)),
        (1 * S, lambda t: t.delivery.unsent(1, t.now), NOTHING),
        (0, lambda t: t.delivery.unsent(2, t.now), NOTHING),
        (MINUTE, nothing, ASK),
        (0, asks(2), NOTHING),
        (1 * S, lambda t: t.answered(2), OLDEST),
        (0, sends(1), NOTHING),
        (1 * S, lambda t: t.delivery.unsent(1, t.now), NOTHING),
        (2 * MINUTE - 2 * S, nothing, ASK),
        (0, asks(3), NOTHING),
        (1 * S, lambda t: t.answered(3), NEWEST),
    ],
}


@pytest.mark.parametrize("steps", TABLE.values(), ids=TABLE)
def test_what_may_go_out(steps: list[Step]) -> None:
    t = talk()
    for number, (after, act, expected) in enumerate(steps):
        t.now += after
        act(t)
        assert t.delivery.tick(t.now) == []
        assert t.delivery.plan(t.now) == expected, f"step {number}"


def test_a_batch_that_was_on_trial_is_not_under_way_in_the_next() -> None:
    """Else the oldest would be another batch, one further at each trial."""
    t = talk()
    t.connected()
    for ask in range(2, 7):
        t.now += 31 * MINUTE
        t.delivery.tick(t.now)
        assert t.delivery.plan(t.now) == ASK
        t.delivery.asked(ask, t.now)
        t.answered(ask)
        assert t.delivery.busy(t.now) == set()
        assert t.delivery.plan(t.now).batches == 1
        t.sent(1)
        assert t.delivery.busy(t.now) == {1}


def test_a_batch_under_way_is_busy_until_its_receipt() -> None:
    t = talk()
    t.connected()
    t.answered()
    t.sent(1, 2)
    assert (t.delivery.busy(t.now), t.delivery.under_way) == ({1, 2}, 2)
    assert t.got(1).settled == [ref(1)]
    assert (t.delivery.busy(t.now), t.delivery.under_way) == ({2}, 1)


# --- tries ------------------------------------------------------------------------------------------------------------


def test_overtaken_and_a_minute_old_is_a_counting_try_and_then_it_rests() -> None:
    t = talk()
    t.connected()
    t.answered()
    t.sent(1)
    t.now += 10 * S
    t.sent(2)
    t.now += 1 * S
    t.got(2)
    assert t.delivery.tick(t.now) == []
    t.now += 49 * S
    assert t.delivery.tick(t.now) == [ref(1)]
    assert t.delivery.busy(t.now) == {1}
    assert t.delivery.plan(t.now) == window(16), "one batch that is not answered is no silence"
    t.now += MINUTE - 1
    t.delivery.tick(t.now)
    assert (t.delivery.busy(t.now), t.delivery.plan(t.now)) == ({1}, window(16))
    t.now += 1
    assert t.delivery.busy(t.now) == set()


@pytest.mark.parametrize(("tries", "rest"), [(0, 1), (1, 2), (2, 4), (3, 8), (4, 16)])
def test_the_rest_after_a_try_doubles(tries: int, rest: int) -> None:
    t = talk()
    t.connected()
    t.answered()
    t.delivery.sent(ref(1, tries), t.now)
    t.now += 1
    t.sent(2)
    t.got(2)
    t.now += MINUTE
    assert t.delivery.tick(t.now) == [ref(1, tries)]
    t.now += rest * MINUTE - 1
    assert t.delivery.busy(t.now) == {1}
    t.now += 1
    assert t.delivery.busy(t.now) == set()


def test_overtaken_when_the_connection_ends_counts_too() -> None:
    t = talk()
    t.connected()
    t.answered()
    t.sent(1)
    t.now += 1
    t.sent(2, 3)
    t.got(2)
    assert t.delivery.disconnected() == [ref(1)], "3 was sent together with 2: nothing overtook it"


def test_sent_before_the_ask_was_answered_does_not_count() -> None:
    t = talk()
    t.connected()
    t.sent(1)
    t.now += 1
    t.answered()
    t.sent(2)
    t.got(2)
    t.now += MINUTE
    assert t.delivery.tick(t.now) == []
    assert t.delivery.disconnected() == []


def test_a_second_answer_to_one_ask_is_a_new_collector_and_what_was_under_way_goes_again() -> None:
    """A collector that starts reads the retained birth: no need to wait a minute to send what the old one lost."""
    delivery = Delivery(random.Random(1), 0)
    answer = Receipt(b"S" * 8, b"J" * 8, 1, [], [], 0, [], 1)
    delivery.connected(1, 0)
    delivery.received(answer, [], b"S" * 8, 99, 100)
    lost, unread = Ref(1, b"S" * 8, 1, b"h" * 8), Ref(2, b"S" * 8, 2, b"h" * 8)
    delivery.sent(lost, 1000)
    delivery.sent(unread, 1100)
    delivery.unsent(unread.id, 1200)
    assert delivery.plan(2000) == Plan()
    delivery.received(answer, [], b"S" * 8, 99, 3000)
    assert (delivery.plan(3001), delivery.busy(3001)) == (OLDEST, set())
    delivery.sent(lost, 3002)
    delivery.received(answer, [lost], b"S" * 8, 99, 3100)
    assert delivery.plan(3101) == window(16)


def test_an_answered_ask_does_not_end_the_silence_about_our_batches() -> None:
    """A collector that answers asks and no batch gets one batch for each, not a window a minute."""
    delivery = Delivery(random.Random(1), 0)
    delivery.connected(1, 0)
    ask, sent, now = 1, 0, 0
    while now < 6 * 3_600_000:
        now += 500
        delivery.tick(now)
        plan = delivery.plan(now)
        if plan.ask:
            ask += 1
            delivery.asked(ask, now)
        for _ in range(plan.batches):
            sent += 1
            delivery.sent(Ref(sent, b"S" * 8, 1, b"h" * 8), now)
        if plan.ask or now == 500:
            delivery.received(Receipt(b"S" * 8, b"J" * 8, ask, [], [], 0, [], 1), [], b"S" * 8, 99, now + 100)
    assert 16 + 10 < sent <= 16 + ask - 1 < 16 + 25


def test_while_nobody_answers_no_batch_goes_out() -> None:
    """Six hours cost the asks alone."""
    t = talk()
    t.connected()
    t.answered()
    t.sent(*range(1, 17))
    plans = []
    for _ in range(6 * 3600):
        t.now += 1 * S
        t.delivery.tick(t.now)
        plans.append(t.delivery.plan(t.now))
    assert sum(plan.batches for plan in plans) == 0
    assert sum(plan.ask for plan in plans) == 16


def test_what_nobody_can_take_does_not_keep_the_others_back() -> None:
    """The oldest batch is never receipted: the newest opens the window, and five tries set the oldest aside."""
    t = talk()
    t.connected()
    t.answered()
    t.sent(1)
    t.now += MINUTE  # and there is silence
    ask, newest, tries = 1, 1, 0
    while tries < 5:
        t.now += 1 * S
        assert t.now < T0 + 90 * MINUTE, "set aside in good time"
        tries += t.delivery.tick(t.now).count(ref(1, tries))
        plan = t.delivery.plan(t.now)
        if plan.ask:
            ask += 1
            t.delivery.asked(ask, t.now)
            t.answered(ask)
        if plan.batches > plan.live and 1 not in t.delivery.busy(t.now):
            t.delivery.sent(ref(1, tries), t.now)
        elif plan.live:
            newest += 1
            t.now += 1
            t.sent(newest)
            t.got(newest)
    assert newest > 5


def test_silence_alone_does_not_count() -> None:
    t = talk()
    t.connected()
    t.answered()
    t.sent(1, 2)
    t.now += 10 * MINUTE
    assert t.delivery.tick(t.now) == []


# --- what a receipt may change ----------------------------------------------------------------------------------------


def test_only_the_newest_asks_echo_on_our_stream_answers_it() -> None:
    t = talk()
    t.connected(5)
    assert not t.got(stored_to=1).answers_ask
    assert not t.answered(4).answers_ask
    assert not t.answered(5, stream=b"another.").answers_ask
    assert t.answered(5).answers_ask
    t.delivery.asked(6, t.now)
    assert not t.answered(5).answers_ask
    t.delivery.disconnected()
    assert not t.answered(6).answers_ask


def test_a_collector_that_knows_our_next_seq_shows_a_fork() -> None:
    t = talk()
    t.connected()
    t.next_seq = 9
    assert not t.answered(stored_to=8).shows_fork
    assert t.got(stored_to=9).shows_fork
    assert t.got(stored_to=2, also=[(7, 9)]).shows_fork
    assert not t.got(stored_to=99, stream=b"another.").shows_fork


# --- anchors ----------------------------------------------------------------------------------------------------------


def test_an_answer_dates_the_middle_of_its_round_trip_within_half_of_it() -> None:
    t = talk()
    t.connected()
    t.now += 600
    anchor = t.answered(server_ms=1_790_000_000_000).anchor
    assert anchor is not None
    assert (anchor.boottime_ms, anchor.unix_ms, anchor.source) == (T0 + 300, 1_790_000_000_000, "collector")
    assert 300 <= anchor.error_ms <= 302


def test_whenever_the_server_looked_at_its_clock_the_truth_is_within_the_error() -> None:
    """True wall time = boottime + 1 000 000; the collector may have read its clock at any moment of the round trip."""
    for trip in (0, 1, 2, 7, 600, 59_999):
        for read in {0, trip // 3, trip}:
            t = talk()
            t.connected()
            t.now += trip
            anchor = t.answered(server_ms=T0 + read + 1_000_000).anchor
            assert anchor is not None
            assert abs(anchor.boottime_ms + 1_000_000 - anchor.unix_ms) <= anchor.error_ms


def test_a_batch_answered_sooner_gives_the_better_anchor() -> None:
    t = talk()
    t.connected()
    t.now += 10 * S
    t.answered()
    t.sent(1)
    t.now += 200
    anchor = t.got(1, server_ms=5).anchor
    assert anchor is not None
    assert anchor.error_ms <= 102


@pytest.mark.parametrize("case", ["an earlier connection", "an earlier run"])
def test_a_batch_that_was_sent_before_gives_no_anchor(case: str) -> None:
    """The receipt may answer the first sending: the collector's time would be that of long ago."""
    t = talk(newest_before_start=1 if case == "an earlier run" else 0)
    if case == "an earlier connection":
        t.connected(1)
        t.answered()
        t.sent(1)
        t.delivery.disconnected()
    t.connected(2)
    t.answered(2)
    t.sent(1)
    assert t.got(1).anchor is None
    t.sent(2)
    assert t.got(2).anchor is not None


def test_the_error_counts_from_the_first_sending_on_this_connection() -> None:
    t = talk()
    t.connected()
    t.answered()
    t.sent(1)
    t.now += 61 * S
    t.delivery.tick(t.now)
    t.delivery.plan(t.now)
    t.sent(1)
    t.now += 1 * S
    anchor = t.got(1).anchor
    assert anchor is not None
    assert anchor.error_ms >= 31 * S


def test_a_receipt_for_nothing_sent_gives_no_anchor() -> None:
    t = talk()
    t.connected()
    t.answered()
    assert t.got().anchor is None
    assert t.answered().anchor is None, "the same ask answered twice: the second says nothing of this round trip"
