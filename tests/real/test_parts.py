"""The real servers do what the other tests take for granted."""

from __future__ import annotations

import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any

import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

if TYPE_CHECKING:
    from collections.abc import Iterator

    from banua_lab.ca import Authority
    from tests.real.amqtt_broker import Amqtt
    from tests.real.influxd import Influxd
    from tests.real.mosquitto import Mosquitto

pytestmark = pytest.mark.real


class Peer:
    """An MQTT client that keeps what it receives."""

    def __init__(self, broker: Mosquitto | Amqtt, authority: Authority, cn: str) -> None:
        self.client = Client(CallbackAPIVersion.VERSION2, client_id=cn)
        credential = authority.issue_client(cn)
        self.client.tls_set(str(broker.cafile), str(credential.cert), str(credential.key))
        self.received: list[tuple[str, bytes]] = []
        self.arrived = threading.Event()
        self.client.on_message = self._keep
        subscribed = threading.Event()
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.subscribed = subscribed
        self.client.connect(broker.host, broker.port)
        self.client.loop_start()

    def _keep(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        self.received.append((message.topic, bytes(message.payload)))
        self.arrived.set()

    def subscribe(self, topic: str) -> None:
        self.client.subscribe(topic, qos=1)
        assert self.subscribed.wait(10)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self.client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(10)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def peers() -> Iterator[list[Peer]]:
    made: list[Peer] = []
    yield made
    for peer in made:
        peer.close()


def test_a_batch_passes_any_broker(broker: Mosquitto | Amqtt, authority: Authority, peers: list[Peer]) -> None:
    collector, probe = Peer(broker, authority, "collector"), Peer(broker, authority, "hst-001")
    peers += [collector, probe]
    collector.subscribe("banua/v1/+/batch")
    probe.publish("banua/v1/hst-001/batch", b"\x00row")
    assert collector.arrived.wait(10)
    assert collector.received == [("banua/v1/hst-001/batch", b"\x00row")]


def test_nobody_writes_as_someone_else(mosquitto: Mosquitto, authority: Authority, peers: list[Peer]) -> None:
    collector, probe = Peer(mosquitto, authority, "collector"), Peer(mosquitto, authority, "hst-001")
    peers += [collector, probe]
    collector.subscribe("banua/v1/+/batch")
    for topic in ("banua/v1/hst-002/batch", "banua/v1/hst-001/receipt", "banua/v1/hst-001/batch"):
        probe.publish(topic, topic.encode())
    assert collector.arrived.wait(10)
    assert [topic for topic, _ in collector.received] == ["banua/v1/hst-001/batch"]


def test_nobody_reads_what_is_for_someone_else(mosquitto: Mosquitto, authority: Authority, peers: list[Peer]) -> None:
    collector, probe = Peer(mosquitto, authority, "collector"), Peer(mosquitto, authority, "hst-001")
    peers += [collector, probe]
    probe.subscribe("banua/v1/+/command")
    for name in ("hst-002", "hst-001"):
        collector.publish(f"banua/v1/{name}/command", b"x")
    assert probe.arrived.wait(10)
    assert [topic for topic, _ in probe.received] == ["banua/v1/hst-001/command"]


def test_no_certificate_no_connection(mosquitto: Mosquitto) -> None:
    context = ssl.create_default_context(cafile=str(mosquitto.cafile))
    with (
        socket.create_connection((mosquitto.host, mosquitto.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=mosquitto.host) as tls,
        pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"),
    ):
        tls.recv(1)  # under TLS 1.3 the client learns it here, after its own handshake


def test_mosquitto_keeps_its_state_over_a_stop_and_not_over_a_wipe(
    mosquitto: Mosquitto, authority: Authority, peers: list[Peer]
) -> None:
    def retained(name: str) -> list[tuple[str, bytes]]:
        reader = Peer(mosquitto, authority, name)
        peers.append(reader)
        reader.subscribe(f"banua/v1/{name}/config")
        reader.arrived.wait(1)
        return reader.received

    writer = Peer(mosquitto, authority, "collector")
    writer.publish("banua/v1/hst-001/config", b"1", retain=True)
    writer.close()
    mosquitto.stop()
    mosquitto.start()
    assert retained("hst-001") == [("banua/v1/hst-001/config", b"1")]
    mosquitto.stop()
    mosquitto.wipe()
    mosquitto.start()
    assert retained("hst-001") == []


def test_influxd_answers_influxql_and_survives_a_kill(influxd: Influxd, bucket: str) -> None:
    influxd.write("radio,modem=m0,probe=hst-001 rsrp_dbm=-101.5 1700000000000\n", bucket)
    influxd.kill()
    influxd.start()
    [row] = influxd.query('SELECT "rsrp_dbm" FROM "radio" GROUP BY *', bucket)
    assert row == {
        "_measurement": "radio",
        "modem": "m0",
        "probe": "hst-001",
        "time": 1_700_000_000_000_000_000,
        "rsrp_dbm": -101.5,
    }


def test_influxd_tells_what_is_wrong_with_a_query(influxd: Influxd) -> None:
    with pytest.raises(ValueError, match="database not found"):
        influxd.query("SELECT * FROM radio", "no-such-bucket")
