"""What the kernel saw: the journal is on the disk before a receipt leaves; and who may publish what."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, ClassVar

import pytest

from tests.real.mosquitto import Mosquitto
from tests.real.parts import require_real
from tests.real.server import Server
from tests.system.rig import PROBE, Rig, wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from banua_lab.ca import Authority

pytestmark = [pytest.mark.real, pytest.mark.slow]

SYNCED = re.compile(
    r"(?:fsync|fdatasync)\(\d+<[^>]*banua\.sqlite-wal>\)\s+= 0|<\.\.\. (?:fsync|fdatasync) resumed>\)\s+= 0"
)


class PlainMosquitto(Server):
    """A Mosquitto on loopback without TLS, so that the messages can be seen in the system calls."""

    name: ClassVar[str] = "mosquitto-plain"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.program = require_real("mosquitto")
        self.config = folder / "mosquitto.conf"
        self.config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\nlog_dest stderr\n")

    def command(self) -> Sequence[str]:
        return [self.program, "-c", str(self.config)]

    def ready(self) -> bool:
        return self.listening()


def test_the_journals_fsync_returns_before_the_receipt_is_written(tmp_path: Path, authority: Authority) -> None:
    strace = require_real("strace")
    trace = tmp_path / "trace"
    with PlainMosquitto(tmp_path / "broker") as broker, Rig(tmp_path / "rig", broker, authority, tls=False) as rig:  # type: ignore[arg-type]
        rig.add_probe()
        calls = "trace=fsync,fdatasync,sendto,write,sendmsg,recvfrom,read"
        rig.start_collector(prefix=[strace, "-f", "-y", "-s", "400", "-e", calls, "-o", str(trace)])
        rig.start_probe()
        wait_for(
            "eight receipted batches",
            lambda: (
                rig.has_outbox(PROBE)
                and rig.outbox(PROBE, "SELECT count(*) FROM batches WHERE state='evictable'")[0][0] >= 8
            ),
            within_s=90,
        )
    lines = trace.read_text(errors="replace").splitlines()
    batch = re.compile(rf"(?:recvfrom|read)\(.*banua/v1/{PROBE}/batch")
    receipt = re.compile(rf"(?:sendto|write|sendmsg)\(\d+<(?:socket|TCP).*banua/v1/{PROBE}/receipt")
    proven, since_batch, synced = 0, False, False
    for line in lines:
        if batch.search(line):
            since_batch, synced = True, False
        elif SYNCED.search(line):
            synced = True
        elif receipt.search(line) and since_batch:
            assert synced, f"a receipt left before the journal was on the disk: {line[:160]}"
            proven, since_batch = proven + 1, False
    assert proven >= 3, f"only {proven} receipts were seen in {len(lines)} calls"


def test_a_probe_publishes_and_reads_under_its_own_name_only(mosquitto: Mosquitto, authority: Authority) -> None:
    """The shipped access list on a real broker: a stranger's batch and receipt never reach it."""
    from banua_probe.config import Broker
    from banua_probe.uplink import Connected, Incoming, Puback, Uplink

    assert shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    events: dict[str, list[object]] = {"kalsel-0001": [], "kalsel-0002": [], "collector": []}
    wanted = {
        "kalsel-0001": ["banua/v1/kalsel-0001/receipt"],
        "kalsel-0002": ["banua/v1/kalsel-0001/receipt", "banua/v1/kalsel-0001/batch"],
        "collector": ["banua/v1/+/batch"],
    }
    links = {}
    for name, topics in wanted.items():
        credential = authority.issue_client(name)
        broker = Broker(
            "127.0.0.1",
            mosquitto.port,
            ca_file=str(authority.cafile),
            cert_file=str(credential.cert),
            key_file=str(credential.key),
        )
        links[name] = Uplink(broker, name, topics, events[name].append)
        links[name].connect((f"banua/v1/{name}/state", b"gone"))
    wait_for("three connections", lambda: all(Connected() in told for told in events.values()))
    mid = links["kalsel-0002"].publish("banua/v1/kalsel-0001/batch", b"forged")
    links["kalsel-0001"].publish("banua/v1/kalsel-0001/batch", b"own")
    links["collector"].publish("banua/v1/kalsel-0001/receipt", b"receipt")
    wait_for("the receipt", lambda: Incoming("banua/v1/kalsel-0001/receipt", b"receipt") in events["kalsel-0001"])
    wait_for("the batch", lambda: any(isinstance(event, Incoming) for event in events["collector"]))
    wait_for("the refusal", lambda: any(isinstance(e, Puback) and e.mid == mid for e in events["kalsel-0002"]))
    assert Puback(mid, 0x87) in events["kalsel-0002"], "not authorised"
    assert [e for e in events["collector"] if isinstance(e, Incoming)] == [
        Incoming("banua/v1/kalsel-0001/batch", b"own")
    ]
    assert not [e for e in events["kalsel-0002"] if isinstance(e, Incoming)], "a neighbour reads nothing of ours"
    for link in links.values():
        link.close()
