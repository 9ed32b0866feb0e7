"""DNS questions against servers that answer rightly, wrongly or not at all; the servers' own records are the truth."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banua_lab.faults import DnsFault, DnsMode
from banua_probe.config import DnsQuery
from banua_probe.sensors import bound
from banua_probe.sensors.dns import Answer, DnsError, ask, hijacked, labels_of, parse_answer, question
from banua_wire.rows import checked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from banua_wire.rows import Row

LIE = "192.0.2.66"
TABLE = {"known.test": ["192.0.2.7", "192.0.2.8"]}
A_IN = struct.pack("!2H", 1, 1)


def name_of(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def record(address: str, owner: bytes = b"\xc0\x0c") -> bytes:
    packed = ipaddress.ip_address(address).packed
    return owner + struct.pack("!2HIH", 1 if len(packed) == 4 else 28, 1, 60, len(packed)) + packed


def response(number: int, name: str, *records: bytes, flags: int = 0x8180) -> bytes:
    return struct.pack("!6H", number, flags, 1, len(records), 0, 0) + name_of(name) + A_IN + b"".join(records)


def run(port: int, name: str = "known.test", interface: str = "", timeout_s: float = 3.0, **settings: Any) -> Row:
    usual: dict[str, Any] = {"name": name, "resolver": "127.0.0.1", "port": port}
    query = DnsQuery(**(usual | settings))
    row = ask(query, lambda: 77, interface=interface, timeout_s=timeout_s)
    checked(row)
    assert (row.kind, row.boottime_ms) == ("dns", 77)
    return row


@contextlib.contextmanager
def scripted(replies: Callable[[bytes], list[bytes]], *, stranger: bool = False) -> Iterator[tuple[int, list[bytes]]]:
    """A server over UDP that sends what `replies` makes of a question; yields its port and what it was asked.

    With a `stranger` all but the last reply come from another port than the one that was asked.
    """
    asked: list[bytes] = []
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        server.bind(("127.0.0.1", 0))
        server.settimeout(0.02)
        other.bind(("127.0.0.1", 0))
        done = threading.Event()

        def serve() -> None:
            while not done.is_set():
                with contextlib.suppress(TimeoutError):
                    message, peer = server.recvfrom(4096)
                    asked.append(message)
                    *before, last = replies(message) or [b""]
                    for reply in before:
                        (other if stranger else server).sendto(reply, peer)
                    if last:
                        server.sendto(last, peer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], asked
        finally:
            done.set()
            thread.join()


# the sensor against servers


@pytest.mark.parametrize(("lost_after", "outcome"), [(0, "not_measured"), (1, "not_measured"), (2, "failed")])
def test_a_question_without_a_carrier_was_not_asked(
    monkeypatch: pytest.MonkeyPatch, lost_after: int, outcome: str
) -> None:
    """Lost before the first question, while it waits, or while the second one waits: then the first had none."""
    with scripted(lambda _: []) as (port, asked):
        monkeypatch.setattr(
            bound, "carrier_state", lambda _: (len(asked) < lost_after, str(int(len(asked) >= lost_after)))
        )
        row = run(port, timeout_s=0.2)
    assert (row.values["outcome"], row.values.get("tries"), len(asked)) == (
        outcome, 1 if outcome == "failed" else None, lost_after,
    )  # fmt: skip
    if outcome == "not_measured":
        assert row.values["reason"] == "not sent: no carrier on lo"


def test_an_honest_answer_is_measured() -> None:
    with DnsFault(DnsMode.TABLE, TABLE) as server:
        before = time.monotonic_ns()
        row = run(server.port, "Known.Test.")
        took_us = (time.monotonic_ns() - before) // 1000
    values = dict(row.values)
    assert 0 < values.pop("lookup_us") < took_us  # type: ignore[operator]
    assert values == {
        "name": "Known.Test.", "resolver": "127.0.0.1", "outcome": "measured", "rcode": "NOERROR", "tries": 1,
        "answers": 2, "address": "192.0.2.7", "transport": "udp",
    }  # fmt: skip
    [asked] = server.asked
    assert (asked["name"], asked["type"], asked["transport"]) == ("known.test", "A", "udp")


def test_the_time_is_that_of_the_answer() -> None:
    """A server that thinks for 60 ms: at least that, and what the server saw plus a scheduler's whim at most."""

    def slow(message: bytes) -> list[bytes]:
        time.sleep(0.06)
        return [response(int.from_bytes(message[:2], "big"), "known.test", record("192.0.2.7"))]

    with scripted(slow) as (port, _):
        row = run(port)
    assert 60_000 <= row.values["lookup_us"] < 1_000_000  # type: ignore[operator]


