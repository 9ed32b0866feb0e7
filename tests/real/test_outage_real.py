"""What six hours without a collector cost a probe on the wire, counted by the kernel with headers of IP, TCP and TLS.

The broker is up, and nobody receipts. Every interval of the probe's is shortened by one factor, `SCALE`: its clock runs
so much faster, and so does the clock by which its MQTT client keeps the connection alive. TCP is left alone.
"""

from __future__ import annotations

import functools
import json
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest
from paho.mqtt import client as paho

from banua_lab.bench.day import Senses
from banua_lab.ca import Authority
from banua_probe import app, clock
from banua_probe.app import Probe, Rows, read_secret
from banua_probe.clock import Anchor
from banua_probe.config import load
from banua_probe.outbox import Outbox, Owner
from banua_probe.outbox_file import copied, counts
from banua_probe.uplink import Uplink
from tests.real.mosquitto import Mosquitto
from tests.real.parts import ROOT
from tests.system.rig import PROBE, Rig, wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.real.netns import Namespace, Namespaces

pytestmark = [pytest.mark.real, pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(240)]

SCALE: Final = 300
OUTAGE_S: Final = 6 * 3600
BEFORE_S: Final = 1800
"""How long all is well first."""
MOST_BYTES: Final = 20_000
ETHERNET_BYTES: Final = 14
CHILD: Final = "import sys; from tests.real.test_outage_real import run_scaled; run_scaled(sys.argv[1])"


class FarMosquitto(Mosquitto):
    """Mosquitto in a namespace, where it has `address`."""

    host = "0.0.0.0"

    def __init__(self, folder: Path, authority: Authority, at: Namespace, address: str) -> None:
        super().__init__(folder, authority)
        authority.issue_server("mosquitto", [address, "127.0.0.1"])
        self._at = at

    def command(self) -> Sequence[str]:
        return self._at.command(super().command())

    def ready(self) -> bool:
        return "running" in self.tail()


class Count(NamedTuple):
    """Packets and bytes over a device, both directions, from the IP header on."""

    packets: int
    octets: int


def counted(at: Namespace, device: str) -> Count:
    stats = json.loads(at.ip("-j", "-s", "link", "show", "dev", device))[0]["stats64"]
    packets = sum(int(stats[way]["packets"]) for way in ("rx", "tx"))
    return Count(packets, sum(int(stats[way]["bytes"]) for way in ("rx", "tx")) - packets * ETHERNET_BYTES)


def test_six_hours_without_a_collector_cost_at_most_20_kb(net: Namespaces, tmp_path: Path) -> None:
    probe, server = net.add("probe"), net.add("server")
    for namespace in (probe, server):
        namespace.sysctl("net.ipv6.conf.default.disable_ipv6", 1)
    wire = net.wire(probe, server, "10.77.0.0/30")
    for namespace, device in ((probe, wire.device_a), (server, wire.device_b)):
        namespace.ip("link", "set", device, "gso_max_segs", "1")  # a packet counted is a packet on the wire
    authority = Authority.create(tmp_path / "ca")
    broker = FarMosquitto(tmp_path / "broker", authority, server, wire.address_b)
    with broker, Rig(tmp_path / "rig", broker, authority) as rig:
        config = rig.add_probe(schedule="") / "probe.toml"
        config.write_text(config.read_text().replace("127.0.0.1", wire.address_b))
        rig.start_collector(prefix=server.command([]))
        wait_for("the collector is connected", lambda: "connected" in rig.log("collector"))
        with (tmp_path / "probe.log").open("w") as log:
            running = probe.popen([sys.executable, "-c", CHILD, str(config)], cwd=ROOT, stdout=log, stderr=log)
        time.sleep(BEFORE_S / SCALE)
        wait_for("a batch is journalled", lambda: rig.sql("SELECT 1 FROM batches"))
        rig.kill("collector")
        probe_log, before = tmp_path / "probe.log", counted(probe, wire.device_a)
        sent_before, pings_before = sent(probe_log), pings(broker)
        time.sleep(OUTAGE_S / SCALE)
        after = counted(probe, wire.device_a)
        assert running.poll() is None
        states, batches = ([*now[len(then) :]] for then, now in zip(sent_before, sent(probe_log), strict=True))
        with copied(load(config).outbox_file) as outbox:
            waiting = counts(outbox)["waiting"]
    octets = after.octets - before.octets
    print(
        f"{octets} bytes in {after.packets - before.packets} packets: {len(states)} asks of {sum(states)} bytes, "
        f"{len(batches)} batches of {sum(batches)} bytes, {pings(broker) - pings_before} pings; {waiting} batches wait"
    )
    assert waiting >= OUTAGE_S // 300 - 2, "the probe goes on measuring and sealing"
    assert len(states) >= 10, "the probe goes on asking"
    assert octets <= MOST_BYTES


def sent(log: Path) -> tuple[list[int], list[int]]:
    """Payload bytes of the states and of the batches that the probe has sent."""
    told = [line.split() for line in log.read_text().splitlines() if line.startswith("sent ")]
    states, batches = ([int(size) for _, leaf, size in told if leaf == wanted] for wanted in ("state", "batch"))
    return states, batches


def pings(broker: Mosquitto) -> int:
    return broker.log.read_text().count(f"Received PINGREQ from {PROBE}")


# --- the probe's process ----------------------------------------------------------------------------------------------


class Told(Uplink):
    """An uplink that prints what it sends."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        print("sent", topic.rpartition("/")[2], len(payload), flush=True)
        return super().publish(topic, payload, retain=retain)


def run_scaled(config_file: str) -> None:
    """Run the probe of a configuration with its time `SCALE` times as fast, on the rows of a usual day."""
    started = time.monotonic()

    def boottime_ms() -> int:
        return 1_000_000 + round((time.monotonic() - started) * 1000 * SCALE)

    def anchor() -> Anchor:
        return Anchor(boottime_ms(), 1_780_000_000_000 + boottime_ms(), 50, "ntp")

    patched: dict[str, Any] = {"STEP_S": app.STEP_S / SCALE, "Uplink": Told}
    vars(app).update(patched)
    vars(paho)["time_func"] = lambda: time.monotonic() * SCALE
    vars(paho)["Client"].loop_forever = functools.partialmethod(paho.Client.loop_forever, 1 / SCALE)
    config = load(Path(config_file))
    owner = Owner(config.name, read_secret(Path(config.key_file)), clock.boot_id(), boottime_ms)
    rng = random.Random(1)
    senses = Senses(1, boottime_ms())
    with Outbox(config.outbox_file, owner, max_bytes=10**8, checkpoint=lambda _: None) as outbox:
        probe = Probe(config, outbox, owner, rng, ntp=anchor, checkpoint=lambda _: None)
        while True:
            probe.handle(Rows(senses.rows(boottime_ms())))
            probe._take()
            probe.step()
