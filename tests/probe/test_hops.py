"""Traceroute and path MTU without sockets: the course over a simulated path, the search, the rows, when to trace."""

from __future__ import annotations

import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banua_probe.config import PathTarget
from banua_probe.sensors import bound, path_mtu
from banua_probe.sensors.bound import NeverLeftError, NotSentError
from banua_probe.sensors.course import Course, Hop, Limits, Reply, follow
from banua_probe.sensors.hops import TracePolicy, hop_rows, measure_hops
from banua_probe.sensors.icmp_error import ExtendedError, answer_name, parse_extended_error
from banua_probe.sensors.names import LAST_KNOWN, Names
from banua_probe.sensors.path_mtu import MtuSearch
from banua_probe.sensors.traceroute import Trace, known, trace
from banua_wire.rows import Row, checked

if TYPE_CHECKING:
    from banua_wire.fields import Value

TARGET = "198.51.100.9"
ROUTERS = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]


# The error queue


def extended(errno: int, origin: int, kind: int, code: int, info: int, offender: bytes) -> bytes:
    return struct.pack("=IBBBBII", errno, origin, kind, code, 0, info, 0) + offender


def test_an_extended_error_names_who_sent_the_icmp_message() -> None:
    """A time-exceeded as Linux 6 handed it over, IPv4 (EHOSTUNREACH 113)."""
    data = bytes.fromhex("71000000 02 0b 00 00 00000000 00000000 0200 0000 0a4d0002 0000000000000000")
    assert parse_extended_error(data) == ExtendedError(113, 2, 11, 0, 0, "10.77.0.2")


def test_an_extended_error_of_ipv6_and_one_without_offender() -> None:
    sockaddr = struct.pack("=HHI16sI", socket.AF_INET6, 0, 0, socket.inet_pton(socket.AF_INET6, "fd77::2"), 0)
    assert parse_extended_error(extended(90, 3, 2, 0, 1300, sockaddr)) == ExtendedError(90, 3, 2, 0, 1300, "fd77::2")
    assert parse_extended_error(extended(90, 1, 0, 0, 1500, bytes(16))) == ExtendedError(90, 1, 0, 0, 1500, None)


@given(st.binary(max_size=80))
def test_arbitrary_ancillary_data_never_raises(data: bytes) -> None:
    parsed = parse_extended_error(data)
    assert (parsed is None) == (len(data) < 16)


@pytest.mark.parametrize(("message", "ipv6", "name"), [
    ((11, 0), False, "time_exceeded"), ((3, 3), False, "port_unreachable"), ((3, 4), False, "fragmentation_needed"),
    ((3, 13), False, "prohibited"), ((3, 77), False, "icmp_3_77"),
    ((3, 0), True, "time_exceeded"), ((1, 4), True, "port_unreachable"), ((2, 0), True, "fragmentation_needed"),
])  # fmt: skip
def test_icmp_messages_have_words(message: tuple[int, int], ipv6: bool, name: str) -> None:
    assert answer_name(*message, ipv6=ipv6) == name


# The course


@dataclass
class SimulatedPath:
    """Routers (None: a silent one) and then the target (None: a silent one); its clock is what it waits."""

    routers: list[str | None]
    end: Reply | None = field(default_factory=lambda: Reply(TARGET, "port_unreachable"))
    rtt_s: float = 0.04
    tokens: float = 1e9
    """How many answers the target has left; it gains one a second, as Linux does."""
    now_s: float = 0.0
    sent: list[tuple[int, int]] = field(default_factory=list)
    dies_after: int = 1000
    _coming: list[tuple[float, int, Reply, float]] = field(default_factory=list)

    def clock(self) -> float:
        return self.now_s

    def send(self, number: int, ttl: int) -> None:
        if len(self.sent) >= self.dies_after:
            raise OSError(101, "Network is unreachable")
        self.sent.append((number, ttl))
        reply = self._reply(ttl)
        if reply is not None:
            self._coming.append((self.now_s + self.rtt_s, number, reply, self.now_s))

    def _reply(self, ttl: int) -> Reply | None:
        if ttl <= len(self.routers):
            router = self.routers[ttl - 1]
            return None if router is None else Reply(router, "time_exceeded")
        if self.tokens < 1:
            return None
        self.tokens -= 1
        return self.end

    def receive(self, timeout_s: float) -> list[tuple[int, Reply, int]]:
        until_s = self.now_s + timeout_s
        due = [entry for entry in self._coming if entry[0] <= until_s]
        first_s = min((entry[0] for entry in due), default=until_s)
        self.tokens += first_s - self.now_s
        self.now_s = first_s
        heard = [entry for entry in due if entry[0] <= first_s]
        self._coming = [entry for entry in self._coming if entry not in heard]
        return [(number, reply, round((first_s - at_s) * 1e6)) for _, number, reply, at_s in heard]

    def forget(self, number: int) -> None:
        self._coming = [entry for entry in self._coming if entry[1] != number]