def test_ids_and_source_ports_differ_from_one_question_to_the_next() -> None:
    with DnsFault(DnsMode.TABLE, TABLE) as server:
        for _ in range(8):
            run(server.port)
    assert len({asked["id"] for asked in server.asked}) > 4


@pytest.mark.parametrize(("mode", "rcode"), [("nxdomain", "NXDOMAIN"), ("servfail", "SERVFAIL")])
def test_an_answer_without_address_is_measured_with_its_code(mode: str, rcode: str) -> None:
    with DnsFault(DnsMode(mode), TABLE) as server:
        row = run(server.port, expect=["192.0.2.0/24"])
    values = dict(row.values)
    del values["lookup_us"]
    assert values == {
        "name": "known.test", "resolver": "127.0.0.1", "outcome": "measured", "rcode": rcode, "tries": 1, "answers": 0,
        "transport": "udp",
    }  # fmt: skip


def test_silence_is_a_failure_after_two_questions() -> None:
    with DnsFault(DnsMode.SILENT, TABLE) as server:
        before = time.monotonic()
        row = run(server.port, timeout_s=0.2)
        assert 0.4 <= time.monotonic() - before < 2
    assert row.values == {
        "name": "known.test", "resolver": "127.0.0.1", "outcome": "failed", "reason": "no answer within 0.2 s",
        "tries": 2,
    }  # fmt: skip
    first, second = server.asked
    assert second["t_ns"] - first["t_ns"] >= 150_000_000


def test_a_second_try_that_is_answered_is_timed_from_its_own_question() -> None:
    seen: list[bytes] = []

    def second_only(message: bytes) -> list[bytes]:
        seen.append(message)
        number = int.from_bytes(message[:2], "big")
        return [response(number, "known.test", record("192.0.2.7"))] if len(seen) == 2 else []

    with scripted(second_only) as (port, asked):
        row = run(port, timeout_s=0.3)
    assert (row.values["outcome"], row.values["tries"], len(asked)) == ("measured", 2, 2)
    assert row.values["lookup_us"] < 300_000  # type: ignore[operator]


@pytest.mark.parametrize("mode", ["wrong-id", "garbage"])
def test_what_is_no_answer_to_the_question_is_ignored(mode: str) -> None:
    with DnsFault(DnsMode(mode), TABLE, hijack_to=LIE) as server:
        row = run(server.port, expect=["192.0.2.0/28"])
    assert (row.values["address"], row.values["tries"], row.values["hijacked"]) == ("192.0.2.7", 1, 0)
    assert len(server.asked) == 1


@pytest.mark.parametrize(("forge", "stranger"), [
    (lambda number: response(number, "other.test", record(LIE)), False),
    (lambda number: response(number, "known.test", record(LIE)), True),
    (lambda number: response(number, "known.test", record(LIE), flags=0x0100), False),
    (lambda number: response(number, "known.test", record(LIE)[:-1]), False),
    (lambda number: struct.pack("!6H", number, 0x8180, 0, 1, 0, 0) + record(LIE, b"\0"), False),
], ids=["another question", "another peer", "a query", "cut short", "no question"])  # fmt: skip
def test_a_forged_answer_before_the_true_one_is_ignored(forge: Callable[[int], bytes], stranger: bool) -> None:
    def replies(message: bytes) -> list[bytes]:
        number = int.from_bytes(message[:2], "big")
        return [forge(number), response(number, "KNOWN.test", record("192.0.2.7"))]

    with scripted(replies, stranger=stranger) as (port, asked):
        row = run(port)
    assert (row.values["address"], row.values["tries"], len(asked)) == ("192.0.2.7", 1, 1)


