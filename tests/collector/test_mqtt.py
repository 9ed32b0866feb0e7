"""The collector's connection to the broker: refused, unanswered or ended, it says so in one line and is made anew."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from banua_collector import mqtt
from banua_collector.config import Broker, Limits
from banua_collector.errors import BrokerError
from banua_collector.ingest import Ingest
from banua_collector.metrics import Metrics
from banua_wire.envelope import MAX_MESSAGE
from tests.collector.fleet import NOW_MS, radio
from tests.collector.speech import message, register
from tests.small_broker import SmallBroker

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from banua_lab.ca import Authority
    from tests.real.mosquitto import Mosquitto

TOPICS = ["banua/v1/+/batch", "banua/v1/+/state"]
V311, V5 = 4, 5
"""The version as a CONNECT says it."""


def settings(port: int, protocol: Any = "auto", **others: Any) -> Broker:
    return Broker.model_construct(**{"host": "127.0.0.1", "port": port, "tls": False, "protocol": protocol} | others)


def connect(port: int, protocol: str) -> mqtt.Connection:
    asked = settings(port, protocol)
    return mqtt.Connection(asked, mqtt.versions(asked)[0], TOPICS, lambda *_: None)


@pytest.mark.parametrize(
    ("protocol", "codes", "refused"),
    [
        ("5", (0x01, 0x87), r"banua/v1/\+/state \(Not authorized\)$"),
        ("3.1.1", (0x80, 0x01), r"banua/v1/\+/batch \(Unspecified error\)$"),
    ],
)
def test_a_collector_that_may_not_listen_says_to_what(protocol: str, codes: tuple[int, ...], refused: str) -> None:
    with SmallBroker(*codes) as broker, pytest.raises(BrokerError, match=refused):
        connect(broker.port, protocol)


def test_a_broker_that_says_nothing_is_not_waited_for_longer_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banua_collector.mqtt.ANSWER_S", 1)
    began = time.monotonic()
    with SmallBroker(silent_to=(V5,)) as broker, pytest.raises(BrokerError, match="no answer within 1 s"):
        connect(broker.port, "5")
    assert 1 <= time.monotonic() - began < 3


def test_nobody_there_is_one_line() -> None:
    with SmallBroker() as broker:
        port = broker.port
    with pytest.raises(BrokerError, match="refused"):
        connect(port, "5")


def _tls(authority: Authority, name: str) -> dict[str, Any]:
    credential = authority.issue_client(name)
    return {"tls": True, "ca_file": authority.cafile, "cert_file": credential.cert, "key_file": credential.key}


class Running:
    """An ingest at work in a thread, `take` replaced by what notes the payloads of each group."""

    def __init__(self, engine: Engine, port: int, limits: Limits | None = None) -> None:
        self.ingest = Ingest(engine, Metrics(engine), limits or Limits(), lambda: 0, lambda _: None)
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


def published(payload: bytes, name: bytes = b"banua/v1/kalsel-0001/batch") -> bytes:
    """A PUBLISH at QoS 0, as MQTT 3.1.1 says it."""
    rest = len(name).to_bytes(2, "big") + name + payload
    return bytes([0x30, len(rest)]) + rest


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_the_other_version_is_tried_when_the_first_is_not_answered(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("banua_collector.mqtt.ANSWER_S", 0.5)
    monkeypatch.setattr("banua_collector.ingest.RECONNECT_S", (0.01, 0.01))
    with SmallBroker(0x01, 0x01, silent_to=(V311,)) as broker, Running(sqlite_engine, broker.port) as running:
        until(lambda: running.ingest.connected)
        assert running.ingest.connected
        assert running.ingest.failure == ""
        assert broker.versions[:2] == [V311, V5]


def test_what_was_read_before_the_connection_ended_is_stored(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("banua_collector.ingest.RECONNECT_S", (0.01, 0.01))
    said = published(b"1") + published(b"2")
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


def test_a_topic_that_is_no_text_is_left_out_and_ends_nothing(sqlite_engine: Engine) -> None:
    said = published(b"?", b"banua/v1/\xff\xfe/batch") + published(b"1")
    with SmallBroker(0x01, 0x01, then=said) as broker, Running(sqlite_engine, broker.port) as running:
        until(lambda: running.groups)
    assert running.groups[0] == [b"1"]


def test_what_is_longer_than_any_batch_is_counted_and_not_kept(sqlite_engine: Engine) -> None:
    ingest = Ingest(sqlite_engine, Metrics(sqlite_engine), Limits(), lambda: 0, lambda _: None)
    ingest._heard(TOPICS[0], bytes(65_537), False)
    assert ingest._group == []
    assert ingest._metrics.batches.labels("unreadable")._value.get() == 1
    for _ in range(1000):
        ingest._heard(TOPICS[0], bytes(65_536), False)
    assert len(ingest._group) == 200, "what comes before a subscription is granted is bounded, too"


def test_the_shipped_limits_of_the_broker_let_every_batch_through() -> None:
    shipped = (Path(__file__).parents[2] / "deploy/mosquitto/limits.conf").read_text().splitlines()
    limits = dict(line.split() for line in shipped if line and not line.startswith("#"))
    assert int(limits["max_packet_size"]) == MAX_MESSAGE + 1024


def test_a_group_without_a_wait_takes_all_that_is_there(sqlite_engine: Engine) -> None:
    said = b"".join(published(str(n).encode()) for n in range(50))
    with SmallBroker(0x01, 0x01, then=said) as broker:
        running = Running(sqlite_engine, broker.port, Limits(commit_wait_ms=0))
        with running:
            until(lambda: sum(map(len, running.groups)) >= 50)
    payloads = [payload for group in running.groups for payload in group]
    assert payloads[:50] == [str(n).encode() for n in range(50)]
    assert sum(map(len, running.groups[:2])) >= 50, "at most one alone, and then all that is there"


def test_a_broker_that_was_away_is_spoken_to_in_the_best_version(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One, two, three failed tries: none of them says anything of the version."""
    monkeypatch.setattr("banua_collector.ingest.RECONNECT_S", (0.2, 0.2))
    for tries in (1, 2, 3):
        with SmallBroker() as broker:
            port = broker.port
        caplog.clear()
        with Running(sqlite_engine, port) as running:
            until(lambda: len(caplog.records) >= tries)  # noqa: B023 (called at once)
            with SmallBroker(0x01, 0x01, port=port) as broker:
                until(lambda: running.ingest.connected)
        assert broker.versions == [V311]