def traced(path: SimulatedPath, limits: Limits | None = None) -> Course:
    course = Course(TARGET, limits or Limits())
    follow(course, path, limits or Limits(), path.clock)
    return course


def test_every_hop_is_named_in_order_and_the_target_ends_the_course() -> None:
    path = SimulatedPath([*ROUTERS])
    course = traced(path)
    assert course.hops() == [
        *(Hop(ttl, router, [40_000] * 3, "time_exceeded") for ttl, router in enumerate(ROUTERS, start=1)),
        Hop(4, TARGET, [40_000] * 3, "port_unreachable"),
    ]
    assert (course.reached, course.why_unreached()) == (True, "")
    assert len(path.sent) == 12  # nothing went past the target
    assert path.now_s < 0.2


def test_a_silent_router_costs_time_and_not_the_hops_behind_it() -> None:
    course = traced(SimulatedPath(["192.0.2.1", None, "192.0.2.3"]))
    assert [hop.address for hop in course.hops()] == ["192.0.2.1", None, "192.0.2.3", TARGET]
    assert course.hops()[1] == Hop(2, None, [None] * 3, "")


def test_a_path_that_falls_silent_ends_after_eight_silent_hops_in_seconds() -> None:
    path = SimulatedPath(["192.0.2.1", *[None] * 40])
    course = traced(path)
    assert [hop.ttl for hop in course.hops()] == list(range(1, 10))
    assert (course.reached, course.why_unreached()) == (False, "no answer from 8 hops in a row")
    assert path.now_s < 10


def test_never_more_packets_in_flight_than_the_limit() -> None:
    path = SimulatedPath([None] * 40)
    traced(path, Limits(in_flight=6, silent_hops=3, stagger_s=0, whole_s=4))
    assert len(path.sent) == 12  # 6, and after their 3.5 s 6 more


def test_a_refusal_on_the_way_ends_the_course_and_is_the_reason() -> None:
    path = SimulatedPath(["192.0.2.1"], end=Reply("192.0.2.2", "host_unreachable"))
    course = traced(path)
    assert [hop.address for hop in course.hops()] == ["192.0.2.1", "192.0.2.2"]
    assert (course.reached, course.why_unreached()) == (False, "host_unreachable by 192.0.2.2")


def test_thirty_hops_are_enough() -> None:
    course = traced(SimulatedPath([f"192.0.2.{n}" for n in range(1, 60)]))
    assert len(course.hops()) == 30
    assert course.why_unreached() == "too many hops"


def test_a_target_that_limits_its_answers_does_not_seem_farther_than_it_is() -> None:
    """It has one answer left when asked, so the packets of its own hop go unanswered and a later one is not."""
    path = SimulatedPath(["192.0.2.1"], tokens=0.7, rtt_s=0.3)
    course = traced(path)
    assert [hop.address for hop in course.hops()] == ["192.0.2.1", TARGET]


def test_the_whole_trace_is_bounded() -> None:
    path = SimulatedPath([None] * 40)
    course = traced(path, Limits(whole_s=2.5))
    assert path.now_s == 2.5
    assert course.why_unreached() == "2 s are over"


