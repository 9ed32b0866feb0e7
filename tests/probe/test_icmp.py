"""ICMP echo: bytes, books and trains. The kernel's own checksum, clock and counters are the truth."""

from __future__ import annotations

import errno
import socket
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banua_probe.sensors import bound, icmp
from banua_probe.sensors.bound import NotSentError
from banua_probe.sensors.echo import MAX_STEP_NS, Ledger, checksum, parse_reply, parse_stamp, request
from banua_probe.sensors.icmp import NotPermitted, open_socket, permitted, run_train

TOKEN = b"8 bytes."
V4, V6 = socket.AF_INET, socket.AF_INET6
MS = 1_000_000
T_MAX = 3000 * MS


def reply(family: socket.AddressFamily, ident: int, seq: int, payload: bytes = TOKEN) -> bytes:
    return struct.pack("!BBHHH", 0 if family == V4 else 129, 0, 0, ident, seq) + payload


def ip_header(words: int = 5) -> bytes:
    return bytes([0x40 | words]) + bytes(words * 4 - 1)


# --- bytes


def test_the_checksum_of_rfc_1071s_example() -> None:
    """RFC 1071 §3: the words 0001 f203 f4f5 f6f7 sum to ddf2 (without carry); the checksum is its complement."""
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == ~0xDDF2 & 0xFFFF


@given(st.integers(0, 65535), st.integers(0, 65535), st.binary(max_size=64))
def test_a_request_carries_its_numbers_and_sums_up_to_zero(ident: int, seq: int, payload: bytes) -> None:
    message = request(V4, ident, seq, payload)
    assert struct.unpack("!BBHH", message[:2] + message[4:8]) == (8, 0, ident, seq)
    assert message[8:] == payload
    assert checksum(message) == 0


@pytest.mark.parametrize("family", [V4, V6])
def test_a_reply_of_this_train_is_known_by_type_id_and_token(family: socket.AddressFamily) -> None:
    assert parse_reply(reply(family, 7, 300), family, 7, TOKEN) == 300
    assert parse_reply(reply(family, 8, 300), family, 7, TOKEN) is None, "another program's"
    assert parse_reply(reply(family, 7, 300, b"8 bytes,"), family, 7, TOKEN) is None, "an earlier train's"
    assert parse_reply(request(family, 7, 300, TOKEN), family, 7, TOKEN) is None, "our own request, looped back"
    assert parse_reply(reply(family, 7, 300)[:-1], family, 7, TOKEN) is None, "cut short"


@pytest.mark.parametrize("words", [5, 15])
def test_a_raw_sockets_ip_header_is_passed_over(words: int) -> None:
    assert parse_reply(ip_header(words) + reply(V4, 7, 1), V4, 7, TOKEN) == 1


@given(st.binary(max_size=100), st.sampled_from([V4, V6]))
def test_arbitrary_bytes_are_no_reply_and_no_error(message: bytes, family: socket.AddressFamily) -> None:
    assert parse_reply(message, family, 7, TOKEN) is None or TOKEN in message
    stamp = parse_stamp(message)
    assert stamp is None or stamp > 0


def test_a_stamp_of_zero_is_none() -> None:
    assert parse_stamp(bytes(48)) is None
    assert parse_stamp(struct.pack("@llllll", 5, 6, 0, 0, 0, 0)) == 5_000_000_006


# --- books


def test_the_kernels_stamps_are_believed_where_the_monotonic_clock_agrees() -> None:
    ledger = Ledger(T_MAX)
    ledger.send(0)
    ledger.stamp(0, 1_000_000 * MS)
    ledger.answer(0, 41 * MS, 1_000_040 * MS)
    assert ledger.rtts_us() == ([40_000.0], True)


@pytest.mark.parametrize("step_ns", [MAX_STEP_NS + MS + 1, -3600 * 10**9, 3600 * 10**9])
def test_a_stepped_wall_clock_leaves_the_programs_own_time(step_ns: int) -> None:
    ledger = Ledger(T_MAX)
    ledger.send(0)
    ledger.stamp(0, 10**18)
    ledger.answer(0, 41 * MS, 10**18 + 40 * MS + step_ns)
    assert ledger.rtts_us() == ([41_000.0], False)