def test_a_shared_subscription_is_asked_for_in_mqtt_5_alone() -> None:
    assert mqtt.versions(settings(1883, share="collectors")) == mqtt.versions(settings(1883, "5"))


def test_files_of_tls_that_are_away_for_a_moment_are_a_failure_like_another(tmp_path: Path) -> None:
    broker = Broker.model_construct(host="127.0.0.1", port=1, tls=True, ca_file=tmp_path / "ca.pem", protocol="5")
    with pytest.raises(BrokerError, match=r"^TLS files: .*No such file"):
        mqtt.Connection(broker, mqtt.versions(broker)[0], TOPICS, lambda *_: None)
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTI")
    with pytest.raises(BrokerError, match=r"^TLS files: .*NO_CERTIFICATE"):
        mqtt.Connection(broker, mqtt.versions(broker)[0], TOPICS, lambda *_: None)


def test_many_open_files_do_not_keep_the_broker_away() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        broker = stack.enter_context(SmallBroker(0x01, 0x01))
        for _ in range(1100):
            stack.callback(os.close, os.dup(0))
        with connect(broker.port, "5") as connection:
            connection.turn(0)


def test_a_group_of_large_batches_is_stored_in_several_commits(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few hundred bytes may say thousands of rows: what is open at once is bounded, and all of it is receipted."""
    monkeypatch.setattr("banua_collector.ingest.MAX_VALUES", 30 * 9)
    with sqlite_engine.begin() as conn:
        register(conn)
    metrics = Metrics(sqlite_engine)
    ingest = Ingest(sqlite_engine, metrics, Limits(), lambda: NOW_MS, lambda _: None)
    group = [(message(seq, [radio(1000 * seq + n) for n in range(20)]), False) for seq in range(1, 6)]
    receipts = ingest.take(group)
    assert sorted(seq for _, receipt in receipts for seq, _ in receipt.got) == [1, 2, 3, 4, 5]
    assert [len(receipt.got) for _, receipt in receipts] == [2, 2, 1]
    assert receipts[-1][1].stored_to == 5


@pytest.mark.real
def test_no_probe_can_make_the_collector_deaf(mosquitto: Mosquitto, authority: Authority) -> None:
    """The longest messages the broker takes, more than may be under way; and a property that paho does not read."""
    heard: list[bytes] = []
    ours = settings(mosquitto.port, "auto", **_tls(authority, "collector"))
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
    credential = authority.issue_client("kalsel-0001")
    client.tls_set(str(authority.cafile), str(credential.cert), str(credential.key))
    with mqtt.Connection(ours, mqtt.versions(ours)[0], TOPICS, lambda _on, payload, _: heard.append(payload)) as link:
        client.connect("127.0.0.1", mosquitto.port)
        client.loop_start()
        name = "banua/v1/kalsel-0001/batch"
        largest = 66_560 - 4 - 2 - len(name) - 2  # head, topic and message id beside it
        told = [client.publish(name, bytes(largest), qos=1) for _ in range(25)]
        told += [client.publish(name, b"small", qos=1) for _ in range(30)]
        deadline = time.monotonic() + 20
        while heard.count(b"small") < 30 and time.monotonic() < deadline:
            link.turn(0.1)
        assert heard.count(b"small") == 30
        assert heard.count(bytes(largest)) == 25
        with socket.create_connection(("127.0.0.1", mosquitto.port)) as plain:
            context = ssl.create_default_context(cafile=str(authority.cafile))
            context.load_cert_chain(credential.cert, credential.key)
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as raw:
                raw.sendall(b"\x10\x11\0\4MQTT\5\2\0\x3c\0\0\4evil")
                raw.recv(100)
                state = b"banua/v1/kalsel-0001/state"
                rest = len(state).to_bytes(2, "big") + state + b"\x09\x26\0\1a\0\3\xef\xbb\xbf" + b"strange"
                raw.sendall(bytes([0x31, len(rest)]) + rest)
                while b"strange" not in heard and time.monotonic() < deadline:
                    link.turn(0.1)
        assert heard[-1] == b"strange"
    client.loop_stop()
