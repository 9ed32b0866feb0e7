"""Round trips by TCP connect, against a real listener, a port where nobody listens, and a name that is none."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from banua_probe.config import PathTarget
from banua_probe.sensors import bound, path
from banua_probe.sensors.bound import NotSentError
from banua_probe.sensors.icmp import NotPermitted, Train
from banua_probe.sensors.names import LAST_KNOWN, Names
from banua_probe.sensors.path import Tools, connect_once, measure, train_values
from banua_wire.rows import checked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from banua_wire.rows import Row


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is bound, so that nobody else takes it, but on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def target(port: int, host: str = "127.0.0.1", count: int = 4) -> PathTarget:
    return PathTarget(target="t", method="tcp", host=host, port=port, count=count, interval_ms=20)


def run(to: PathTarget, interface: str = "", **seams: Any) -> tuple[Row, list[float]]:
    slept: list[float] = []
    row = measure(to, lambda: 77, interface, Tools(sleep=slept.append, **seams))
    checked(row)
    return row, slept


def test_a_listener_answers_every_connect(listener: int) -> None:
    before = time.monotonic()
    row, slept = run(target(listener))
    took_us = (time.monotonic() - before) * 1e6
    values: dict[str, Any] = row.values
    rtts = values.pop("rtt_us")
    wake = values.pop("wake_rtt_us")
    assert values == {
        "target": "t", "method": "tcp", "address": "127.0.0.1", "outcome": "measured", "timestamp_source": "user",
    }  # fmt: skip
    assert len(rtts) == 4
    assert all(0 < rtt < took_us for rtt in [wake, *rtts])
    assert wake + sum(rtts) < took_us
    assert slept == [0.02] * 4
    assert row.boottime_ms == 77


def test_a_listener_saw_one_connection_a_round_trip() -> None:
    """All of them closed again: 1 that wakes and 2 that count."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        run(target(server.getsockname()[1], count=2))
        server.settimeout(1)
        for _ in range(3):
            peer, _ = server.accept()
            with peer:
                assert peer.recv(10) == b""
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_closed_port_is_a_failure_with_each_loss_absent(closed_port: int) -> None:
    row, _ = run(target(closed_port))
    assert row.values == {
        "target": "t", "method": "tcp", "address": "127.0.0.1", "outcome": "failed", "timestamp_source": "user",
        "rtt_us": [None] * 4, "reason": "no connect succeeded",
    }  # fmt: skip


def test_ipv6_is_measured_too() -> None:
    try:
        server = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        assert not connect_once(("::1", socket.AF_INET6), 9)  # a machine without IPv6: lost, and no exception
        return
    with server:
        row, _ = run(target(server.getsockname()[1], host="::1", count=1))
    assert row.values["outcome"] == "measured"


class Book:
    """A resolver that knows one address for any name, for as many questions as it is told to answer."""

    def __init__(self, address: str, answers: int) -> None:
        self.address, self.answers = address, answers

    def __call__(self, host: str) -> list[Any]:
        if not self.answers:
            raise socket.gaierror(socket.EAI_NONAME, f"Name or service not known ({host})")
        self.answers -= 1
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (self.address, 0))]


def test_a_name_without_any_known_address_is_not_measured() -> None:
    """Nothing was sent to the target, so it did not fail."""
    row, slept = run(target(9, host="nosuch.invalid"), names=Names(Book("127.0.0.1", 0)))
    assert row.values == {
        "target": "t", "method": "tcp", "outcome": "not_measured",
        "reason": "name not resolved: Name or service not known (nosuch.invalid)",
    }  # fmt: skip
    assert slept == []


def test_a_name_that_no_resolver_would_take_is_not_measured_either() -> None:
    row, _ = run(target(9, host="a" * 70 + ".example"))
    assert row.values["outcome"] == "not_measured"
    assert str(row.values["reason"]).startswith("name not resolved: ")


def test_a_name_that_is_not_resolved_any_more_is_measured_at_its_last_address(listener: int, closed_port: int) -> None:
    names = Names(Book("127.0.0.1", 1))
    rows = [
        run(target(port, host="village.test", count=1), names=names)[0] for port in (listener, listener, closed_port)
    ]
    assert [(row.values["outcome"], row.values["address"], row.values.get("reason")) for row in rows] == [
        ("measured", "127.0.0.1", None), ("measured", "127.0.0.1", LAST_KNOWN),
        ("failed", "127.0.0.1", f"no connect succeeded; {LAST_KNOWN}"),
    ]  # fmt: skip
    other, _ = run(target(listener, host="other.test", count=1), names=names)
    assert other.values["outcome"] == "not_measured", "the address of one name is not another's"


def test_a_name_that_moves_is_followed() -> None:
    book = Book("127.0.0.1", 9)
    names = Names(book)
    assert names.address("village.test") == (("127.0.0.1", socket.AF_INET), "")
    book.address = "127.0.0.2"
    assert names.address("village.test") == (("127.0.0.2", socket.AF_INET), "")
    book.answers = 0
    assert names.address("village.test") == (("127.0.0.2", socket.AF_INET), LAST_KNOWN)


def test_what_never_left_this_machine_is_not_measured_and_no_loss() -> None:
    """The kernel refuses a TCP connect to the broadcast address before it sends anything."""
    row, _ = run(target(1, host="t", count=3), names=Names(Book("255.255.255.255", 1)))
    assert row.values == {
        "target": "t",
        "method": "tcp",
        "address": "255.255.255.255",
        "outcome": "not_measured",
        "reason": "not sent: Network is unreachable",
    }


