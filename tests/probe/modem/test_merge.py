from typing import Any

import pytest

from banua_probe.modem.dialects import DIALECTS, parse
from banua_probe.modem.merge import merge
from banua_probe.modem.reading import Reading

CELL = '+QENG: "servingcell","{}","LTE","FDD",510,10,1A2B303,211,1850,3,5,5,5DCB,-108,-11,-77,9,30'
EN_DC = """+QENG: "servingcell","CONNECT"
+QENG: "LTE","FDD",510,10,3359966,1,1850,3,5,5,4AA3,-89,-13,-58,16,15,20,-
+QENG: "NR5G-NSA",510,10,832,-94,21,-11,474000,40,5,1"""
SA = '+QENG: "servingcell","NOCONN","NR5G-SA","TDD",510,10,100072000,538,114000,620640,78,12,-109,-12,14,1,-'

POLLS: list[tuple[str, str, dict[str, Any]]] = [
    ("nothing", "", {"state": "unknown"}),
    ("the vendor's state before the registration", CELL.format("NOCONN") + "\n+CEREG: 2,2", {"state": "registered"}),
    (
        "the registration where the vendor has none",
        '+QCSQ: "LTE",-77,-108,107,-11\n+CEREG: 0,1',
        {"state": "registered"},
    ),
    ("a denial gives limited service its reason", CELL.format("LIMSRV") + "\n+CEREG: 0,3", {"state": "denied"}),
    ("limited stays limited otherwise", CELL.format("LIMSRV") + "\n+CEREG: 0,2", {"state": "limited"}),
    ("a denial does not undo a registration", CELL.format("NOCONN") + "\n+CREG: 0,3", {"state": "registered"}),
    ("one domain's registration is enough", "+CREG: 0,3\n+CEREG: 0,1", {"state": "registered"}),
    ("a denial before a search", "+CREG: 0,2\n+CEREG: 0,3", {"state": "denied"}),
    (
        "without service no cell serves, whatever +COPS remembers",
        '+QENG: "servingcell","SEARCH"\n+COPS: 0,2,"51010",7\n+CREG: 0,1',
        {"state": "no_service", "rat": None, "plmn": None},
    ),
    (
        "the more precise value wins",
        CELL.format("NOCONN") + '\n+QCSQ: "LTE",-70,-100,100,-9\n+CESQ: 99,99,255,255,0,0\n+CSQ: 0,3',
        {"rsrp_dbm": -108, "rsrq_db": -11, "rssi_dbm": -77, "sinr_formula": "quectel_2x-20", "ber": 3, "censored": ()},
    ),
    (
        "what the better reply lacks comes from the next",
        '+CSQ: 0,99\n+CESQ: 99,99,255,255,18,0\n+CREG: 2,1,"5DCB","1A2B303",7\n+COPS: 0,2,"51010",7',
        {"rssi_dbm": -113, "rsrp_dbm": -140, "tac": 24011, "plmn": "51010", "censored": ("rsrp_dbm", "rssi_dbm")},
    ),
    (
        "the three SINR fields stay together",
        '+QCSQ: "LTE",-70,-100,-3276,-9\n+QSINR: 13,-32768,13,10,LTE',
        {"sinr_raw": 13, "sinr_db": 13, "sinr_formula": "db"},
    ),
    (
        "EN-DC: the anchor's columns, NR beside them",
        EN_DC,
        {"rat": "nr_nsa", "cell_id": 53844326, "pci": 1, "band": 3, "rsrp_dbm": -89, "nr_rsrp_dbm": -94}
        | {"nr_rsrq_db": -11, "nr_sinr_raw": 21, "sinr_raw": 16, "plmn": "51010"},
    ),
    (
        "standalone NR: its values are NR's",
        SA,
        {"rat": "nr_sa", "cell_id": 4295434240, "rsrp_dbm": None, "nr_rsrp_dbm": -109, "nr_rsrq_db": -12}
        | {"sinr_raw": None, "nr_sinr_raw": 14, "nr_sinr_formula": "db"},
    ),
]


CPSI = "+CPSI: LTE,Online,510-10,0x5DCB,27439875,211,EUTRAN-BAND3,1850,5,5,-108,-889,-614,19"
OTHERS: list[tuple[str, str, str, dict[str, Any]]] = [
    (
        "simcom",
        "the state is the registration's, the cell and levels the vendor's",
        CPSI + "\n+CESQ: 99,99,255,255,20,50\n+C5GREG: 0,0\n+CEREG: 0,1",
        {"state": "registered", "plmn": "51010", "rsrp_dbm": -88.9, "rsrq_db": -10.8, "sinr_raw": 19}
        | {"sinr_db": None, "sinr_formula": "raw"},
    ),
    (
        "simcom",
        "levels of unknown scale come from the standard's reply",
        CPSI.replace("-108,-889,-614", "12,36,42") + "\n+CESQ: 99,99,255,255,20,50\n+CEREG: 0,3",
        {"state": "denied", "rsrp_dbm": -91, "rsrq_db": -10.0, "pci": 211},
    ),
    (
        "simcom",
        "EN-DC: the anchor's columns, NR beside them",
        CPSI + "\n+CPSI: NR5G_NSA,298,NR5G_BAND41,520110,-760,-110,18,0,12\nOK\n+CEREG: 0,1",
        {"state": "registered", "rat": "nr_nsa", "pci": 211, "rsrp_dbm": -88.9, "nr_rsrp_dbm": -76}
        | {"nr_sinr_raw": 18, "nr_sinr_db": None, "nr_sinr_formula": "raw"},
    ),
    (
        "simcom",
        "no service, whatever the registration remembers",
        '+CPSI: NO SERVICE,Online\n+CEREG: 0,1\n+COPS: 0,2,"51010",7',
        {"state": "no_service", "plmn": None},
    ),
    ("simcom", "5G's emergency only", "+CPSI: NO SERVICE,Offline\n+C5GREG: 2,8", {"state": "limited"}),
    (
        "huawei",
        "signal by the vendor, cell by the registration",
        '^HCSQ:"LTE",53,0,181,18\n+CEREG: 2,1,"5DCB","1A2B303",7\n+COPS: 0,2,"51010",7',
        {"state": "registered", "rat": "lte", "plmn": "51010", "cell_id": 27439875, "rsrp_dbm": -140}
        | {"censored": ("rsrp_dbm",), "sinr_db": 16.0},
    ),
    ("huawei", "no service", '^HCSQ:"NOSERVICE"\n+CEREG: 0,2', {"state": "no_service"}),
]
CASES = [("quectel", *row) for row in POLLS] + OTHERS


@pytest.mark.parametrize(
    ("dialect", "text", "expected"), [(d, t, e) for d, _, t, e in CASES], ids=[c[1] for c in CASES]
)
def test_a_poll_merges(dialect: str, text: str, expected: dict[str, Any]) -> None:
    readings = [told for told in parse(DIALECTS[dialect], text.splitlines()) if isinstance(told, Reading)]
    row = merge(readings)
    assert {name: getattr(row, name) for name in expected} == expected
