"""Parts that are away for long, or come back without their memory: nothing is lost, nothing doubled."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.faults.harness import SHARE
from tests.faults.journals import PostgresJournal, SqliteJournal, on
from tests.faults.voice import Voice
from tests.faults.watcher import tls
from tests.system.rig import wait_for

if TYPE_CHECKING:
    from tests.faults.harness import World

pytestmark = [pytest.mark.faults, pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(300)]

EXPIRY_S = 2
POISON = 22
HELD = 15
"""Mosquitto sends 20 messages ahead of their acknowledgements."""


@on(SqliteJournal)
def test_a_broker_that_comes_back_without_its_state_loses_nothing(world: World) -> None:
    """Sessions, queued messages and retained births are gone, in the middle of the load."""
    world.begin()
    assert world.kill_with_work("broker")
    world.broker.wipe()
    time.sleep(2)
    world.up("broker")
    known = world.count("batches")
    wait_for("batches over the new broker", lambda: world.count("batches") > known + 20)
    world.settle()
    world.compare()


@on(PostgresJournal)
def test_influxdb_may_be_away_while_the_journal_grows(world: World) -> None:
    """What is due waits in the journal, and is written when InfluxDB is back, without anybody's help."""
    world.begin()
    assert world.kill_with_work("influxd")
    due, stored = world.due(), world.count("batches")
    wait_for("growth", lambda: world.due() > due + 100 and world.count("batches") > stored + 100)
    print(f"{world.due()} batches are due")
    world.up("influxd")
    world.settle(fresh_collector=False)
    world.compare()


@on(PostgresJournal)
def test_22_points_that_influxdb_refuses_for_good_hold_up_nothing(world: World) -> None:
    """A field of another type in the bucket: these points are kept with the reason, every other one is written."""
    now_ms = time.time_ns() // 1_000_000
    world.influxd.write(f'radio,probe=poison nr_rsrp_dbm="text" {now_ms}', world.bucket)
    world.begin()
    with Voice(world, world.spare) as voice:
        begun_ms = now_ms - 60_000
        good = [voice.boot(begun_ms - 60_000, range(1000, 30_000, 1000))]
        bad = [voice.boot(begun_ms + 2 * n, [1], nr_rsrp_dbm=-80.5) for n in range(POISON)]
        for message in [*good, *bad]:
            voice.insist(message)
    wait_for("the poison in the journal", lambda: world.count("refused") == POISON, within_s=60)
    world.settle()
    evidence = world.evidence()
    evidence.unwritable = frozenset(made.identity for made in evidence.made if "nr_rsrp_dbm" in made.values)
    evidence.points = [point for point in evidence.points if point["probe"] != "poison"]
    assert len(evidence.unwritable) == POISON
    world.compare(evidence)
    reasons = world.journal.rows("SELECT reason FROM refused")
    assert all("type conflict" in reason for (reason,) in reasons), reasons


@on(PostgresJournal)
def test_a_dead_member_of_the_group_and_an_expired_session_lose_nothing(world: World) -> None:
    """A member of the shared subscription dies holding messages, then no collector is there until sessions are over."""
    world.begin()
    member = DeadMember(world)
    wait_for("messages in the member's hands", lambda: member.held >= HELD)
    member.die()
    world.kill_collectors()
    time.sleep(EXPIRY_S * 2)
    print(f"the member died with {member.held} messages, {world.waiting()} are in flight")
    world.start_collectors()
    world.settle()
    world.compare()


class DeadMember:
    """One of a group of collectors, which takes messages without ever acknowledging them."""

    def __init__(self, world: World) -> None:
        self.held = 0
        self._client = Client(
            CallbackAPIVersion.VERSION2, client_id="member", protocol=MQTTProtocolVersion.MQTTv5, manual_ack=True
        )
        self._client.tls_set_context(tls(world.authority, world.authority.issue_client("collector")))
        self._client.on_message = self._on_message
        self._client.on_connect = lambda client, *_: client.subscribe(f"$share/{SHARE}/banua/v1/+/batch", qos=1)
        keep = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        keep.SessionExpiryInterval = EXPIRY_S
        self._client.connect(world.broker.host, world.broker.port, clean_start=True, properties=keep)
        self._client.loop_start()

    def _on_message(self, *_: object) -> None:
        self.held += 1

    def die(self) -> None:
        """Break off without a word."""
        sock = self._client.socket()
        assert isinstance(sock, socket.socket)
        self._client.on_message = None
        sock.shutdown(socket.SHUT_RDWR)
        self._client.loop_stop()
