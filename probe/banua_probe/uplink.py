"""The MQTT connection: one paho client a connection, every happening posted as an event to the probe's one inbox.

paho's own queue is never asked to outlive a connection: what is under way when one ends is decided by `delivery`.
MQTT 5 is tried first and 3.1.1 when the broker does not speak it; nothing needs more than 3.1.1.
"""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from banua_probe.config import Broker

KEEPALIVE_S: Final = 600
CONNECT_TIMEOUT_S: Final = 30
CONNACK_S: Final = 15
"""How long a broker may take to answer CONNECT; one that cannot read it may say nothing at all."""
USER_TIMEOUT_MS: Final = 120_000
"""Unacknowledged bytes older than this end the TCP connection (TCP_USER_TIMEOUT)."""
NO_SUBSCRIBERS: Final = 0x10
TAKEN_OVER: Final = 0x8E


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker accepted us."""


@dataclass(frozen=True, slots=True)
class Down:
    """There is no connection: it could not be made, or has ended. `reason` is one line."""

    reason: str
    taken_over: bool = False


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message on one of our topics."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Puback:
    """The broker's word on a message: `code` 0 passed on; over 0 not, for now."""

    mid: int
    code: int


_OTHER: Final = {
    MQTTProtocolVersion.MQTTv5: MQTTProtocolVersion.MQTTv311,
    MQTTProtocolVersion.MQTTv311: MQTTProtocolVersion.MQTTv5,
}

Event = Connected | Down | Incoming | Puback


class Uplink:
    """One connection after another to the configured broker; methods may be called from any one thread."""

    def __init__(self, broker: Broker, client_id: str, subscriptions: list[str], post: Callable[[Any], None]) -> None:
        """Prepare; nothing is sent before `connect`."""
        self._broker, self._client_id, self._subscriptions, self._post = broker, client_id, subscriptions, post
        self._client: Client | None = None
        self._version = MQTTProtocolVersion.MQTTv311 if broker.protocol == "3.1.1" else MQTTProtocolVersion.MQTTv5
        self._generation = 0
        self._accepted, self._failed = threading.Event(), threading.Event()

    def connect(self, will: tuple[str, bytes]) -> None:
        """Start a connection with `will` (topic, payload, retained); `Connected` or `Down` will be posted."""
        self.close()
        self._generation += 1
        self._accepted, self._failed = threading.Event(), threading.Event()
        try:
            client = self._make_client(self._generation)
        except (OSError, ValueError) as error:  # certificates and passwords are read anew for each connection
            self._tell(self._generation, Down(f"TLS or password file: {error}"))
            return
        client.will_set(will[0], will[1], qos=1, retain=True)
        self._client = client
        threading.Thread(target=self._open, args=(client, self._generation), name="uplink-connect", daemon=True).start()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        """Hand a message to the connection at QoS 1 and return its mid; 0 when there is no connection."""
        if self._client is None:
            return 0
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        return info.mid if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else 0

    def close(self) -> None:
        """End the connection, if any, without a further event."""
        self._generation += 1
        client, self._client = self._client, None
        if client is not None:
            client.disconnect()
            client.loop_stop()

    # --- on paho's thread ---------------------------------------------------------------------------------------------

    def _make_client(self, generation: int) -> Client:
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=self._version,
            clean_session=None if self._version == MQTTProtocolVersion.MQTTv5 else True,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(64)
        if self._broker.tls:
            client.tls_set_context(tls_context(self._broker))
        if self._broker.username:
            client.username_pw_set(self._broker.username, self._broker.password())

        def on_connect(_c: Client, _u: Any, _f: ConnectFlags, code: ReasonCode, _p: Properties | None) -> None:
            if code.is_failure:
                self._fail(generation, f"broker refuses: {code}")
                return
            client.subscribe([(topic, 1) for topic in self._subscriptions])

        def on_subscribe(_c: Client, _u: Any, _mid: int, codes: list[ReasonCode], _p: Properties | None) -> None:
            self._accepted.set()  # this version is spoken, whatever is said of our topics
            asked = zip(self._subscriptions, codes, strict=False)
            refused = [f"{topic} (0x{code.value:02x} {code})" for topic, code in asked if code.is_failure]
            if refused:  # we could send, and never hear a receipt
                self._fail(generation, f"broker refuses the subscription to {', '.join(refused)}")
                client.disconnect()
                return
            self._tell(generation, Connected())

        def on_disconnect(_c: Client, _u: Any, _f: DisconnectFlags, code: ReasonCode, _p: Properties | None) -> None:
            self._fail(generation, f"connection ended: {code}", taken_over=code.value == TAKEN_OVER)

        def on_message(_c: Client, _u: Any, message: MQTTMessage) -> None:
            self._tell(generation, Incoming(message.topic, bytes(message.payload)))

        def on_publish(_c: Client, _u: Any, mid: int, code: ReasonCode, _p: Properties | None) -> None:
            self._tell(generation, Puback(mid, code.value))

        client.on_connect, client.on_disconnect = on_connect, on_disconnect
        client.on_subscribe = on_subscribe
        client.on_message, client.on_publish = on_message, on_publish
        client.on_socket_open = _guard_socket
        return client

    def _open(self, client: Client, generation: int) -> None:
        try:
            if self._version == MQTTProtocolVersion.MQTTv5:
                client.connect(self._broker.host, self._broker.port, KEEPALIVE_S, clean_start=True)
            else:
                client.connect(self._broker.host, self._broker.port, KEEPALIVE_S)
        except (OSError, ValueError) as error:
            self._tell(generation, Down(f"no connection to {self._broker.host}:{self._broker.port}: {error}"))
            return
        client.loop_start()
        if not self._accepted.wait(CONNACK_S):
            self._fail(generation, f"no answer to CONNECT within {CONNACK_S} s")

    def _fail(self, generation: int, reason: str, *, taken_over: bool = False) -> None:
        """Tell that the connection is gone; one never accepted may have been of a version too new, or too old."""
        if generation != self._generation or self._failed.is_set():
            return
        self._failed.set()
        if not self._accepted.is_set() and self._broker.protocol == "auto":
            self._version = _OTHER[self._version]
        self._tell(generation, Down(reason, taken_over))

    def _tell(self, generation: int, event: Event) -> None:
        if generation == self._generation:
            self._post(event)


def _guard_socket(_client: Client, _userdata: Any, sock: Any) -> None:
    with contextlib.suppress(OSError, AttributeError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)


def tls_context(broker: Broker) -> ssl.SSLContext:
    """Return a client context that trusts the configured CA alone and shows our certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(broker.ca_file)
    if broker.cert_file:
        context.load_cert_chain(Path(broker.cert_file), Path(broker.key_file))
    return context