def test_a_failure_says_what_was_ignored() -> None:
    with scripted(lambda message: [response(message[0] << 8 | message[1], "other.test")]) as (port, _):
        row = run(port, timeout_s=0.1)
    assert row.values["reason"] == "no answer within 0.1 s; ignored: an answer to another question"


def test_a_truncated_answer_is_asked_for_again_over_tcp() -> None:
    with DnsFault(DnsMode.TRUNCATED, TABLE) as server:
        row = run(server.port)
    assert {name: row.values[name] for name in ("outcome", "transport", "answers", "address", "tries")} == {
        "outcome": "measured", "transport": "tcp", "answers": 2, "address": "192.0.2.7", "tries": 1,
    }  # fmt: skip
    assert [asked["transport"] for asked in server.asked] == ["udp", "tcp"]


def test_a_truncated_answer_without_tcp_is_a_failure() -> None:
    with scripted(lambda message: [response(message[0] << 8 | message[1], "known.test", flags=0x8380)]) as (port, _):
        row = run(port)
    assert row.values == {
        "name": "known.test", "resolver": "127.0.0.1", "outcome": "failed", "tries": 2,
        "reason": "truncated, and over TCP connection refused",
    }  # fmt: skip


@pytest.mark.parametrize(("sent", "reason"), [
    (b"", "no answer: closed"),
    (b"\x00\x02ab", "no answer: cut short"),
    (b"\x00", "no answer: closed"),
    (None, "no answer within 0.2 s"),
])  # fmt: skip
def test_a_truncated_answer_and_bad_tcp_is_a_failure(sent: bytes | None, reason: str) -> None:
    with (
        scripted(lambda message: [response(message[0] << 8 | message[1], "known.test", flags=0x8380)]) as (port, _),
        socket.create_server(("127.0.0.1", port)) as tcp,
    ):
        tcp.settimeout(2)

        def serve() -> None:
            for _ in range(2):
                peer, _ = tcp.accept()
                with peer:
                    peer.settimeout(2)
                    peer.recv(4096)
                    if sent is None:
                        peer.recv(1)  # until the client leaves
                    else:
                        peer.sendall(sent)

        thread = threading.Thread(target=serve)
        thread.start()
        row = run(port, timeout_s=0.2)
        thread.join()
    assert (row.values["outcome"], row.values["tries"]) == ("failed", 2)
    assert row.values["reason"] == f"truncated, and over TCP {reason}"


def test_a_refusal_is_a_failure_and_no_timeout() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
    before = time.monotonic()
    row = run(port)
    assert time.monotonic() - before < 1
    assert (row.values["outcome"], row.values["reason"]) == ("failed", "connection refused")


@pytest.mark.parametrize(("settings", "interface", "reason"), [
    ({}, "nosuch0", "not sent: no interface nosuch0"),
    ({"resolver": "255.255.255.255"}, "", "not sent: Permission denied"),
    ({"name": "a" * 64 + ".test"}, "", "not a DNS name: a label is 1 to 63 printable characters"),
])  # fmt: skip
def test_what_never_left_this_machine_is_not_measured(settings: dict[str, Any], interface: str, reason: str) -> None:
    row = run(9, interface=interface, **settings)
    assert (row.values["outcome"], row.values["reason"]) == ("not_measured", reason)
    assert not {"tries", "lookup_us", "rcode", "answers", "hijacked"} & set(row.values)


def test_a_question_bound_to_an_interface_names_it_and_its_modem() -> None:
    with DnsFault(DnsMode.TABLE, TABLE) as server:
        row = run(server.port, interface="lo", modem="telkomsel")
    assert (row.values["interface"], row.values["modem"], row.values["outcome"]) == ("lo", "telkomsel", "measured")


