"""The collector's connection to the broker: refused, unanswered or ended, it says so in one line and is made anew."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Self

import pytest

from banua_collector import mqtt
from banua_collector.config import Broker, Limits
from banua_collector.errors import BrokerError
from banua_collector.ingest import Ingest
from banua_collector.metrics import Metrics
from tests.small_broker import SmallBroker

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

TOPICS = ["banua/v1/+/batch", "banua/v1/+/state"]
V311, V5 = 4, 5
"""The version as a CONNECT says it."""


def settings(port: int, protocol: Any = "auto") -> Broker:
    return Broker(host="127.0.0.1", port=port, tls=False, protocol=protocol)


def connect(broker: SmallBroker, protocol: str) -> mqtt.Connection:
    asked = settings(broker.port, protocol)
    return mqtt.Connection(asked, mqtt.versions(protocol)[0], TOPICS, lambda _: None)


@pytest.mark.parametrize(
    ("protocol", "codes", "refused"),
    [
        ("5", (0x01, 0x87), r"banua/v1/\+/state \(Not authorized\)$"),
        ("3.1.1", (0x80, 0x01), r"banua/v1/\+/batch \(Unspecified error\)$"),
    ],
)
def test_a_collector_that_may_not_listen_says_to_what(protocol: str, codes: tuple[int, ...], refused: str) -> None:
    with SmallBroker(*codes) as broker, pytest.raises(BrokerError, match=refused):
        connect(broker, protocol)


def test_a_broker_that_says_nothing_is_not_waited_for_longer_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banua_collector.mqtt.ANSWER_S", 1)
    began = time.monotonic()
    with SmallBroker(silent_to=(V5,)) as broker, pytest.raises(BrokerError, match="no answer within 1 s"):
        connect(broker, "5")
    assert 1 <= time.monotonic() - began < 3


def test_nobody_there_is_one_line() -> None:
    with SmallBroker() as broker:
        port = broker.port
    with pytest.raises(BrokerError, match="refused"):
        mqtt.Connection(settings(port), mqtt.versions("5")[0], TOPICS, lambda _: None)


class Running:
    """An ingest at work in a thread, `take` replaced by what notes the payloads of each group."""

    def __init__(self, engine: Engine, port: int) -> None:
        self.ingest = Ingest(engine, Metrics(engine), Limits(), lambda: 0, lambda _: None)
        self.groups: list[list[bytes]] = []
        self.ingest.take = self._take  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self.ingest.run, args=[settings(port)], daemon=True)

    def _take(self, group: list[Any]) -> list[Any]:
        self.groups.append([message.payload for message, _ in group])
        return []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ingest.stop()
        self._thread.join(5)
        assert not self._thread.is_alive(), "stop is heeded wherever it waits"


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_the_older_version_is_tried_when_the_newer_is_not_answered(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("banua_collector.mqtt.ANSWER_S", 0.5)
    monkeypatch.setattr("banua_collector.ingest.RECONNECT_S", (0.01, 0.01))
    with SmallBroker(0x01, 0x01, silent_to=(V5,)) as broker, Running(sqlite_engine, broker.port) as running:
        until(lambda: running.ingest.connected)
        assert running.ingest.connected
        assert running.ingest.failure == ""
        assert broker.versions[:2] == [V5, V311]


def test_what_was_read_before_the_connection_ended_is_stored(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("banua_collector.ingest.RECONNECT_S", (0.01, 0.01))
    name = b"banua/v1/kalsel-0001/batch"
    said = b"".join(bytes([0x30, len(name) + 4, 0, len(name)]) + name + b"\0" + payload for payload in (b"1", b"2"))
    with SmallBroker(0x01, 0x01, then=said) as broker, Running(sqlite_engine, broker.port) as running:
        until(lambda: running.groups)
        broker.then = b""
        until(lambda: broker.connections > 1 and running.ingest.connected)
    payloads = [payload for group in running.groups for payload in group]
    assert payloads == [b"1", b"2"] * (len(payloads) // 2)
    assert payloads


def test_a_collector_that_waits_for_the_broker_can_be_stopped(sqlite_engine: Engine) -> None:
    with SmallBroker() as broker:
        port = broker.port
    with Running(sqlite_engine, port) as running:
        until(lambda: running.ingest.failure)
    assert "refused" in running.ingest.failure
