"""A listener on the broker: every receipt, and every batch as it passed, whoever is killed meanwhile."""

from __future__ import annotations

import hashlib
import ssl
import threading
from typing import TYPE_CHECKING, Any, Self

import msgspec
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.faults.compare import Name
from tests.real.mosquitto import ACL, Mosquitto

if TYPE_CHECKING:
    from pathlib import Path

    from paho.mqtt.client import MQTTMessage

    from banua_lab.ca import Authority, Credential

WATCHER = "watcher"


class WatchedMosquitto(Mosquitto):
    """The shipped broker and access list, and one more user, who may read everything."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        super().__init__(folder, authority)
        acl = folder / "acl"
        acl.write_text(f"{ACL.read_text()}\nuser {WATCHER}\ntopic read banua/v1/#\n")
        text = self.config.read_text().replace(str(ACL), str(acl))
        self.config.write_text(text.replace("log_type all", "log_type warning"))


def tls(authority: Authority, credential: Credential) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.cafile)
    context.load_cert_chain(credential.cert, credential.key)
    return context


class Watcher:
    """Connects again within moments whenever the broker is back; what passes meanwhile it does not see."""

    def __init__(self, broker: Mosquitto, authority: Authority) -> None:
        self.receipts: set[Name] = set()
        self.stored_to: dict[tuple[str, bytes], int] = {}
        self.batches: list[tuple[str, bytes]] = []
        self.passed = self.duplicates = 0
        self._lock = threading.Lock()
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=WATCHER, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.tls_set_context(tls(authority, authority.issue_client(WATCHER)))
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message
        self._client.connect_async(broker.host, broker.port, keepalive=60)

    def __enter__(self) -> Self:
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: Client, *_: Any) -> None:
        client.subscribe([("banua/v1/+/receipt", 1), ("banua/v1/+/batch", 1)])

    def _on_message(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        probe, leaf = message.topic.split("/")[2:]
        with self._lock:
            self.passed += 1
            if leaf == "batch":
                self.batches.append((probe, bytes(message.payload)))
                return
            stream, _, _, got, _, stored_to, *_ = msgspec.msgpack.decode(message.payload)
            names = {Name(probe, stream, seq, hash8) for seq, hash8 in got}
            self.duplicates += len(names & self.receipts)
            self.receipts = self.receipts | names  # a new set: others read this one
            known = self.stored_to.get((probe, stream), 0)
            self.stored_to[probe, stream] = max(known, stored_to)


def hash8(message: bytes) -> bytes:
    return hashlib.sha256(message).digest()[:8]
