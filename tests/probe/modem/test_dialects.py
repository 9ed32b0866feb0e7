"""Every vector of the measurement notes, and captured replies as files, to exact values."""

import json
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, get_args

import pytest

from banua_probe.decode import decode_stream
from banua_probe.modem.dialects import DIALECTS, DialectName

CAPTURES = Path(__file__).parents[2] / "captures" / "at"


def decode(dialect: str, text: str) -> list[dict[str, Any]]:
    out = StringIO()
    decode_stream(dialect, BytesIO(text.encode("latin-1")), out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


# The notes' decode examples, key for key and in their order.
EXACT = [
    (
        "quectel",
        '+QENG: "servingcell","LIMSRV","LTE","FDD",460,11,6935932,30,1825,3,4,4,6934,-115,-13,-83,13,0',
        (
            '{"state":"limited","rat":"lte","plmn":"46011","cell_id":110319922,"pci":30,"earfcn":1825,"band":3,'
            '"tac":26932,"rsrp_dbm":-115,"rsrq_db":-13,"rssi_dbm":-83,'
            '"sinr_raw":13,"sinr_db":6,"sinr_formula":"quectel_2x-20"}'
        ),
    ),
    ("quectel", '+QENG: "servingcell","SEARCH"', '{"state":"no_service"}'),
    (
        "3gpp",
        "+CESQ: 99,99,255,255,0,0",
        '{"state":"unknown","rsrp_dbm":-140,"rsrq_db":-19.5,"censored":["rsrp_dbm","rsrq_db"]}',
    ),
    ("3gpp", "+CSQ: 28,99", '{"state":"unknown","rssi_dbm":-57}'),
    ("3gpp", "+CEREG: 0,2", '{"state":"no_service"}'),
    ("3gpp", "+CEREG: 0,3", '{"state":"denied"}'),
    ("3gpp", "+CEREG: 0,5", '{"state":"registered"}'),
    (
        "quectel",
        '+QCSQ: "LTE",-52,-81,195,-10',
        (
            '{"state":"unknown","rat":"lte","rssi_dbm":-52,"rsrp_dbm":-81,"sinr_raw":195,"sinr_db":19.0,'
            '"sinr_formula":"quectel_x/5-20","rsrq_db":-10}'
        ),
    ),
    ("3gpp", "+CESQ: 99,99,255,255,20,80", '{"state":"unknown","rsrp_dbm":-61,"rsrq_db":-10.0}'),
    ("3gpp", "+CESQ: 99,99,95,40,255,255", '{"state":"unknown","rscp_dbm":-26,"ecno_db":-4.5}'),
    ("3gpp", "+CESQ: 99,99,255,255,16,36", '{"state":"unknown","rsrp_dbm":-105,"rsrq_db":-12.0}'),
    ("3gpp", "+CSQ: 99,99", '{"state":"unknown"}'),
    ("3gpp", "+CESQ: 99,99,255,255,255,255", '{"state":"unknown"}'),
    ("simcom", "+CPSI: NO SERVICE,Online", '{"state":"no_service"}'),
]


@pytest.mark.parametrize(("dialect", "line", "expected"), EXACT, ids=[line for _, line, _ in EXACT])
def test_a_vector_decodes_to_exactly_its_line(dialect: str, line: str, expected: str) -> None:
    out = StringIO()
    assert decode_stream(dialect, [f"{line}\r\n".encode()], out) == 0
    assert out.getvalue() == expected + "\n"


CPSI = "+CPSI: LTE,Online,510-10,0x5DCB,27439875,211,EUTRAN-BAND3,1850,5,5,{}"
CPSI_CELL: dict[str, Any] = {"state": "unknown", "rat": "lte", "plmn": "51010", "cell_id": 27439875, "pci": 211} | {
    "earfcn": 1850,
    "band": 3,
    "tac": 24011,
}
LTE_UNKNOWN: dict[str, Any] = {"state": "registered", "rat": "lte"}

VALUES: list[tuple[str, str, dict[str, Any]]] = [
    # +CSQ, +CESQ: both ends are bounds, the index after the first is not.
    ("3gpp", "+CSQ: 0,3", {"state": "unknown", "rssi_dbm": -113, "ber": 3, "censored": ["rssi_dbm"]}),
    ("3gpp", "+CSQ: 1,7", {"state": "unknown", "rssi_dbm": -111, "ber": 7}),
    ("3gpp", "+CSQ: 31,0", {"state": "unknown", "rssi_dbm": -51, "ber": 0, "censored": ["rssi_dbm"]}),
    ("3gpp", "+CSQ: 32,8", {"state": "unknown"}),
    ("3gpp", "+CESQ: 0,99,255,255,255,255", {"state": "unknown", "rxlev_dbm": -110, "censored": ["rxlev_dbm"]}),
    ("3gpp", "+CESQ: 63,99,255,255,255,255", {"state": "unknown", "rxlev_dbm": -48, "censored": ["rxlev_dbm"]}),
    (
        "3gpp",
        "+CESQ: 99,99,0,0,255,255",
        {"state": "unknown", "rscp_dbm": -120, "ecno_db": -24.0, "censored": ["rscp_dbm", "ecno_db"]},
    ),
    (
        "3gpp",
        "+CESQ: 99,99,96,49,34,97",
        {
            "state": "unknown",
            "rsrp_dbm": -44,
            "rsrq_db": -3.0,
            "rscp_dbm": -25,
            "ecno_db": 0.0,
            "censored": ["rsrp_dbm", "rsrq_db", "rscp_dbm", "ecno_db"],
        },
    ),
    ("3gpp", "+CESQ: 99,99,255,255,1,1", {"state": "unknown", "rsrp_dbm": -140, "rsrq_db": -19.5}),
    (
        "3gpp",
        "+CESQ: 99,99,255,255,255,255,0,0,0",
        {
            "state": "unknown",
            "nr_rsrp_dbm": -156,
            "nr_rsrq_db": -43.0,
            "nr_sinr_db": -23.0,
            "censored": ["nr_rsrp_dbm", "nr_rsrq_db", "nr_sinr_db"],
        },
    ),
    (
        "3gpp",
        "+CESQ: 99,99,255,255,255,255,64,60,80",
        {"state": "unknown", "nr_rsrp_dbm": -97, "nr_rsrq_db": -11.5, "nr_sinr_db": 16.5},
    ),
    # Registration, read and unsolicited, quoted and not.
    ("3gpp", "+CEREG: 2", {"state": "no_service"}),
    ("3gpp", "+CEREG: 0,0", {"state": "unknown"}),
    ("3gpp", "+CEREG: 0,4", {"state": "unknown"}),
    ("3gpp", "+C5GREG: 0,8", {"state": "limited"}),
    ("3gpp", "+CREG: 0,99", {"state": "unknown"}),
    (
        "3gpp",
        '+CEREG: 1,"5DCB","1A2B303",7',
        {"state": "registered", "rat": "lte", "cell_id": 27439875, "tac": 24011},
    ),
    ("3gpp", "+CEREG: 1,5DCB,1A2B303,7", {"state": "registered", "rat": "lte", "cell_id": 27439875, "tac": 24011}),
    ("3gpp", '+CEREG: 2,2,"5DCB","1A2B303",7', {"state": "no_service"}),
    ("3gpp", "+CEREG: 3,3,,,,0,15", {"state": "denied"}),
    ("3gpp", '+CREG: 2,1,"00C1","1F2E",0', {"state": "registered", "rat": "gsm", "cell_id": 7982, "tac": 193}),
    ("3gpp", '+CEREG: 2,1,"15DCB","1A2B303",7', {"state": "registered", "rat": "lte", "cell_id": 27439875}),
    ("3gpp", "+COPS: 0", {"state": "unknown"}),
    ("3gpp", '+COPS: 0,2,"51010",7', {"state": "unknown", "rat": "lte", "plmn": "51010"}),
    ("3gpp", '+COPS: 0,0,"Telkomsel, 4G",7', {"state": "unknown", "rat": "lte"}),
    # Null values and values out of range are unknown.
    ("quectel", f'+QENG: "servingcell","NOCONN","LTE",{",".join("-" * 15)}', LTE_UNKNOWN),
    (
        "quectel",
        '+QENG: "servingcell","LIMSRV","LTE","FDD",510,1,-,-,-,-,-,-,-,-32768,-32768,-32768,-3276,-',
        {"state": "limited", "rat": "lte", "plmn": "51001"},
    ),
    (
        "quectel",
        '+QENG: "servingcell","CONNECT","LTE","FDD",510,10,FFFFFFFFF,504,262144,0,5,5,10000,-43,3,1,31,0',
        LTE_UNKNOWN | {"plmn": "51010"},
    ),
    (
        "quectel",  # 20 fields: the same columns, CQI and tx_power behind them
        '+QENG: "servingcell","NOCONN","LTE","FDD",228,02,1CA6B8E,64,522,1,4,4,B3B3,-105,-7,-80,3,7,17,20',
        {
            "state": "registered",
            "rat": "lte",
            "plmn": "22802",
            "cell_id": 30043022,
            "pci": 64,
            "earfcn": 522,
            "band": 1,
            "tac": 46003,
            "rsrp_dbm": -105,
            "rsrq_db": -7,
            "rssi_dbm": -80,
            "sinr_raw": 3,
            "sinr_db": -14,
            "sinr_formula": "quectel_2x-20",
        },
    ),
    (
        "quectel",
        '+QENG: "servingcell","LIMSRV","WCDMA",460,01,A538,1EB578B,10763,60,2,-106,-13,-,-,-,-,-',
        {
            "state": "limited",
            "rat": "umts",
            "plmn": "46001",
            "cell_id": 32200587,
            "tac": 42296,
            "rscp_dbm": -106,
            "ecno_db": -13,
        },
    ),
    ("quectel", '+QENG: "servingcell","CONNECT"', {"state": "registered"}),
    ("quectel", '+QCSQ: "NOSERVICE"', {"state": "no_service"}),
    (
        "quectel",
        '+QCSQ: "WCDMA",-80,-95,-6',
        {"state": "unknown", "rat": "umts", "rssi_dbm": -80, "rscp_dbm": -95, "ecno_db": -6},
    ),
    ("quectel", '+QCSQ: "GSM",-71', {"state": "unknown", "rat": "gsm", "rssi_dbm": -71}),
    (
        "quectel",
        '+QCSQ: "NR5G",-75,4,-11',
        {
            "state": "unknown",
            "nr_rsrp_dbm": -75,
            "nr_rsrq_db": -11,
            "nr_sinr_raw": 4,
            "nr_sinr_db": 4,
            "nr_sinr_formula": "db",
        },
    ),
    (
        "quectel",
        "+QSINR: 13,-32768,13,10,LTE",
        {"state": "unknown", "sinr_raw": 13, "sinr_db": 13, "sinr_formula": "db"},
    ),
    (
        "quectel",
        "+QSINR: 19,-32768,17,18,NR5G",
        {"state": "unknown", "nr_sinr_raw": 19, "nr_sinr_db": 19, "nr_sinr_formula": "db"},
    ),
    ("quectel", "+CSQ: 28,99", {"state": "unknown", "rssi_dbm": -57}),
    # SIMCom: RSRP tells tenths from whole; where it cannot, no level is known.
    (
        "simcom",
        "+CPSI: LTE,Online,310-260,0x2D18,50896642,236,EUTRAN-BAND4,2300,5,5,-125,-987,-663,10",
        {"state": "unknown", "rat": "lte", "plmn": "310260", "cell_id": 50896642, "pci": 236, "earfcn": 2300}
        | {"band": 4, "tac": 11544, "rsrp_dbm": -98.7, "rsrq_db": -12.5, "rssi_dbm": -66.3, "sinr_raw": 10}
        | {"sinr_formula": "raw"},
    ),
    ("simcom", CPSI.format("-340,-1560,-1400,-"), CPSI_CELL | {"rsrp_dbm": -156, "rsrq_db": -34, "rssi_dbm": -140}),
    ("simcom", CPSI.format("25,-440,0,-"), CPSI_CELL | {"rsrp_dbm": -44, "rsrq_db": 2.5, "rssi_dbm": 0}),
    ("simcom", CPSI.format("-34,-156,-140,-"), CPSI_CELL | {"rsrp_dbm": -156, "rsrq_db": -34, "rssi_dbm": -140}),
    ("simcom", CPSI.format("2,-44,0,-"), CPSI_CELL | {"rsrp_dbm": -44, "rsrq_db": 2, "rssi_dbm": 0}),
    ("simcom", CPSI.format("-12,-157,-70,-"), CPSI_CELL),
    ("simcom", CPSI.format("-12,-439,-70,-"), CPSI_CELL),
    ("simcom", CPSI.format("-12,-1561,-70,-"), CPSI_CELL),
    ("simcom", CPSI.format("-12,-43,-70,-"), CPSI_CELL),
    ("simcom", CPSI.format("-12,-,-70,-"), CPSI_CELL),
    ("simcom", CPSI.format("12,36,42,5"), CPSI_CELL | {"sinr_raw": 5, "sinr_formula": "raw"}),  # A7600: indices
    ("simcom", CPSI.format("-108,-89,-61,-"), CPSI_CELL),  # whole and tenths at once
    ("simcom", CPSI.format("-10,-89,-614,-"), CPSI_CELL),
    ("simcom", CPSI.format("-10,-89,-32768,-32768"), CPSI_CELL | {"rsrp_dbm": -89, "rsrq_db": -10}),
    # 2n-20 is for whole values of the modules with CAT-M1 and NB-IoT alone.
    (
        "simcom",
        CPSI.format("-10,-89,-61,13"),
        CPSI_CELL | {"rsrp_dbm": -89, "rsrq_db": -10, "rssi_dbm": -61, "sinr_raw": 13, "sinr_formula": "raw"},
    ),
    (
        "simcom",
        CPSI.replace("LTE", "LTE CAT-M1").format("-108,-889,-614,13"),
        CPSI_CELL | {"rsrp_dbm": -88.9, "rsrq_db": -10.8, "rssi_dbm": -61.4, "sinr_raw": 13, "sinr_formula": "raw"},
    ),
    ("simcom", CPSI.replace("LTE", "LTE CAT-M1").format("-10,-89,-,31"), CPSI_CELL | {"rsrp_dbm": -89, "rsrq_db": -10}),
    ("simcom", "+CPSI: LTE,Online", {"state": "unknown", "rat": "lte"}),
    ("simcom", "+CPSI: NO SERVICE,Low Power Mode", {"state": "unknown"}),
    ("simcom", "+CPSI: NOT IN EN-DC CONNECTED MODE", {"state": "unknown"}),
    (
        "simcom",
        "+CPSI: NR5G_SA,Online,510-10,0x114000,68719476735,538,NR5G_BAND78,620640,-1101,-11,14",
        {"state": "unknown", "rat": "nr_sa", "plmn": "51010", "cell_id": 68719476735, "pci": 538, "earfcn": 620640}
        | {"band": 78, "tac": 1130496, "rsrp_dbm": -110.1, "rsrq_db": -1.1, "sinr_raw": 14, "sinr_formula": "raw"},
    ),
    (
        "simcom",
        "+CPSI: NR5G,Online,311-480,0x2D18,50896642,257,629952,-92,-11,15",
        {"state": "unknown", "rat": "nr_sa", "plmn": "311480", "cell_id": 50896642, "pci": 257, "earfcn": 629952}
        | {"tac": 11544, "rsrp_dbm": -92, "rsrq_db": -11, "sinr_raw": 15, "sinr_formula": "raw"},
    ),
    (
        "simcom",
        "+CPSI: NR5G_NSA,298,NR5G_BAND41,520110,-760,-110,18,0,12",
        {
            "state": "unknown",
            "rat": "nr_nsa",
            "nr": {"pci": 298, "earfcn": 520110, "band": 41, "rsrp_dbm": -76, "rsrq_db": -11}
            | {"sinr_raw": 18, "sinr_formula": "raw"},
        },
    ),
    (
        "simcom",  # without a band the order is disputed
        "+CPSI: NR5G_NSA,58,643296,-12,-86,8.5",
        {
            "state": "unknown",
            "rat": "nr_nsa",
            "nr": {"pci": 58, "earfcn": 643296, "sinr_raw": 8.5, "sinr_formula": "raw"},
        },
    ),
    (
        "simcom",  # magnitudes or indices: Ec/No and RSCP are unknown
        "+CPSI: WCDMA,Online,460-01,0xA809,11122855,WCDMA IMT 2000,279,10663,0,1.5,62,33,52,500",
        {"state": "unknown", "rat": "umts", "plmn": "46001", "cell_id": 11122855, "tac": 43017},
    ),
    (
        "simcom",
        "+CPSI: WCDMA,Online,252-02,0x2612,-294967296,WCDMA IMT 2000,437,10687,0,-3,-83,-32768,-83,-15",
        {"state": "unknown", "rat": "umts", "plmn": "25202", "tac": 9746, "rscp_dbm": -83, "ecno_db": -3},
    ),
    # Huawei: indices, their ends only bounds.
    ("huawei", '^HCSQ:"NOSERVICE"', {"state": "no_service"}),
    (
        "huawei",
        '^HCSQ: "LTE",0,0,0,0',
        {"state": "unknown", "rat": "lte", "rsrp_dbm": -140, "rsrq_db": -19.5, "rssi_dbm": -120, "sinr_raw": 0}
        | {"sinr_db": -20.0, "sinr_formula": "huawei_-20.2+n/5"}
        | {"censored": ["rsrp_dbm", "rsrq_db", "rssi_dbm", "sinr_db"]},
    ),
    (
        "huawei",
        '^HCSQ:"LTE",96,97,251,34',
        {"state": "unknown", "rat": "lte", "rsrp_dbm": -44, "rsrq_db": -3.0, "rssi_dbm": -25, "sinr_raw": 251}
        | {"sinr_db": 30.0, "sinr_formula": "huawei_-20.2+n/5"}
        | {"censored": ["rsrp_dbm", "rsrq_db", "rssi_dbm", "sinr_db"]},
    ),
    ("huawei", '^HCSQ:"LTE",97,98,252,35', {"state": "unknown", "rat": "lte"}),
    ("huawei", '^HCSQ:"LTE",255,255,255,255', {"state": "unknown", "rat": "lte"}),
    (
        "huawei",
        '^HCSQ: "WCDMA",30,30,58',
        {"state": "unknown", "rat": "umts", "rssi_dbm": -91, "rscp_dbm": -91, "ecno_db": -3.5},
    ),
    ("huawei", '^HCSQ:"WCDMA",255,255,0', {"state": "unknown", "rat": "umts"}),  # < -32 dB: below UMTS's own range
    ("huawei", '^HCSQ:"GSM",50', {"state": "unknown", "rat": "gsm", "rssi_dbm": -71}),
    ("huawei", "+CEREG: 0,3", {"state": "denied"}),
]


@pytest.mark.parametrize(("dialect", "line", "expected"), VALUES, ids=[line for _, line, _ in VALUES])
def test_a_line_decodes_to_its_values(dialect: str, line: str, expected: dict[str, Any]) -> None:
    assert decode(dialect, line + "\r\n") == [expected]


UNREADABLE = [
    ("3gpp", "+CESQ: 99,99,255,255,20", "5 values where 6 or 9 belong"),
    ("3gpp", "+CSQ: 28", "1 values where 2 belong"),
    ("3gpp", "+CSQ: x,99", "not a whole number: 'x'"),
    ("3gpp", "+CEREG:", "a registration without a state"),
    ("3gpp", '+CEREG: 2,1,"5DXB","1",7', "not a hexadecimal number: '\"5DXB\"'"),
    ("3gpp", "+COPS: ", "an operator without a mode"),
    ("3gpp", '+COPS: 0,2,"123",7', "not a numeric operator: '123'"),
    ("3gpp", '+COPS: 0,2,"-1234",7', "not digits: '\"-1234\"'"),
    ("3gpp", '+COPS: (1,"TIM","TIM","22201",7)', "not a whole number: '(1'"),
    ("3gpp", "+CPIN: READY", "unknown reply +CPIN"),
    ("3gpp", '+QENG: "servingcell","SEARCH"', "unknown reply +QENG"),
    ("3gpp", "867698040000000", "not an information line: '867698040000000'"),
    ("3gpp", '+CSQ: "28,99', "value 1 is neither quoted nor plain: '\"28,99'"),
    ("3gpp", "+CSQ: ٢٨,99", "not a whole number: '\\xd9\\xa2\\xd9\\xa8'"),
    ("quectel", '+QENG: "servingcell"', "a serving cell without a state"),
    ("quectel", '+QENG: "servingcell","CONECT"', "unknown state 'CONECT'"),
    ("quectel", '+QENG: "servingcell","NOCONN","HDR",1,2', "unknown radio technology 'HDR'"),
    ("quectel", '+QENG: "neighbourcell intra","LTE",275', "unknown radio technology 'neighbourcell intra'"),
    (
        "quectel",  # cut short inside the SINR
        '+QENG: "servingcell","LIMSRV","LTE","FDD",460,11,6935932,30,1825,3,4,4,6934,-115,-13,-83,1',
        "14 values after the technology where at least 15 belong",
    ),
    ("quectel", "+QSINR: 1,2,3,4", "4 values where 5 belong"),
    ("quectel", "+QSINR: 1,2,3,4,HDR", "unknown radio technology 'HDR'"),
    ("simcom", "+CPSI: CDMA,Online,460-03", "unknown radio technology 'CDMA'"),
    ("simcom", "+CPSI: NR5G_NSA", "unknown radio technology 'NR5G_NSA'"),
    ("simcom", CPSI.format("-12,-98,-70"), "13 values where at least 14 belong"),
    ("simcom", CPSI.format("-12,-9.8,-70,1"), "not a whole number: '-9.8'"),
    ("simcom", CPSI.format("-12,-98,-70,x"), "not a number: 'x'"),
    ("simcom", '+QENG: "servingcell","SEARCH"', "unknown reply +QENG"),
    ("huawei", '^HCSQ:"LTE",48,35,86', "3 values after the technology where at least 4 belong"),
    ("huawei", '^HCSQ:"NR",85,200,30', "unknown radio technology 'NR'"),
    ("huawei", "^RSSI:20", "unknown reply ^RSSI"),
]


@pytest.mark.parametrize(("dialect", "line", "message"), UNREADABLE, ids=[line for _, line, _ in UNREADABLE])
def test_an_unreadable_line_says_why_and_where(dialect: str, line: str, message: str) -> None:
    out = StringIO()
    status = decode_stream(dialect, [b"AT\r\r\n", f"{line}\r\n".encode(), b"+CSQ: 28,99\r\n", b"OK\r\n"], out)
    first, second = (json.loads(text) for text in out.getvalue().splitlines())
    assert (status, first) == (1, {"error": message, "line": 2})
    assert second == {"state": "unknown", "rssi_dbm": -57}


LTE_PART = {
    "plmn": "51503",
    "cell_id": 53844326,
    "pci": 1,
    "earfcn": 150,
    "band": 1,
    "tac": 19107,
    "rsrp_dbm": -89,
    "rsrq_db": -13,
    "rssi_dbm": -58,
    "sinr_raw": 16,
    "sinr_db": 12,
    "sinr_formula": "quectel_2x-20",
}
REGISTERED_LTE = {"state": "registered", "rat": "lte"}

FILES: dict[str, list[dict[str, Any]]] = {
    "quectel/search.txt": [{"state": "no_service"}],
    "quectel/lte-limited.txt": [json.loads(EXACT[0][2])],
    "quectel/qcsq-lte.txt": [json.loads(EXACT[7][2])],
    "quectel/lte-idle-ec200t.txt": [
        REGISTERED_LTE
        | {"plmn": "12301", "cell_id": 4403212, "pci": 348, "earfcn": 1802, "band": 3, "tac": 21571}
        | {"rsrp_dbm": -87, "rsrq_db": -16, "rssi_dbm": -69}
        | {"sinr_raw": 5, "sinr_db": -10, "sinr_formula": "quectel_2x-20"}
    ],
    "quectel/lte-idle-em12.txt": [
        REGISTERED_LTE
        | {"plmn": "22288", "cell_id": 37978126, "pci": 20, "earfcn": 3350, "band": 7, "tac": 15049}
        | {"rsrp_dbm": -86, "rsrq_db": -13, "rssi_dbm": -52}
        | {"sinr_raw": 15, "sinr_db": 10, "sinr_formula": "quectel_2x-20"}
    ],
    "quectel/lte-ec25-modemmanager.txt": [
        REGISTERED_LTE
        | {"plmn": "22201", "cell_id": 27439875, "pci": 211, "earfcn": 1850, "band": 3, "tac": 24011}
        | {"rsrp_dbm": -98, "rsrq_db": -11, "rssi_dbm": -68}
        | {"sinr_raw": 9, "sinr_db": -2, "sinr_formula": "quectel_2x-20"}
    ],
    "quectel/en-dc-rg500q.txt": [
        {
            "state": "registered",
            "rat": "nr_nsa",
            "lte": LTE_PART,
            "nr": {
                "plmn": "51503",
                "pci": 832,
                "earfcn": 528030,
                "band": 41,
                "rsrp_dbm": -76,
                "rsrq_db": -11,
                "sinr_raw": 21,
                "sinr_db": 21,
                "sinr_formula": "db",
            },
        }
    ],
    "quectel/en-dc-early-firmware.txt": [
        {
            "state": "registered",
            "rat": "nr_nsa",
            "lte": {
                "cell_id": 27447297,
                "pci": 1,
                "earfcn": 1575,
                "band": 3,
                "tac": 1,
                "rsrp_dbm": -70,
                "rsrq_db": -9,
                "rssi_dbm": -46,
                "sinr_raw": 25,
                "sinr_db": 30,
                "sinr_formula": "quectel_2x-20",
            },
            "nr": {"pci": 500, "rsrp_dbm": -75, "rsrq_db": -11},
        }
    ],
    "quectel/nr-sa-n41.txt": [
        {"state": "registered", "rat": "nr_sa", "plmn": "310260", "cell_id": 5491978543, "pci": 271}
        | {"earfcn": 521310, "band": 41, "tac": 5891840, "rsrp_dbm": -89, "rsrq_db": -11}
        | {"sinr_raw": 19, "sinr_db": 19, "sinr_formula": "db"}
    ],
    "quectel/nr-sa-n71.txt": [
        {"state": "registered", "rat": "nr_sa", "plmn": "310260", "cell_id": 39613121108, "pci": 24}
        | {"earfcn": 126490, "band": 71, "tac": 6334976, "rsrp_dbm": -104, "rsrq_db": -13}
        | {"sinr_raw": 11, "sinr_db": 11, "sinr_formula": "db"}
    ],
    "quectel/nr-sa-space.txt": [
        {"state": "registered", "rat": "nr_sa", "plmn": "51566", "cell_id": 4295434240, "pci": 538}
        | {"earfcn": 620640, "band": 78, "tac": 1130496, "rsrp_dbm": -109, "rsrq_db": -12}
        | {"sinr_raw": 14, "sinr_db": 14, "sinr_formula": "db"}
    ],
    "quectel/ep06-denied-on-cs.txt": [
        {"state": "unknown", "rssi_dbm": -51, "censored": ["rssi_dbm"]},
        {"state": "unknown", "rat": "lte", "plmn": "25011"},
        {"state": "unknown", "rat": "lte", "rsrp_dbm": -83, "rsrq_db": -14}
        | {"sinr_raw": 207, "sinr_db": 207 / 5 - 20, "sinr_formula": "quectel_x/5-20"},
        {"state": "denied"},
        {"state": "registered", "rat": "lte", "cell_id": 232450561, "tac": 9750},
        {"state": "registered", "rat": "lte", "cell_id": 232450561, "tac": 9750},
    ],
    "quectel/manual-gsm.txt": [
        {"state": "limited", "rat": "gsm", "plmn": "46001", "cell_id": 11093, "tac": 21764, "rxlev_dbm": -67}
    ],
    "simcom/lte-sim7906.txt": [
        {"state": "unknown", "rat": "lte", "plmn": "25002", "cell_id": 22060, "pci": 58, "earfcn": 1725, "band": 3}
        | {"tac": 3832, "rsrp_dbm": -88.9, "rsrq_db": -10.8, "rssi_dbm": -61.4}
        | {"sinr_raw": 19, "sinr_formula": "raw"}
    ],
    "simcom/cat-m1-sim7000g.txt": [
        {"state": "unknown", "rat": "lte", "plmn": "310410", "cell_id": 111159055, "pci": 393, "earfcn": 5110}
        | {"band": 12, "tac": 38665, "rsrp_dbm": -113, "rsrq_db": -16, "rssi_dbm": -83}
        | {"sinr_raw": 10, "sinr_db": 0, "sinr_formula": "simcom_2n-20"}
    ],
    "simcom/nb-iot-manual.txt": [
        {"state": "unknown", "rat": "lte", "plmn": "46011", "cell_id": 187212754, "pci": 82, "earfcn": 2506, "band": 5}
        | {"tac": 23265, "rsrp_dbm": -115, "rsrq_db": -7, "rssi_dbm": -110}
        | {"sinr_raw": 13, "sinr_db": 6, "sinr_formula": "simcom_2n-20"}
    ],
    "simcom/gsm-sim7000.txt": [
        {"state": "registered", "rat": "gsm", "cell_id": 8926, "tac": 58065},
        {"state": "unknown", "rat": "gsm", "plmn": "26203"},
        {"state": "unknown", "rat": "gsm", "plmn": "26203", "cell_id": 8926, "tac": 58065, "rxlev_dbm": -88},
    ],
    "simcom/no-service-sim5360e.txt": [{"state": "no_service"}, {"state": "unknown"}],
    "simcom/nr-sa.txt": [
        {"state": "unknown", "rat": "nr_sa", "plmn": "24212", "cell_id": 4955280, "pci": 0, "earfcn": 640704}
        | {"band": 78, "tac": 30301, "rsrp_dbm": -77, "rsrq_db": -11, "sinr_raw": 290, "sinr_formula": "raw"}
    ],
    "simcom/en-dc-sim8200-manual.txt": [
        {
            "state": "unknown",
            "rat": "nr_nsa",
            "lte": {"plmn": "46011", "cell_id": 187214780, "pci": 257, "earfcn": 1825, "band": 3, "tac": 23070}
            | {"rsrp_dbm": -92.4, "rsrq_db": -10.2, "rssi_dbm": -63.2, "sinr_raw": 13, "sinr_formula": "raw"},
            "nr": {"pci": 257, "earfcn": 629952, "sinr_raw": 153, "sinr_formula": "raw"},
        }
    ],
    "huawei/lte-e3372-roaming.txt": [
        {"state": "unknown", "rat": "lte", "rsrp_dbm": -106, "rsrq_db": -13.0, "rssi_dbm": -73}
        | {"sinr_raw": 86, "sinr_db": -3.0, "sinr_formula": "huawei_-20.2+n/5"},
        {"state": "unknown", "rat": "lte", "rsrp_dbm": -140, "rsrq_db": -19.5, "rssi_dbm": -110}
        | {"sinr_raw": 96, "sinr_db": -1.0, "sinr_formula": "huawei_-20.2+n/5", "censored": ["rsrp_dbm", "rsrq_db"]},
        {"state": "registered", "cell_id": 76837409, "tac": 31021},
        {"state": "registered", "cell_id": 76837409, "tac": 31021},
        {"state": "unknown", "rat": "lte", "rsrp_dbm": -104, "rsrq_db": -11.0, "rssi_dbm": -73}
        | {"sinr_raw": 91, "sinr_db": -2.0, "sinr_formula": "huawei_-20.2+n/5"},
    ],
    "huawei/lte-play.txt": [
        {"state": "unknown", "rat": "lte"},
        {"state": "unknown", "rat": "lte", "rsrp_dbm": -96, "rsrq_db": -11.0, "rssi_dbm": -68}
        | {"sinr_raw": 181, "sinr_db": 16.0, "sinr_formula": "huawei_-20.2+n/5"},
    ],
    "huawei/wcdma-e3372h-320.txt": [
        {"state": "unknown", "rat": "umts", "rssi_dbm": -77, "rscp_dbm": -86, "ecno_db": -9.0}
    ],
    "3gpp/marvell-no-space.txt": [{"state": "unknown"}, {"state": "unknown", "rsrp_dbm": -101, "rsrq_db": -14.0}],
    "3gpp/marvell-registration.txt": [
        {"state": "registered", "rat": "lte", "cell_id": 15682056, "tac": 13700},
        {"state": "unknown"},
        {"state": "registered", "rat": "lte", "cell_id": 15682056, "tac": 13700},
    ],
    "3gpp/xmm7360-no-service.txt": [{"state": "unknown"}],
    "3gpp/t-mobile-c5greg.txt": [{"state": "registered", "rat": "nr_sa", "cell_id": 39613121108, "tac": 6334976}],
    "3gpp/dito-c5greg.txt": [{"state": "registered", "rat": "nr_sa", "cell_id": 4295434240, "tac": 1130496}],
    "3gpp/fibocom-cops.txt": [
        {"state": "unknown", "rssi_dbm": -71},
        {"state": "unknown", "rat": "lte"},
        {"state": "unknown", "rat": "lte", "plmn": "26202"},
    ],
    "3gpp/modemmanager-dialogue.txt": [
        {"state": "unknown", "rssi_dbm": -73},
        {"state": "unknown", "rsrp_dbm": -99, "rsrq_db": -10.5},
        {"state": "registered", "rat": "lte", "cell_id": 27439875, "tac": 24011},
        {"state": "registered", "rat": "lte", "cell_id": 27439875, "tac": 24011},
        {"state": "unknown", "rat": "lte", "plmn": "22201"},
        {"state": "unknown", "rat": "lte"},
        {"state": "registered"},
    ],
}


@pytest.mark.parametrize("name", FILES)
def test_a_capture_decodes_to_its_values(name: str) -> None:
    out = StringIO()
    with (CAPTURES / name).open("rb") as capture:
        status = decode_stream(str(Path(name).parent), capture, out)
    assert [json.loads(line) for line in out.getvalue().splitlines()] == FILES[name]
    assert status == 0


def test_every_capture_is_tested_and_has_a_source() -> None:
    files = {str(path.relative_to(CAPTURES)) for path in CAPTURES.glob("*/*.txt")}
    assert files == set(FILES)
    sources = (CAPTURES / "SOURCES.md").read_text(encoding="utf-8")
    assert [name for name in files if Path(name).name not in sources] == []


HEAD = '+QENG: "servingcell","NOCONN"\r\n'
LTE = '+QENG: "LTE","FDD",515,03,3359966,1,150,1,5,5,4AA3,-89,-13,-58,16,15,20,-\r\n'
NR = '+QENG: "NR5G-NSA",515,03,832,-76,21,-11,528030,41,8,1\r\n'


def states_and_parts(text: str) -> list[list[str]]:
    return [
        [told.get("state", "error"), *(part for part in ("lte", "nr") if part in told)]
        for told in decode("quectel", text)
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEAD + LTE + NR, [["registered", "lte", "nr"]]),
        (HEAD + "\r\n" + LTE + "\r\n" + NR, [["registered", "lte", "nr"]]),
        (HEAD + LTE + LTE + NR, [["registered", "lte", "nr"]]),
        (HEAD + LTE, [["registered", "lte"]]),
        (HEAD + NR, [["registered", "nr"]]),
        (HEAD + LTE + "OK\r\n" + NR, [["registered", "lte"], ["unknown", "nr"]]),
        (HEAD + LTE + NR + HEAD + LTE + NR, [["registered", "lte", "nr"]] * 2),
        (HEAD + "+CSQ: 9,99\r\n" + LTE, [["registered"], ["unknown"], ["unknown", "lte"]]),
        (HEAD + "?\r\n" + LTE + NR, [["registered"], ["error"], ["unknown", "lte", "nr"]]),
        ('+QENG: "servingcell","SEARCH"\r\n' + LTE, [["no_service"], ["unknown", "lte"]]),
    ],
)
def test_the_lines_of_en_dc_are_one_reply(text: str, expected: list[list[str]]) -> None:
    assert states_and_parts(text) == expected


