"""One value end to end on real parts: a modem's answer on a pty is read back from InfluxDB, equal to the truth file."""

from __future__ import annotations

import re
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest

from banua_lab.modem import EmulatedModem
from banua_lab.scenario import load
from tests.system.rig import PROBE, VILLAGE, Rig, truth_lines, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from banua_lab.ca import Authority
    from tests.real.amqtt_broker import Amqtt
    from tests.real.influxd import Influxd
    from tests.real.mosquitto import Mosquitto

pytestmark = [pytest.mark.real, pytest.mark.slow]

SERVING = re.compile(
    r'\+QENG: "servingcell","NOCONN","LTE","FDD",510,10,1A2B303,211,1850,3,5,5,5DCB,(-\d+),-11,(-\d+),'
)


def told(truth: Path) -> list[tuple[int, int, int]]:
    """Return what the modem really said: wall time in ms, RSRP, RSSI of each serving-cell reply."""
    found = []
    for line in truth_lines(truth):
        match = SERVING.match(line["reply"][0])
        if match:
            found.append((line["wall_ns"] // 1_000_000, int(match[1]), int(match[2])))
    return found


def test_a_modems_values_are_read_back_from_influxdb_as_the_modem_said_them(
    tmp_path: Path, broker: Mosquitto | Amqtt, authority: Authority, influxd: Influxd, bucket: str
) -> None:
    truth = tmp_path / "modem.jsonl"
    link = tmp_path / "ttyMODEM"
    modem = (
        f'[[modem]]\nname = "sim0"\ndevice = "{link}"\ndialect = "quectel"\n'
        "poll_s = 1\nrow_s = 2\nneighbours_s = 0\nsimulated = true\n"
    )
    with (
        EmulatedModem(load("village-lte"), truth, link),
        Rig(tmp_path / "rig", broker, authority, (influxd, bucket)) as rig,
    ):
        rig.add_probe(body=modem)
        rig.collector("places", "add", VILLAGE, "benua-lawas-1", "Balai desa")
        rig.collector("deployments", "add", PROBE, "benua-lawas-1", "--from", "2026-01-01T00:00:00+08:00")
        rig.start_collector()
        rig.start_probe()

        def radio() -> list[dict[str, Any]]:
            return influxd.query("SELECT * FROM radio GROUP BY *", bucket)

        wait_for("six radio points", lambda: len(radio()) >= 6, within_s=60)
        rig.kill(PROBE)
        points = radio()
    said = told(truth)
    assert len(said) >= 10
    for point in points:
        assert {
            name: point[name] for name in ("probe", "modem", "place", "village", "district", "regency", "simulated")
        } == {
            "probe": PROBE,
            "modem": "sim0",
            "place": "benua-lawas-1",
            "village": VILLAGE,
            "district": "63.01.01",
            "regency": "63.01",
            "simulated": "true",
        }
        assert (point["plmn"], point["sim_plmn"], point["rat"], point["state"]) == (
            "51010",
            "51010",
            "lte",
            "registered",
        )
        assert (point["cell_id"], point["tac"], point["pci"], point["earfcn"], point["band"]) == (
            0x1A2B303, 0x5DCB, 211, 1850, 3,
        )  # fmt: skip
        assert (point["polls"], point["polls_registered"], point["polls_failed"]) == (2, 2, 0)
        assert (point["rsrq_db"], point["sinr_raw"], point["sinr_formula"]) == (-11, 9, "quectel_2x-20")
        # the row's time is that of its last poll's end; its values are the medians of the two replies before it
        before = [reply for reply in said if reply[0] <= point["time"] // 1_000_000 + point["time_error_ms"]][-2:]
        assert point["rsrp_dbm"] == median(rsrp for _, rsrp, _ in before)
        assert point["rssi_dbm"] == median(rssi for _, _, rssi in before)
        assert abs(point["time"] // 1_000_000 - before[-1][0]) <= 2500 + point["time_error_ms"]
