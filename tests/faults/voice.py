"""A client that has a probe's certificate and key: it says again what it heard, and seals batches of its own."""

from __future__ import annotations

import json
import secrets
import time
from typing import TYPE_CHECKING, Any, Self

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from banua_wire.batch import seal
from banua_wire.envelope import Envelope
from banua_wire.fields import SCHEMA, Value
from banua_wire.rows import Row
from tests.faults.watcher import hash8, tls

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.faults.harness import World

CELL = 2**35
"""Beyond every `cell_id` of the load: its rows are told apart from this one's."""


class Voice:
    """Speaks as probe `name` beside the load, with streams and boots of its own."""

    def __init__(self, world: World, name: str) -> None:
        self.name, self._world = name, world
        self._cells = 0
        self._client = Client(
            CallbackAPIVersion.VERSION2, client_id=f"{name}-voice", protocol=MQTTProtocolVersion.MQTTv5
        )
        self._client.tls_set_context(tls(world.authority, world.authority.issue_client(name)))

    def __enter__(self) -> Self:
        self._client.connect(self._world.broker.host, self._world.broker.port)
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def say(self, message: bytes) -> None:
        """Publish a batch and wait for the broker's word on it."""
        self._client.publish(f"banua/v1/{self.name}/batch", message, qos=1).wait_for_publish(30)

    def insist(self, message: bytes) -> None:
        """Say it until it is receipted, as a probe would."""
        wanted = hash8(message)
        end = time.monotonic() + 60
        while wanted not in {name.hash8 for name in set(self._world.watcher.receipts) if name.probe == self.name}:
            assert time.monotonic() < end, f"{self.name} was not receipted"
            self.say(message)
            time.sleep(0.5)

    def boot(self, wall_ms: int, offsets_ms: Sequence[int], **values: Any) -> bytes:
        """Return a batch of a boot that began at `wall_ms`: an anchor, and a row at each offset, in the truth file."""
        boot = secrets.token_bytes(16)
        rows = [Row("clock", 0, {"unix_ms": wall_ms, "error_ms": 5, "source": "ntp"})]
        with self._world.truth.open("a") as truth:
            for at in offsets_ms:
                self._cells += 1
                told: dict[str, Value] = {"modem": "sim0", "cell_id": CELL + self._cells, "rat": "lte", **values}
                rows.append(Row("radio", at, told))
                line = {"probe": self.name, "boot": boot.hex(), "kind": "radio", "boottime_ms": at}
                truth.write(json.dumps(line | {"wall_ms": wall_ms + at, "values": told}) + "\n")
        envelope = Envelope(self.name, secrets.token_bytes(8), 1, boot, SCHEMA)
        return seal(self._world.secrets[self.name], envelope, rows)