def test_one_time_of_the_programs_own_makes_the_whole_train_its_own() -> None:
    ledger = Ledger(T_MAX)
    for seq in (0, 1):
        ledger.send(seq * MS)
    ledger.stamp(0, 10**18)
    ledger.answer(0, 40 * MS, 10**18 + 40 * MS)
    ledger.answer(1, 41 * MS, None)
    assert ledger.rtts_us() == ([40_000.0, 40_000.0], False)


def test_a_reply_counts_within_t_max_of_its_own_request() -> None:
    ledger = Ledger(T_MAX)
    ledger.send(0)
    ledger.send(1000 * MS)
    ledger.answer(0, T_MAX + 1, None)
    ledger.answer(1, T_MAX + 1000 * MS, None)
    assert (ledger.rtts_us()[0], ledger.late, ledger.duplicates) == ([None, 3_000_000.0], 1, 0)


def test_waiting_ends_when_all_is_answered_or_too_old() -> None:
    ledger = Ledger(T_MAX)
    assert ledger.waiting_until_ns(0) is None
    ledger.send(5)
    ledger.send(10)
    assert ledger.waiting_until_ns(20) == 10 + T_MAX
    ledger.answer(1, 30, None)
    assert ledger.waiting_until_ns(40) == 5 + T_MAX
    assert ledger.waiting_until_ns(5 + T_MAX) is None


_REPLIES = st.lists(st.tuples(st.integers(-1, 12), st.integers(0, 5000), st.none() | st.integers(-(10**13), 10**13)))


@given(st.integers(0, 10), st.lists(st.tuples(st.integers(-1, 12), st.integers(0, 10**13))), _REPLIES)
def test_whatever_comes_in_whatever_order_the_books_stay_true(
    sent: int, stamps: list[tuple[int, int]], replies: list[tuple[int, int, int | None]]
) -> None:
    ledger = Ledger(T_MAX)
    for seq in range(sent):
        ledger.send(seq * 20 * MS)
    for seq, stamp_ns in stamps:
        ledger.stamp(seq, stamp_ns)
    for seq, at_ms, stamp in replies:
        ledger.answer(seq, at_ms * MS, stamp)
    rtts, all_by_kernel = ledger.rtts_us()
    received = [rtt for rtt in rtts if rtt is not None]
    known = sum(0 <= seq < sent for seq, _, _ in replies)
    assert len(rtts) == ledger.sent == sent
    assert all(0 <= rtt <= (T_MAX + MAX_STEP_NS) / 1000 for rtt in received)
    assert len(received) + ledger.duplicates + ledger.late <= known
    assert not all_by_kernel or received


# --- trains


def test_where_both_kinds_of_socket_are_refused_icmp_is_not_permitted() -> None:
    asked: list[int] = []

    def refuse(_family: int, kind: int, _protocol: int) -> socket.socket:
        asked.append(kind)
        raise PermissionError(errno.EPERM, "Operation not permitted")

    with pytest.raises(NotPermitted, match=r"^ICMP not permitted$"):
        open_socket(V4, refuse)
    assert asked == [socket.SOCK_DGRAM, socket.SOCK_RAW], "the less privileged one first"
    assert not permitted(refuse)


def test_the_advice_names_the_sysctl() -> None:
    assert 'sysctl -w net.ipv4.ping_group_range="0 2147483647"' in icmp.ADVICE


def run(address: str = "127.0.0.1", family: socket.AddressFamily = V4, **settings: Any) -> icmp.Train:
    return run_train(address, family, **({"count": 4, "interval_s": 0.02, "timeout_s": 0.5} | settings))


@pytest.mark.root
@pytest.mark.parametrize("payload_bytes", [16, 1400])
def test_loopback_answers_every_request_and_the_kernel_stamps_them(payload_bytes: int) -> None:
    before = time.monotonic()
    train = run(payload_bytes=payload_bytes)
    took_s = time.monotonic() - before
    assert len(train.rtt_us) == 5
    assert all(rtt is not None and 0 < rtt < took_s * 1e6 for rtt in train.rtt_us)
    assert (train.timestamp_source, train.reply_ttl, train.duplicates, train.late) == ("kernel", 64, 0, 0)
    assert train.reason == ""
    assert took_s >= 0.06, "four sends, 20 ms apart, after the one that wakes"