def test_an_interface_that_goes_away_in_the_middle_keeps_what_is_known() -> None:
    course = traced(SimulatedPath([*ROUTERS], dies_after=4))
    assert [hop.address for hop in course.hops()] == ["192.0.2.1", None]
    assert course.why_unreached() == "not sent: Network is unreachable"


def test_not_even_the_first_packet_left() -> None:
    with pytest.raises(OSError, match="Network is unreachable"):
        traced(SimulatedPath([], dies_after=0))


# The path MTU


def searched(mtu_bytes: int, *, most: int = 1500, tells: bool = False, answers: bool = True) -> tuple[int | None, int]:
    """Return what is found on a path of that MTU, and how many sizes were asked."""
    asked = []

    def ask(size_bytes: int) -> Reply | None:
        asked.append(size_bytes)
        if size_bytes > mtu_bytes:
            return Reply("192.0.2.2", "fragmentation_needed", mtu_bytes) if tells else None
        return Reply(TARGET, "port_unreachable") if answers else None

    found = path_mtu.find(ask, MtuSearch(60, most), TARGET, reached=answers, clock_s=lambda: 0.0)
    return found, len(asked)


@pytest.mark.parametrize(("mtu_bytes", "tells", "most_asked"), [
    (1500, False, 1), (1300, True, 2), (1300, False, 6), (1280, False, 7), (1371, False, 10), (61, False, 16),
])  # fmt: skip
def test_the_path_mtu_is_found_to_the_byte(mtu_bytes: int, tells: bool, most_asked: int) -> None:
    found, asked = searched(mtu_bytes, tells=tells)
    assert found == mtu_bytes
    assert asked <= most_asked


@given(st.integers(60, 9000), st.booleans())
def test_any_path_mtu_is_found_in_few_steps(mtu_bytes: int, tells: bool) -> None:
    found, asked = searched(mtu_bytes, most=9000, tells=tells)
    assert found == mtu_bytes
    assert asked <= 20


def test_a_silent_target_leaves_the_path_mtu_unknown_unless_a_router_tells() -> None:
    assert searched(1300, tells=False, answers=False) == (None, 1)
    assert searched(1300, tells=True, answers=False) == (1300, 2)


@pytest.mark.parametrize("lie", [None, 0, 40, 1500, 9000])
def test_a_router_that_tells_nonsense_does_not_lead_the_search_astray(lie: int | None) -> None:
    def ask(size_bytes: int) -> Reply:
        fits = size_bytes <= 1400
        return Reply(TARGET, "udp_reply") if fits else Reply("192.0.2.2", "fragmentation_needed", lie)

    assert path_mtu.find(ask, MtuSearch(60, 1500), TARGET, reached=True, clock_s=lambda: 0.0) == 1400


def test_a_search_that_takes_too_long_has_no_result() -> None:
    clock = iter(range(0, 1000, 8))
    found = path_mtu.find(lambda _: None, MtuSearch(60, 1500), TARGET, reached=True, clock_s=lambda: next(clock))
    assert found is None


# Real sockets, on the loopback


def test_the_loopback_is_one_hop_away() -> None:
    found = trace("127.0.0.1", socket.AF_INET)
    [hop] = found.hops
    assert (hop.ttl, hop.address, hop.answer) == (1, "127.0.0.1", "port_unreachable")
    assert all(rtt is not None and 0 < rtt < 1_000_000 for rtt in hop.rtt_us)
    assert (found.address, found.reached, found.pmtu_bytes, found.reason) == ("127.0.0.1", True, 65535, "")


def test_what_cannot_be_sent_is_an_error_of_its_own() -> None:
    with pytest.raises(NotSentError, match=r"^not sent: no interface nosuch0$"):
        trace("127.0.0.1", socket.AF_INET, interface="nosuch0")


def test_a_trace_without_a_carrier_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bound, "carrier_state", lambda _interface: (False, "1"))
    with pytest.raises(NotSentError, match=r"^not sent: no carrier on lo$"):
        trace("127.0.0.1", socket.AF_INET)


def lost_carrier() -> None:
    raise NeverLeftError(100, "carrier lost on wwan0")


