"""One connection to the broker, and no thread for it: whoever stores what comes also reads it, when it has room.

So nothing waits in memory: what is not read yet waits in the broker. A collector that cannot store for longer than its
keepalive is taken for dead there, and probes are told that nobody listens.

MQTT 3.1.1 is spoken where nothing needs more: it has no properties, so a probe can say nothing that paho refuses to
read and ends the connection for. No limit of a packet's size is told to the broker: Mosquitto 2.0 never gives the room
of a message back that it may not deliver, and after twenty of them delivers nothing more.
"""

import logging
import secrets
import select
import ssl
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, error_string
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from banua_collector.config import Broker
from banua_collector.errors import BrokerError, BrokerVersionError

LOG: Final = logging.getLogger("banua_collector.mqtt")
KEEPALIVE_S: Final = 60
CONNECT_S: Final = 5
ANSWER_S: Final = 15
"""How long a broker may take to grant everything; one that cannot read our CONNECT may say nothing at all."""
_LOOK_S: Final = 0.5
_UNSUPPORTED_VERSION: Final = 0x84
"""What a broker answers to a version that it does not speak; paho says 3.1.1's answer in MQTT 5's words."""

Heard = Callable[[str, bytes, bool], None]
"""Takes a message: topic, payload, and whether the broker only repeats what it retained."""


class Connection:
    """A connection that subscribes at QoS 1; a context manager. BrokerError: there is none, or none any more."""

    def __init__(
        self,
        broker: Broker,
        version: MQTTProtocolVersion,
        topics: Sequence[str],
        heard: Heard,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Connect and wait until all of `topics` are granted, unless `stopping`; `heard` is called within `turn`.

        BrokerVersionError: the broker is there and may speak another version.
        """
        self._topics, self._heard, self._stopping = topics, heard, stopping
        self._refusal, self._granted = "", False
        self._other_version = True
        try:
            self._client = _client(broker, version)
        except (OSError, ValueError) as error:
            raise BrokerError(f"TLS files: {error}") from None
        self._client.on_connect, self._client.on_subscribe = self._connected, self._subscribed
        self._client.on_disconnect, self._client.on_message = self._disconnected, self._came
        try:
            self._client.connect(broker.host, broker.port, KEEPALIVE_S)
        except (OSError, ValueError) as error:
            raise BrokerError(str(error)) from None
        try:
            self._await_grants()
        except BrokerError as error:
            self._close()
            if self._other_version:
                raise BrokerVersionError(str(error)) from None
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        sock: Any = self._client.socket()
        self._client.disconnect()
        if sock is not None:  # whatever could be written of it: nobody drives this connection any more
            sock.close()

    def turn(self, wait_s: float) -> None:
        """Read a message and write what is left to write; wait at most `wait_s` for something to do."""
        sock: Any = self._client.socket()
        code = MQTTErrorCode.MQTT_ERR_CONN_LOST
        if sock is not None:
            at_hand = isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
            poll = select.poll()
            poll.register(sock, select.POLLIN | (select.POLLOUT if self._client.want_write() else 0))
            found = poll.poll(0 if at_hand else wait_s * 1000)
            events = found[0][1] if found else 0
            code = MQTTErrorCode.MQTT_ERR_SUCCESS
            if at_hand or events & ~select.POLLOUT:
                code = self._client.loop_read()
            if events & select.POLLOUT and not code:
                code = self._client.loop_write()
            code = code or self._client.loop_misc()
        if code or self._refusal:
            raise BrokerError(self._refusal or error_string(code))

    def publish(self, topic: str, payload: bytes) -> bool:
        """Hand a message to the broker at QoS 0; False when there is no connection any more."""
        return self._client.publish(topic, payload).rc == MQTTErrorCode.MQTT_ERR_SUCCESS

    def _await_grants(self) -> None:
        deadline = time.monotonic() + ANSWER_S
        while not self._granted:
            if time.monotonic() > deadline:
                raise BrokerError(f"no answer within {ANSWER_S} s")
            if self._stopping():
                raise BrokerError("told to stop")
            self.turn(_LOOK_S)

    # --- called by paho from within `turn` --------------------------------------------------------------------------

    def _connected(
        self, client: Client, _data: Any, _flags: ConnectFlags, code: ReasonCode, _properties: Properties | None
    ) -> None:
        self._other_version = code.value == _UNSUPPORTED_VERSION
        if code.is_failure:
            self._refusal = f"broker refuses: {code}"
        else:
            client.subscribe([(topic, 1) for topic in self._topics])

    def _subscribed(
        self, _client: Client, _data: Any, _mid: int, codes: list[ReasonCode], _properties: Properties | None
    ) -> None:
        refused = [f"{topic} ({code})" for topic, code in zip(self._topics, codes, strict=False) if code.is_failure]
        if refused:
            self._refusal = f"broker refuses the subscription to {', '.join(refused)}"
        self._granted = True

    def _came(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            LOG.warning("a topic that is not UTF-8: left out")
        else:
            self._heard(topic, bytes(message.payload), message.retain)

    def _disconnected(
        self, _client: Client, _data: Any, _flags: DisconnectFlags, code: ReasonCode, _properties: Properties | None
    ) -> None:
        self._refusal = self._refusal or f"connection ended: {code}"


def versions(broker: Broker) -> Sequence[MQTTProtocolVersion]:
    """Return what may be spoken with the broker, the best first; a shared subscription is MQTT 5's."""
    v5, v311 = MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311
    if broker.share is not None:
        return (v5,)
    return {"auto": (v311, v5), "5": (v5,), "3.1.1": (v311,)}[broker.protocol]


def _client(broker: Broker, version: MQTTProtocolVersion) -> Client:
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=f"collector-{secrets.token_hex(4)}",
        protocol=version,
        clean_session=True if version is MQTTProtocolVersion.MQTTv311 else None,
        reconnect_on_failure=False,
    )
    client.connect_timeout = CONNECT_S
    if broker.tls:
        client.tls_set_context(_tls_context(broker))
    if broker.username:
        client.username_pw_set(broker.username, broker.password())
    return client


def _tls_context(broker: Broker) -> ssl.SSLContext:
    """Return a client context that trusts the configured CA alone and shows our certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(broker.ca_file)
    if broker.cert_file is not None:
        context.load_cert_chain(broker.cert_file, broker.key_file)
    return context
