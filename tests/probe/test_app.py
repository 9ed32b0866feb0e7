"""The daemon's inbox: a flood of messages holds nobody up."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING

from banua_probe.app import INBOX_SIZE, Probe
from banua_probe.config import Broker, Config
from banua_probe.outbox import Outbox, Owner
from banua_probe.uplink import Incoming

if TYPE_CHECKING:
    from pathlib import Path


def test_a_flood_of_messages_neither_blocks_the_connection_nor_grows(tmp_path: Path) -> None:
    """paho's thread must never wait for the main thread, which may be waiting for paho's thread to end."""
    owner = Owner("kalsel-0001", bytes(range(32)), b"B" * 16, lambda: 1000)
    with Outbox(tmp_path / "outbox.db", owner, max_bytes=10**6, checkpoint=lambda _: None) as outbox:
        config = Config("kalsel-0001", Broker("127.0.0.1", tls=False))
        probe = Probe(config, outbox, owner, random.Random(1), checkpoint=lambda _: None)

        def run() -> None:
            for _ in range(INBOX_SIZE * 2):
                probe.post(Incoming("banua/v1/kalsel-0001/receipt", b"x"))

        flood = threading.Thread(target=run, daemon=True)
        flood.start()
        flood.join(5)
        assert not flood.is_alive()
        probe.step()