def test_hops_that_were_silent_while_the_carrier_was_lost_are_not_told() -> None:
    course = traced(SimulatedPath(["192.0.2.1", None, "192.0.2.3", *[None] * 40]))
    hops, reason = known(course, lost_carrier)
    assert [hop.address for hop in hops] == ["192.0.2.1", None, "192.0.2.3"]
    assert reason == "not sent: carrier lost on wwan0"
    assert len(known(course, lambda: None)[0]) == 11, "as long as it stays, their silence is told"
    with pytest.raises(NeverLeftError):
        known(traced(SimulatedPath([None] * 40)), lost_carrier)


@pytest.mark.parametrize("path", [
    SimulatedPath([None, "192.0.2.2"]), SimulatedPath([None, "192.0.2.2"], end=Reply("192.0.2.3", "host_unreachable")),
], ids=["reached", "refused"])  # fmt: skip
def test_a_trace_that_an_answer_ended_is_whole_whatever_became_of_the_carrier(path: SimulatedPath) -> None:
    course = traced(path)
    assert known(course, lost_carrier) == (course.hops(), course.why_unreached())


# The rows


def rows_of(found: Trace | None, **more: Any) -> list[Row]:
    rows = hop_rows("web", more.pop("modem", ""), "failed", 77, found, more.pop("interface", ""), **more)
    assert [checked(row) for row in rows] == rows
    assert len({row.key for row in rows}) == len(rows)
    return rows


def test_a_trace_becomes_a_summary_and_a_row_a_hop() -> None:
    hops = [
        Hop(1, "192.0.2.1", [900, None, 1100], "time_exceeded"),
        Hop(2, None, [None] * 3, ""),
        Hop(3, TARGET, [5000, 5100, 5200], "port_unreachable"),
    ]
    summary, *rest = rows_of(Trace(TARGET, hops, True, 1300, ""), modem="m1", interface="wwan0")
    who = {"target": "web", "modem": "m1", "interface": "wwan0"}
    assert summary.values == {
        **who, "trigger": "failed", "outcome": "measured", "address": TARGET, "count": 1, "reached": 1,
        "pmtu_bytes": 1300,
    }  # fmt: skip
    assert [row.values for row in rest] == [
        {**who, "ttl": 1, "outcome": "measured", "address": "192.0.2.1", "rtt_us": [900, None, 1100],
         "answer": "time_exceeded"},
        {**who, "ttl": 2, "outcome": "failed", "rtt_us": [None] * 3, "reason": "no answer"},
        {**who, "ttl": 3, "outcome": "measured", "address": TARGET, "rtt_us": [5000, 5100, 5200],
         "answer": "port_unreachable"},
    ]  # fmt: skip


def test_a_trace_that_nothing_answered_failed_and_its_mtu_is_absent() -> None:
    summary, hop = rows_of(Trace(TARGET, [Hop(1, None, [None], "")], False, None, "no answer from 8 hops in a row"))
    assert summary.values == {
        "target": "web", "trigger": "failed", "outcome": "failed", "address": TARGET, "count": 0, "reached": 0,
        "reason": "no answer from 8 hops in a row",
    }  # fmt: skip
    assert hop.values["outcome"] == "failed"


def test_what_never_left_is_not_measured_and_has_no_hops() -> None:
    [summary] = rows_of(None, reason="not sent: Network is unreachable")
    assert summary.values == {
        "target": "web", "trigger": "failed", "outcome": "not_measured", "reason": "not sent: Network is unreachable",
    }  # fmt: skip


def test_measuring_a_target_on_the_loopback() -> None:
    target = PathTarget(target="self", host="127.0.0.1")
    summary, hop = map(checked, measure_hops(target, "lo", "demand", lambda: 5))
    assert summary.values == {
        "target": "self", "interface": "lo", "trigger": "demand", "outcome": "measured", "address": "127.0.0.1",
        "count": 0, "reached": 1, "pmtu_bytes": 65535,
    }  # fmt: skip
    assert (hop.boottime_ms, hop.values["ttl"], hop.values["address"]) == (5, 1, "127.0.0.1")