@pytest.mark.root
def test_the_kernel_counted_as_many_requests_as_were_sent() -> None:
    def counted() -> int:
        lines = [line.split()[1:] for line in Path("/proc/net/snmp").read_text().splitlines() if line[:5] == "Icmp:"]
        return int(dict(zip(*lines, strict=True))["OutEchoReps"])

    before = counted()
    train = run(count=9)
    assert len(train.rtt_us) == 10
    assert counted() - before >= 10


@pytest.mark.root
def test_an_interface_that_is_not_there_sends_nothing() -> None:
    with pytest.raises(NotSentError, match="no interface nosuch0"):
        run(interface="nosuch0")


@pytest.mark.root
def test_an_address_that_no_route_leads_to_sends_nothing() -> None:
    """The kernel refuses the broadcast address to a socket that did not ask for it."""
    with pytest.raises(NotSentError, match=r"^not sent: "):
        run("255.255.255.255")


class Interrupted(socket.socket):
    """A socket whose third send is told a router's answer to an earlier request, as a pending error is."""

    sends = 0

    def send(self, *arguments: Any) -> int:
        self.sends += 1
        if self.sends == 3:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        return super().send(*arguments)


@pytest.mark.root
def test_a_routers_answer_to_an_earlier_request_does_not_end_the_train() -> None:
    train = run(open_=Interrupted)
    assert (len(train.rtt_us), train.reason) == (5, "")
    assert None not in train.rtt_us


class GoesAway(socket.socket):
    """A socket whose way is gone after two sends."""

    sends = 0

    def send(self, *arguments: Any) -> int:
        self.sends += 1
        if self.sends > 2:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        return super().send(*arguments)


@pytest.mark.root
def test_a_way_that_is_gone_ends_the_train_and_what_was_not_sent_is_not_lost() -> None:
    train = run(open_=GoesAway)
    assert (len(train.rtt_us), train.reason) == (2, "not sent: Network is unreachable")
    assert None not in train.rtt_us


class Unplugged(socket.socket):
    """A socket whose interface takes all requests, but only the first `answered` reach somebody."""

    sent = 0
    answered = 2

    def send(self, *arguments: Any) -> int:
        Unplugged.sent += 1
        return super().send(*arguments) if Unplugged.sent <= self.answered else len(arguments[0])


def unplug(monkeypatch: pytest.MonkeyPatch, afterwards: tuple[bool, str]) -> None:
    """Let the carrier be lost after four sends."""
    monkeypatch.setattr(Unplugged, "sent", 0)
    monkeypatch.setattr(bound, "carrier_state", lambda _: (True, "0") if Unplugged.sent < 4 else afterwards)


@pytest.mark.root
@pytest.mark.parametrize(("afterwards", "reason"), [
    ((False, "1"), "not sent: no carrier on lo"), ((True, "2"), "not sent: carrier lost on lo"),
], ids=["it stays away", "it comes back"])  # fmt: skip
def test_requests_that_an_interface_without_a_carrier_took_are_not_lost(
    monkeypatch: pytest.MonkeyPatch, afterwards: tuple[bool, str], reason: str
) -> None:
    """Two are answered; the third and the fourth may never have left, and the fifth is not sent."""
    unplug(monkeypatch, afterwards)
    train = run(open_=Unplugged, timeout_s=0.1)
    assert (len(train.rtt_us), None in train.rtt_us, train.reason) == (2, False, reason)
    assert Unplugged.sent == 4


@pytest.mark.root
def test_a_train_of_which_nothing_is_known_to_have_left_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    unplug(monkeypatch, (False, "1"))
    monkeypatch.setattr(Unplugged, "answered", 0)
    with pytest.raises(NotSentError, match=r"^not sent: no carrier on lo$"):
        run(open_=Unplugged, timeout_s=0.1)


@pytest.mark.root
def test_a_carrier_that_is_lost_after_the_last_reply_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    unplug(monkeypatch, (False, "1"))
    monkeypatch.setattr(Unplugged, "answered", 4)
    train = run(open_=Unplugged, count=3)
    assert (len(train.rtt_us), None in train.rtt_us, train.reason) == (4, False, "")


@pytest.mark.root
def test_a_loss_while_the_carrier_stayed_is_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    unplug(monkeypatch, (True, "0"))
    train = run(open_=Unplugged, timeout_s=0.1)
    assert ([rtt is None for rtt in train.rtt_us], train.reason) == ([False] * 2 + [True] * 3, "")