def test_a_resolver_with_an_ipv6_address_is_asked_for_a_too() -> None:
    try:
        server = DnsFault(DnsMode.TABLE, TABLE, host="::1")
    except OSError:
        assert run(9, resolver="::1").values["outcome"] != "measured"  # a machine without IPv6
        return
    with server:
        row = run(server.port, resolver="::1")
    assert (row.values["address"], row.values["resolver"]) == ("192.0.2.7", "::1")


@pytest.mark.parametrize(("mode", "name", "expect", "verdict"), [
    ("table", "known.test", ["192.0.2.0/28"], 0),
    ("table", "known.test", ["192.0.2.7", "192.0.2.8"], 0),
    ("table", "known.test", ["192.0.2.7"], 1),
    ("table", "known.test", [], None),
    ("hijack", "known.test", ["192.0.2.0/28"], 1),
    ("hijack", "no-such-name.invalid", [], 1),
    ("hijack", "no-such-name.Invalid.", [], 1),
    ("nxdomain", "no-such-name.invalid", [], 0),
    ("servfail", "no-such-name.invalid", [], None),
    ("nxdomain", "known.test", ["192.0.2.0/28"], None),
])  # fmt: skip
def test_a_resolver_that_lies_is_told_from_one_that_does_not(
    mode: str, name: str, expect: list[str], verdict: int | None
) -> None:
    with DnsFault(DnsMode(mode), TABLE, hijack_to=LIE) as server:
        assert run(server.port, name, expect=expect).values.get("hijacked") == verdict


def test_only_addresses_of_an_expected_family_are_compared() -> None:
    answer = Answer(1, "NOERROR", truncated=False, name=(b"known", b"test"), addresses=["192.0.2.7"])
    query = DnsQuery(name="known.test", resolver="127.0.0.1", expect=["2001:db8::/32"])
    assert hijacked(query, answer) is None


# the codec


def test_a_question_is_the_bytes_of_the_rfc() -> None:
    assert question(labels_of("a.Test"), 0x1234) == bytes.fromhex(
        "1234 0100 0001 0000 0000 0000 0161 0474657374 00 0001 0001"
    )


@pytest.mark.parametrize("name", ["", ".", "a..b", ".a", "a b", "héllo.test", "a" * 64, "a." * 127 + "a", "a\n.test"])
def test_what_is_no_name_cannot_be_asked_for(name: str) -> None:
    with pytest.raises(DnsError, match="not a DNS name"):
        labels_of(name)


def test_the_longest_name_can_be_asked_for() -> None:
    name = ".".join(["a" * 63] * 3 + ["a" * 61])
    assert len(question(labels_of(name), 1)) == 12 + 255 + 4


def test_a_chain_of_aliases_is_skipped_to_its_addresses() -> None:
    alias = b"\xc0\x0c" + struct.pack("!2HIH", 5, 1, 60, 6) + b"\x03cdn\xc0\x10"  # known.test → cdn.<label at 16>
    target = bytes([0xC0, 12 + len(name_of("a.b")) + 4 + 12])  # into the alias' data
    message = response(7, "a.b", alias, record("192.0.2.1", target), record("2001:db8::1", target))
    assert parse_answer(message).addresses == ["192.0.2.1", "2001:db8::1"]


def looped(target: int) -> bytes:
    """A response whose one record's name, at 12 + 5 + 4 = 21, is a pointer to `target`."""
    return response(7, "a.b", record("192.0.2.1", struct.pack("!H", 0xC000 | target)))