def test_a_name_that_does_not_resolve_is_not_measured() -> None:
    def resolve(_: str) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    [row] = measure_hops(PathTarget(target="t", host="nosuch.invalid"), "", "demand", lambda: 5, Names(resolve))
    assert checked(row).values["reason"] == "name not resolved: Name or service not known"
    assert row.values["outcome"] == "not_measured"


def test_a_name_that_is_not_resolved_any_more_is_traced_at_its_last_address() -> None:
    answers = [[(socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("127.0.0.1", 0))]]

    def resolve(_: str) -> list[Any]:
        if not answers:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return answers.pop()

    names = Names(resolve)
    target = PathTarget(target="t", host="village.test")
    first, again = [measure_hops(target, "", "demand", lambda: 5, names)[0].values for _ in range(2)]
    assert (first["outcome"], first["address"], first.get("reason")) == ("measured", "127.0.0.1", None)
    assert (again["outcome"], again["address"], again.get("reason")) == ("measured", "127.0.0.1", LAST_KNOWN)


# When to trace

MINUTE = 60_000


@pytest.mark.parametrize("steps", [
    pytest.param([(0, "measured", 60, None), (10, "measured", 60, None)], id="nothing happens"),
    pytest.param([(0, "failed", None, "failed")], id="failed from the beginning"),
    pytest.param(
        [(0, "measured", 60, None), (10, "failed", None, "failed"), (20, "failed", None, None),
         (69, "failed", None, None), (70, "failed", None, "failed"), (129, "failed", None, None),
         (130, "failed", None, "failed")],
        id="once when it begins, then once an hour"),
    pytest.param(
        [(0, "failed", None, "failed"), (30, "measured", 60, "changed"), (40, "measured", 60, None)],
        id="recovered"),
    pytest.param(
        [(0, "measured", 60, None), (10, "measured", 58, "changed"), (20, "measured", 58, None)],
        id="another way back"),
    pytest.param([(0, "measured", None, None), (10, "measured", 58, None), (20, "measured", None, None),
                  (30, "measured", 58, None)], id="a ttl that is not known tells nothing"),
    pytest.param(
        [(0, "failed", None, "failed"), (1, "measured", 60, None), (9, "measured", 60, None),
         (10, "measured", 60, "changed")],
        id="too soon: it waits"),
    pytest.param(
        [(0, "failed", None, "failed"), (2, "measured", 60, None), (4, "failed", None, None),
         (11, "failed", None, "failed"), (12, "failed", None, None)],
        id="flapping: the newest failure is traced once, at the limit's end"),
    pytest.param(
        [(0, "measured", 60, None), (1, "not_measured", None, None), (2, "measured", 60, None),
         (3, "failed", None, "failed"), (90, "not_measured", None, None), (91, "failed", None, "failed")],
        id="not measured tells nothing"),
])  # fmt: skip
def test_when_a_target_is_traced(steps: list[tuple[int, str, int | None, str | None]]) -> None:
    policy = TracePolicy()
    for minute, outcome, reply_ttl, expected in steps:
        assert policy.due(path_row(minute, outcome, reply_ttl)) == expected, minute


def test_targets_do_not_hold_each_other_up_and_methods_of_one_target_share_its_limit() -> None:
    policy = TracePolicy()
    assert policy.due(path_row(0, "failed", method="icmp")) == "failed"
    assert policy.due(path_row(0, "failed", method="tcp")) is None
    assert policy.due(path_row(0, "failed", target="other")) == "failed"
    assert policy.due(path_row(0, "failed", modem="m1")) == "failed"


def test_threads_that_share_a_policy_do_not_trace_twice() -> None:
    policy = TracePolicy()
    causes: list[str | None] = []
    rows = [path_row(0, "failed", method=f"method-{n}") for n in range(8)]
    threads = [threading.Thread(target=lambda row=row: causes.append(policy.due(row))) for row in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, causes)) == [*["None"] * 7, "failed"]


def path_row(minute: int, outcome: str, reply_ttl: int | None = None, **more: str) -> Row:
    values: dict[str, Value] = {"target": "web", "method": "icmp", "outcome": outcome, **more}
    if reply_ttl is not None:
        values["reply_ttl"] = reply_ttl
    return checked(Row("path", minute * MINUTE, values))