CPSI_LTE = CPSI.format("-10,-89,-61,13") + "\r\n"
CPSI_NR = "+CPSI: NR5G_NSA,298,NR5G_BAND41,520110,-760,-110,18,0,12\r\n"
NOT_IN_EN_DC = "+CPSI: NOT IN EN-DC CONNECTED MODE\r\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CPSI_LTE + CPSI_NR, [{"lte", "nr"}]),
        (CPSI_LTE + NOT_IN_EN_DC, [{"rsrp_dbm"}]),
        (CPSI_LTE + "OK\r\n" + CPSI_NR, [{"rsrp_dbm"}, {"nr"}]),
        (CPSI_LTE + CPSI_LTE, [{"rsrp_dbm"}, {"rsrp_dbm"}]),
        (CPSI_LTE + CPSI_NR + CPSI_NR, [{"lte", "nr"}, {"nr"}]),
        ("+CEREG: 0,1\r\n" + CPSI_NR, [set(), {"nr"}]),
        (CPSI_LTE + "+CEREG: 0,1\r\n", [{"rsrp_dbm"}, set()]),
    ],
)
def test_the_lines_of_simcoms_en_dc_are_one_reply(text: str, expected: list[set[str]]) -> None:
    assert [set(told) & {"lte", "nr", "rsrp_dbm"} for told in decode("simcom", text)] == expected


def test_every_dialect_may_be_configured() -> None:
    assert tuple(DIALECTS) == get_args(DialectName)


def test_bare_carriage_returns_separate_and_do_not_count_lines() -> None:
    assert decode("3gpp", "AT+CSQ\r+CSQ: 28,99\r\n?\r\n") == [
        {"state": "unknown", "rssi_dbm": -57},
        {"error": "not an information line: '?'", "line": 2},
    ]