@pytest.mark.parametrize(("message", "reason"), [
    (b"", "cut short"),
    (question(labels_of("a.b"), 7), "not the response to a query"),
    (response(7, "a.b", flags=0xA180), "not the response to a query"),
    (looped(21), "a name whose pointers lead nowhere"),
    (looped(22), "a name whose pointers lead nowhere"),
    (looped(400), "a name whose pointers lead nowhere"),
    (response(7, "a.b", record("192.0.2.1", b"\x80\x00")), "a label of an unknown type"),
    (response(7, "a.b", record("192.0.2.1", name_of(".".join(["a" * 63] * 4)))), "a name over 255 bytes"),
    (response(7, "a.b", b"\xc0\x0c" + struct.pack("!2HIH", 1, 1, 60, 5) + b"12345"), "an address of a wrong length"),
    (response(7, "a.b", b"\xc0\x0c" + struct.pack("!2HIH", 1, 1, 60, 4) + b"123"), "cut short"),
    (response(7, "a.b").replace(A_IN, struct.pack("!2H", 28, 1)), "it answers another question"),
    (struct.pack("!6H", 7, 0x8180, 0, 0, 0, 0), "it repeats no question"),
])  # fmt: skip
def test_a_malformed_response_is_refused_with_its_reason(message: bytes, reason: str) -> None:
    with pytest.raises(DnsError) as error:
        parse_answer(message)
    assert str(error.value) == reason


def test_pointers_to_pointers_are_few() -> None:
    """A chain of 200 pointers, each one step back, is nobody's way to save bytes."""
    chain = b"".join(struct.pack("!H", 0xC000 | (33 + 2 * number - 2)) for number in range(1, 200))
    data = b"\x01a" + b"\0" * 0 + chain
    text = b"\xc0\x0c" + struct.pack("!2HIH", 16, 1, 60, len(data)) + data
    last = 21 + len(text) - 2
    message = response(7, "a.b", text, record("192.0.2.1", struct.pack("!H", 0xC000 | last)))
    with pytest.raises(DnsError, match="lead nowhere"):
        parse_answer(message)


def test_an_unknown_code_has_its_number() -> None:
    assert parse_answer(response(7, "a.b", flags=0x818B)).rcode == "RCODE11"


def test_a_truncated_response_may_end_anywhere_after_its_question() -> None:
    message = response(7, "a.b", record("192.0.2.1"), flags=0x8380)
    assert parse_answer(message[:-3]) == Answer(7, "NOERROR", truncated=True, name=(b"a", b"b"), addresses=[])


def parsed(message: bytes) -> Answer | None:
    try:
        return parse_answer(message)
    except DnsError:
        return None


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_an_answer_or_a_dns_error(message: bytes) -> None:
    parsed(message)


@given(st.binary(max_size=120), st.integers(0, 40))
def test_arbitrary_records_after_a_right_question_are_an_answer_or_a_dns_error(records: bytes, count: int) -> None:
    head = bytearray(response(7, "known.test"))
    head[6:8] = count.to_bytes(2, "big")
    answer = parsed(bytes(head) + records)
    assert answer is None or all(ipaddress.ip_address(address) for address in answer.addresses)


@given(st.data())
def test_a_response_with_flipped_bytes_is_an_answer_or_a_dns_error(data: st.DataObject) -> None:
    message = bytearray(response(7, "known.test", record("192.0.2.1"), record("2001:db8::1")))
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    parsed(bytes(message))


@given(st.text(max_size=260))
def test_any_name_is_asked_for_or_a_dns_error(name: str) -> None:
    with contextlib.suppress(DnsError):
        message = question(labels_of(name), 7)
        answered = bytes([*message[:2], 0x81, 0x80, *message[4:]])
        assert parse_answer(answered).name == labels_of(name)


@given(
    st.lists(st.ip_addresses(v=4).map(str), max_size=30),
    st.lists(st.ip_addresses(v=6).map(str), max_size=5),
    st.integers(0, 0xFFFF),
)
def test_what_is_encoded_is_decoded(four: list[str], six: list[str], number: int) -> None:
    answer = parse_answer(response(number, "a.b", *map(record, four + six)))
    assert answer == Answer(number, "NOERROR", truncated=False, name=(b"a", b"b"), addresses=[
        str(ipaddress.ip_address(address)) for address in four + six
    ])  # fmt: skip


@given(st.binary(max_size=80))
def test_a_resolver_that_sends_anything_gets_a_row_of_the_dictionary(reply: bytes) -> None:
    with scripted(lambda message: [message[:2] + reply]) as (port, _):
        assert run(port, timeout_s=0.02).values["outcome"] in {"measured", "failed"}