def test_a_connect_that_takes_too_long_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full accept queue: the kernel drops the SYN, as a dead link would."""
    monkeypatch.setattr(path, "TIMEOUT_S", 0.3)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        address = server.getsockname()
        fillers = []
        try:
            for _ in range(4):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(address)
                fillers.append(filler)
            time.sleep(0.05)
            before = time.monotonic()
            assert connect_once((address[0], socket.AF_INET), address[1]) is None
            assert 0.25 < time.monotonic() - before < 2
        finally:
            for filler in fillers:
                filler.close()


def test_connects_without_a_carrier_are_not_sent(listener: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the beginning, and after two connects: what was measured by then stays."""
    monkeypatch.setattr(bound, "carrier_state", lambda _interface: (False, "1"))
    row, _ = run(target(listener))
    assert (row.values["outcome"], row.values["reason"]) == ("not_measured", "not sent: no carrier on lo")
    assert "rtt_us" not in row.values
    states = iter([(True, "0")] * 4)
    monkeypatch.setattr(bound, "carrier_state", lambda _interface: next(states, (False, "1")))
    row, _ = run(target(listener))
    assert (row.values["outcome"], row.values["reason"]) == ("measured", "not sent: no carrier on lo")
    assert (len(row.values["rtt_us"]), None in row.values["rtt_us"]) == (1, False)  # type: ignore[arg-type,operator]


def test_a_connect_during_which_the_carrier_was_lost_is_no_loss(
    closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even when it is back by the time that the connect has failed."""
    states = iter([(True, "0")] * 2)
    monkeypatch.setattr(bound, "carrier_state", lambda _interface: next(states, (True, "2")))
    row, _ = run(target(closed_port))
    assert (row.values["outcome"], row.values["reason"]) == ("not_measured", "not sent: carrier lost on lo")


@pytest.mark.parametrize(("rtts", "outcome", "wake", "rest"), [
    ([1.0, 2.0, None], "measured", 1.0, [2.0, None]),
    ([None, 2.0], "measured", None, [2.0]),
    ([1.0, None], "measured", 1.0, [None]),
    ([None, None], "failed", None, [None]),
])  # fmt: skip
def test_the_first_round_trip_stands_apart(
    rtts: list[float | None], outcome: str, wake: float | None, rest: list[float | None]
) -> None:
    values = train_values(rtts, "user", "silence")
    assert values.get("reason") == ("silence" if outcome == "failed" else None)
    assert (values["outcome"], values.get("wake_rtt_us"), values["rtt_us"]) == (outcome, wake, rest)


def by_icmp(train: Train | Exception, **settings: Any) -> dict[str, Any]:
    """The row of a target by ICMP whose train is `train`; what the train was asked stands under "asked"."""
    asked: dict[str, Any] = {}

    def echo(address: str, family: socket.AddressFamily, **arguments: Any) -> Train:
        asked.update(arguments, address=address, family=family)
        if isinstance(train, Exception):
            raise train
        return train

    to = PathTarget(target="t", host="127.0.0.1", count=3, interval_ms=20, **settings)
    row = measure(to, lambda: 77, "wwan0", Tools(echo=echo))
    checked(row)
    return {**row.values, "asked": asked}


def train(rtts: list[float | None], **told: Any) -> Train:
    usual: dict[str, Any] = {
        "timestamp_source": "kernel",
        "reply_ttl": 57,
        "duplicates": 0,
        "late": 0,
        "reason": "",
        "ident": 1,
    }
    return Train(rtt_us=rtts, **(usual | told))


def test_an_icmp_train_becomes_a_row_that_says_how_it_was_measured() -> None:
    values = by_icmp(train([90.0, 40.0, None, 41.0], duplicates=1, late=1), payload_bytes=64)
    asked = values.pop("asked")
    assert asked == {
        "address": "127.0.0.1", "family": socket.AF_INET, "count": 3, "interval_s": 0.02, "payload_bytes": 64,
        "timeout_s": 3.0, "interface": "wwan0",
    }  # fmt: skip
    assert values == {
        "target": "t", "method": "icmp", "address": "127.0.0.1", "interface": "wwan0", "outcome": "measured",
        "timestamp_source": "kernel", "wake_rtt_us": 90.0, "rtt_us": [40.0, None, 41.0], "reply_ttl": 57,
        "duplicates": 1, "late": 1, "payload_bytes": 64, "interval_ms": 20,
    }  # fmt: skip


def test_icmp_that_is_not_permitted_is_not_measured() -> None:
    values = by_icmp(NotPermitted())
    assert (values["outcome"], values["reason"]) == ("not_measured", "ICMP not permitted")
    assert not {"rtt_us", "wake_rtt_us", "timestamp_source"} & set(values), "no loss was made up"


def test_a_train_that_could_not_leave_is_not_measured() -> None:
    values = by_icmp(NotSentError("no interface wwan0"))
    assert (values["outcome"], values["reason"], values.get("rtt_us")) == ("not_measured", "no interface wwan0", None)


def test_a_train_that_nobody_answers_is_failed_with_what_came_instead() -> None:
    silent = by_icmp(train([None] * 4, timestamp_source="user", reply_ttl=None))
    assert (silent["outcome"], silent["reason"], silent["rtt_us"]) == ("failed", "no reply", [None] * 3)
    refused = by_icmp(train([None] * 4, reply_ttl=None, reason="host unreachable from 10.0.0.1"))
    assert (refused["outcome"], refused["reason"]) == ("failed", "host unreachable from 10.0.0.1")


def test_a_modem_is_named_in_the_row() -> None:
    assert by_icmp(train([1.0]), modem="telkomsel")["modem"] == "telkomsel"
