"""The link's pure core: what a line does to packets whose moments are made up, and what is read from a packet."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banua_lab import cli
from banua_lab.impairment import UNDER_WAY_MAX, Delivery, Fate, Line, Packet, Profile, describe
from banua_lab.link import Emulator, End, Entry, _Log

MS = 1_000_000
S = 1_000_000_000
ECHO = Packet(84, 1, icmp_type=8, icmp_id=7, icmp_seq=1)

probability = st.floats(0, 1)
profiles = st.builds(
    Profile,
    delay_ms=st.floats(0, 500),
    jitter_ms=st.floats(0, 500),
    loss=probability,
    duplicate=probability,
    reorder=probability,
    rate_kbit=st.integers(0, 10_000),
    queue_packets=st.integers(1, 20),
    outages=st.lists(st.tuples(st.floats(0, 5), st.floats(5, 10)), max_size=2).map(tuple),
)
# gaps before each packet, in ns, and its size
arrivals = st.lists(st.tuples(st.integers(0, 50 * MS), st.integers(20, 1500)), max_size=60)


def line(seed: str = "1", started_ns: int = 0, **profile: object) -> Line:
    return Line(Profile(**profile), seed, started_ns)  # type: ignore[arg-type]


def played(profile: Profile, packets: list[tuple[int, int]], seed: str = "1") -> list[tuple[int, int, list[Delivery]]]:
    """Return (arrival, size, deliveries) of each packet."""
    subject, now_ns, told = Line(profile, seed, 0), 0, []
    for gap_ns, size in packets:
        now_ns += gap_ns
        told.append((now_ns, size, subject.offer(Packet(size), now_ns)))
    return told


def sent(told: list[tuple[int, int, list[Delivery]]]) -> list[tuple[int, int]]:
    """Return (due, size) of the first copy of all that is sent."""
    firsts = [(deliveries[0], size) for _, size, deliveries in told]
    return [(first.due_ns, size) for first, size in firsts if first.due_ns is not None]


# --- values by hand ---------------------------------------------------------------------------------------------------


def test_a_perfect_wire_delivers_at_once() -> None:
    assert line().offer(ECHO, 5 * S) == [Delivery(Fate.SENT, 5 * S)]


def test_a_delay_is_added_to_the_moment_of_arrival() -> None:
    assert line(delay_ms=40.5).offer(ECHO, 5 * S) == [Delivery(Fate.SENT, 5 * S + 40_500_000)]


def test_loss_one_loses_all_and_loss_zero_nothing() -> None:
    all_lost, none_lost = line(loss=1), line(loss=0)
    for i in range(1000):
        assert all_lost.offer(ECHO, i) == [Delivery(Fate.LOST)]
        assert none_lost.offer(ECHO, i)[0].fate is Fate.SENT


def test_a_duplicate_is_sent_twice() -> None:
    assert line(duplicate=1, delay_ms=1).offer(ECHO, 0) == [Delivery(Fate.SENT, MS), Delivery(Fate.SENT, MS, copy=1)]


def test_what_is_reordered_goes_without_the_delay() -> None:
    assert line(reorder=1, delay_ms=40, jitter_ms=3).offer(ECHO, 9) == [Delivery(Fate.SENT, 9, reordered=True)]


@pytest.mark.parametrize(
    ("at_s", "fate"),
    [(0, Fate.SENT), (0.999, Fate.SENT), (1, Fate.OUTAGE), (2.499, Fate.OUTAGE), (2.5, Fate.SENT), (3.2, Fate.OUTAGE)],
)
def test_an_outage_begins_at_its_start_and_is_over_at_its_end(at_s: float, fate: Fate) -> None:
    subject = line(started_ns=7 * S, outages=((1.0, 2.5), (3.0, 4.0)))
    assert [d.fate for d in subject.offer(ECHO, 7 * S + round(at_s * S))] == [fate]


def test_a_rate_serialises_one_packet_after_the_other() -> None:
    subject = line(rate_kbit=1000, delay_ms=10)  # 1000 bits a ms: 125 bytes take 1 ms
    packet = Packet(125)
    assert [subject.offer(packet, 0)[0].due_ns for _ in range(3)] == [11 * MS, 12 * MS, 13 * MS]
    assert subject.offer(packet, 20 * MS)[0].due_ns == 31 * MS


def test_a_full_queue_drops_its_newest_and_has_room_again_when_one_has_left() -> None:
    subject = line(rate_kbit=1000, queue_packets=2)
    packet = Packet(125)
    fates = [subject.offer(packet, at)[0] for at in (0, 0, 0, MS - 1, MS)]
    assert fates == [
        Delivery(Fate.SENT, MS),
        Delivery(Fate.SENT, 2 * MS),
        Delivery(Fate.QUEUE_FULL),
        Delivery(Fate.QUEUE_FULL),
        Delivery(Fate.SENT, 3 * MS),
    ]


@pytest.mark.parametrize(
    ("protocol", "port", "fate"),
    [(17, 443, Fate.BLOCKED), (6, 443, Fate.SENT), (17, 444, Fate.SENT), (1, None, Fate.SENT), (None, None, Fate.SENT)],
)
def test_a_port_is_blocked_for_its_protocol_only(protocol: int | None, port: int | None, fate: Fate) -> None:
    subject = line(blocked=frozenset({("udp", 443)}))
    assert subject.offer(Packet(60, protocol, port), 0)[0].fate is fate


def test_no_more_than_the_most_are_under_way() -> None:
    subject = line(delay_ms=1000, duplicate=1)
    fates = [subject.offer(ECHO, 0)[0].fate for _ in range(UNDER_WAY_MAX)]
    assert fates.count(Fate.SENT) * 2 == UNDER_WAY_MAX
    assert subject.offer(ECHO, 1000 * MS - 1)[0].fate is Fate.QUEUE_FULL
    assert subject.offer(ECHO, 1000 * MS)[0].fate is Fate.SENT


def test_losses_come_about_as_often_as_they_should() -> None:
    subject = line(loss=0.1)
    lost = sum(subject.offer(ECHO, i)[0].fate is Fate.LOST for i in range(10_000))
    assert 850 < lost < 1150  # five standard deviations of 30


def test_the_fate_of_the_nth_packet_hangs_on_the_seed_and_not_on_when_it_came() -> None:
    quick, slow, other = line(loss=0.5, jitter_ms=5), line(loss=0.5), line("2", loss=0.5)
    fates = [[subject.offer(ECHO, i * gap)[0].fate for i in range(200)] for subject, gap in
             ((quick, 1), (slow, S), (other, 1))]  # fmt: skip
    assert fates[0] == fates[1]
    assert fates[0] != fates[2]


# --- properties -------------------------------------------------------------------------------------------------------


@given(profiles, arrivals)
def test_nothing_arrives_before_it_was_sent_and_everything_has_a_fate(
    profile: Profile, packets: list[tuple[int, int]]
) -> None:
    for now_ns, size, deliveries in played(profile, packets):
        assert [d.copy for d in deliveries] in ([0], [0, 1])
        for delivery in deliveries:
            assert (delivery.due_ns is not None) == (delivery.fate is Fate.SENT)
            if delivery.due_ns is not None:
                most_ms = profile.delay_ms + profile.jitter_ms
                queued_ms = (profile.queue_packets * 1500 * 8 / profile.rate_kbit) if profile.rate_kbit else 0
                assert now_ns <= delivery.due_ns <= now_ns + round((most_ms + queued_ms) * MS) + 100, size


@given(profiles, arrivals, st.text(max_size=4))
def test_the_same_seed_gives_the_same_fates(profile: Profile, packets: list[tuple[int, int]], seed: str) -> None:
    assert played(profile, packets, seed) == played(profile, packets, seed)


@given(arrivals, st.floats(0, 500), st.integers(0, 5000), probability)
def test_without_jitter_and_reordering_the_first_in_is_the_first_out(
    packets: list[tuple[int, int]], delay_ms: float, rate_kbit: int, loss: float
) -> None:
    profile = Profile(delay_ms=delay_ms, rate_kbit=rate_kbit, loss=loss, duplicate=0.2)
    due = [due_ns for due_ns, _ in sent(played(profile, packets))]
    assert due == sorted(due)


@given(arrivals, st.integers(1, 5000), st.integers(1, 20))
def test_the_rate_is_never_exceeded(packets: list[tuple[int, int]], rate_kbit: int, queue_packets: int) -> None:
    out = sent(played(Profile(rate_kbit=rate_kbit, queue_packets=queue_packets), packets))
    for first in range(len(out)):
        bits = 0
        for due_ns, size in out[first + 1 :]:
            bits += size * 8
            assert bits * MS <= rate_kbit * (due_ns - out[first][0])


# --- what is read from a packet ---------------------------------------------------------------------------------------


def ipv4(protocol: int, payload: bytes, fragment: int = 0, options: bytes = b"") -> bytes:
    words = 5 + len(options) // 4
    size = words * 4 + len(payload)
    header = struct.pack("!BBHHHBBH4s4s", 0x40 | words, 0, size, 1, fragment, 64, protocol, 0, b"\n\0\0\1", b"\n\0\0\2")
    return header + options + payload


def ipv6(protocol: int, payload: bytes) -> bytes:
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + bytes(32) + payload


REQUEST = struct.pack("!BBHHH", 8, 0, 0, 0xABCD, 513)


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (ipv4(1, REQUEST), Packet(28, 1, icmp_type=8, icmp_id=0xABCD, icmp_seq=513)),
        (ipv4(1, b"\0" + REQUEST[1:]), Packet(28, 1, icmp_type=0, icmp_id=0xABCD, icmp_seq=513)),
        (ipv4(1, REQUEST, options=b"\1" * 8), Packet(36, 1, icmp_type=8, icmp_id=0xABCD, icmp_seq=513)),
        (ipv4(1, b"\x0b" + REQUEST[1:]), Packet(28, 1)),
        (ipv4(1, REQUEST[:7]), Packet(27, 1)),
        (ipv4(1, REQUEST, fragment=0x2000), Packet(28, 1, icmp_type=8, icmp_id=0xABCD, icmp_seq=513)),
        (ipv4(1, REQUEST, fragment=0x2001), Packet(28, 1)),
        (ipv4(17, struct.pack("!HHHH", 40_000, 53, 8, 0)), Packet(28, 17, port=53)),
        (ipv4(6, struct.pack("!HH", 40_000, 443) + bytes(16)), Packet(40, 6, port=443)),
        (ipv4(17, b"\0\0\0", fragment=0), Packet(23, 17)),
        (ipv6(58, b"\x80" + REQUEST[1:]), Packet(48, 58, icmp_type=128, icmp_id=0xABCD, icmp_seq=513)),
        (ipv6(58, b"\x87" + REQUEST[1:]), Packet(48, 58)),
        (ipv6(17, struct.pack("!HH", 1, 853) + bytes(4)), Packet(48, 17, port=853)),
        (b"", Packet(0)),
        (b"\x45", Packet(1)),
        (b"\x50" * 60, Packet(60)),
    ],
)
def test_a_packet_is_described(raw: bytes, told: Packet) -> None:
    assert describe(raw) == told


@given(st.binary(max_size=120))
def test_any_bytes_are_described(raw: bytes) -> None:
    assert describe(raw).size == len(raw)


# --- the shell, over sockets instead of devices -----------------------------------------------------------------------


def test_packets_pass_between_the_ends_and_each_has_its_line_in_the_log() -> None:
    log = io.BytesIO()
    (a, far_a), (b, far_b) = (socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    told, tell = os.pipe()
    with a, far_a, b, far_b:
        far_b.settimeout(10)
        ends = (End("x", "dev0", (), a.fileno()), End("y", "dev1", (), b.fileno()))
        emulator = Emulator(ends, (Profile(delay_ms=20), Profile(loss=1)), 1, log, 1500)
        thread = threading.Thread(target=emulator.run, args=(told,))
        thread.start()
        before_ns = time.monotonic_ns()
        far_b.send(ipv4(17, struct.pack("!HHHH", 1, 53, 8, 0)))
        far_a.send(ipv4(1, REQUEST))
        assert far_b.recv(2000) == ipv4(1, REQUEST)
        after_ns = time.monotonic_ns()
        os.write(tell, b"x")
        thread.join()
    os.close(told)
    os.close(tell)
    lost, passed = sorted(map(json.loads, log.getvalue().splitlines()), key=lambda entry: str(entry["fate"]))
    t_in_ns, t_out_ns, due_ns = (passed.pop(name) for name in ("t_in_ns", "t_out_ns", "due_ns"))
    assert before_ns <= t_in_ns == due_ns - 20 * MS
    assert due_ns <= t_out_ns <= after_ns
    assert passed == {
        "direction": "a-b", "fate": "sent", "size": 28, "protocol": 1,
        "icmp_type": 8, "icmp_id": 0xABCD, "icmp_seq": 513,
    }  # fmt: skip
    assert lost.pop("t_in_ns") >= before_ns
    assert lost == {"direction": "b-a", "fate": "lost", "size": 28, "protocol": 17, "port": 53}


def test_the_log_in_memory_is_bounded_and_loses_no_entry() -> None:
    file = io.BytesIO()
    log = _Log(file)
    for i in range(100_100):
        log.add(Entry("a-b", i, Fate.LOST, 84))
        assert len(log._entries) <= 100_000
    before = log.filling
    log.write()
    assert (before, log.filling) == (True, False)
    assert [json.loads(line)["t_in_ns"] for line in file.getvalue().splitlines()] == list(range(100_100))


# --- the command ------------------------------------------------------------------------------------------------------

WORDS = ["link", "--a", "x", "--b", "y", "--log", "l"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--loss", "1.1"], "argument --loss: '1.1' is not a number within 0…1"),
        (["--loss", "nan"], "argument --loss: 'nan' is not a number within 0…1"),
        (["--delay-ms", "10/x"], "argument --delay-ms: 'x' is not a number within 0…60000"),
        (["--delay-ms", "-1"], "argument --delay-ms: '-1' is not a number within 0…60000"),
        (["--rate-kbit", "1.5"], "argument --rate-kbit: '1.5' is not a whole number within 0…10000000"),
        (["--queue-packets", "0"], "argument --queue-packets: '0' is not a whole number within 1…10000"),
        (["--outage", "5"], "argument --outage: '' is not a number within 0…86400"),
        (["--outage", "5-5"], "argument --outage: '5-5' does not end after it starts"),
        (["--block-port", "icmp/1"], "argument --block-port: 'icmp/1' is not a port, nor tcp/PORT or udp/PORT"),
        (["--block-port", "udp/0"], "argument --block-port: '0' is not a whole number within 1…65535"),
        (["--net", "10.0.0.0/31"], "argument --net: '10.0.0.0/31' has no room for two ends"),
        (["--net", "10.0.0.1/30"], "argument --net: 10.0.0.1/30 has host bits set"),
        (["--mtu", "67"], "argument --mtu: '67' is not a whole number within 68…65535"),
    ],
)
def test_an_argument_that_cannot_be_is_told_with_its_limit(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([*WORDS, *words])
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(told)


def test_one_value_is_for_both_directions_and_two_are_for_one_each() -> None:
    told = cli._parser().parse_args([*WORDS, "--delay-ms", "40/60", "--loss", "0.25", "--block-port", "443"])
    assert (told.delay_ms, told.loss) == ((40, 60), (0.25, 0.25))
    assert told.block_port == [{("tcp", 443), ("udp", 443)}]
