"""What a broker says to the subscription counts: a probe that is refused could send, and would never hear a receipt."""

from __future__ import annotations

import queue
import random
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from banua_probe.app import Probe
from banua_probe.config import Broker, Config
from banua_probe.outbox import Outbox, Owner
from banua_probe.uplink import Connected, Down, Uplink
from tests.small_broker import CONNECT, DISCONNECT, SUBSCRIBE, SmallBroker

if TYPE_CHECKING:
    from pathlib import Path

TOPICS = ["banua/v1/kalsel-0001/receipt", "banua/v1/kalsel-0001/config"]


@pytest.fixture
def told() -> queue.Queue[Any]:
    return queue.Queue()


def uplink(broker: SmallBroker, protocol: Any, told: queue.Queue[Any]) -> Uplink:
    made = Uplink(Broker("127.0.0.1", broker.port, tls=False, protocol=protocol), "kalsel-0001", TOPICS, told.put)
    made.connect(("banua/v1/kalsel-0001/state", b"gone"))
    return made


@pytest.mark.parametrize(
    ("protocol", "codes", "reason"),
    [
        ("auto", (0x01, 0x87), f"{TOPICS[1]} (0x87 Not authorized)"),
        ("auto", (0x80, 0x01), f"{TOPICS[0]} (0x80 Unspecified error)"),
        ("3.1.1", (0x80, 0x80), f"{TOPICS[0]} (0x80 Unspecified error), {TOPICS[1]} (0x80 Unspecified error)"),
    ],
)
def test_a_refused_subscription_is_no_connection(
    told: queue.Queue[Any], protocol: str, codes: tuple[int, ...], reason: str
) -> None:
    with SmallBroker(*codes) as broker:
        link = uplink(broker, protocol, told)
        assert told.get(timeout=10) == Down(f"broker refuses the subscription to {reason}")
        deadline = time.monotonic() + 10
        while DISCONNECT not in broker.got and time.monotonic() < deadline:
            time.sleep(0.01)
        assert broker.got == [CONNECT, SUBSCRIBE, DISCONNECT], "a connection that hears nothing is ended"
        time.sleep(0.2)
        assert told.empty(), "told once"
        link.close()


@pytest.mark.parametrize("protocol", ["auto", "3.1.1"])
def test_a_granted_subscription_is_a_connection_at_whatever_qos(told: queue.Queue[Any], protocol: str) -> None:
    with SmallBroker(0x01, 0x00) as broker:
        link = uplink(broker, protocol, told)
        assert told.get(timeout=10) == Connected()
        link.close()


def test_a_refusal_of_topics_says_nothing_of_the_version(told: queue.Queue[Any]) -> None:
    with SmallBroker(0x87, 0x87) as broker:
        link = uplink(broker, "auto", told)
        assert "0x87" in told.get(timeout=10).reason
        broker.codes = b"\x01\x01"
        version = link._version
        link.connect(("banua/v1/kalsel-0001/state", b"gone"))
        assert told.get(timeout=10) == Connected()
        assert link._version == version
        link.close()


def test_the_daemon_tries_again_and_again_backing_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Never silently deaf: one line a try, the next one further off, and delivery begins once it is allowed."""
    started = time.monotonic()
    now = [0]
    owner = Owner("kalsel-0001", bytes(range(32)), b"B" * 16, lambda: int((time.monotonic() - started) * 1000) + now[0])
    with SmallBroker(0x87) as broker, Outbox(tmp_path / "o.db", owner, max_bytes=10**6, checkpoint=lambda _: None) as o:
        config = Config("kalsel-0001", Broker("127.0.0.1", broker.port, tls=False))
        probe = Probe(config, o, owner, random.Random(1), checkpoint=lambda _: None)
        waits = []
        for attempt in range(1, 5):
            probe.step()
            while probe._reconnect_at is None:
                probe._take()
            assert (broker.connections, len(caplog.records)) == (attempt, attempt)
            waits.append(probe._reconnect_at - owner.boottime_ms())
            now[0] += waits[-1] + 1
        assert all(later > before for before, later in pairwise(waits))
        assert all("refuses the subscription" in record.message for record in caplog.records)
        broker.codes = b"\x01"
        probe.step()
        while not probe._delivery.is_connected:
            probe._take()
        probe._uplink.close()
