"""What holds for every reply: no other error, no value out of its range, nothing lost on the way."""

from hypothesis import given
from hypothesis import strategies as st

from banua_probe.modem.dialects import DIALECTS, Dialect, parse
from banua_probe.modem.errors import ParseError
from banua_probe.modem.merge import merge
from banua_probe.modem.ranges import GSM, LTE, NR, UMTS
from banua_probe.modem.reading import Reading

QUECTEL = DIALECTS["quectel"]
SIMCOM = DIALECTS["simcom"]
HUAWEI = DIALECTS["huawei"]
NUMBER = st.one_of(st.integers(-40_000, 300_000), st.integers(-160, 130), st.integers(-1600, -400)).map(str)
TOKEN = st.one_of(NUMBER, NUMBER, NUMBER, st.sampled_from(["-", "", '"FDD"', "1A2B3C"]), st.text(max_size=4))
HEAD = st.sampled_from(
    [
        '+QENG: "servingcell","NOCONN","LTE","FDD",',
        '+QENG: "servingcell","LIMSRV","NR5G-SA","TDD",',
        '+QENG: "servingcell","NOCONN","WCDMA",',
        '+QENG: "servingcell","NOCONN","GSM",',
        '+QENG: "LTE","FDD",',
        '+QENG: "NR5G-NSA",',
        '+QCSQ: "LTE",',
        '+QCSQ: "NR5G",',
        '+QCSQ: "WCDMA",',
        "+QSINR: ",
        "+CPSI: LTE,Online,510-10,0x5DCB,27439875,211,EUTRAN-BAND3,",
        "+CPSI: LTE CAT-M1,Online,510-10,0x5DCB,27439875,211,EUTRAN-BAND3,1850,5,5,",
        "+CPSI: NR5G_SA,Online,510-10,0x5DCB,27439875,211,NR5G_BAND78,",
        "+CPSI: NR5G_NSA,298,NR5G_BAND41,",
        "+CPSI: NR5G,",
        "+CPSI: WCDMA,Online,510-10,",
        "+CPSI: GSM,Online,510-10,",
        '^HCSQ:"LTE",',
        '^HCSQ:"WCDMA",',
        '^HCSQ:"GSM",',
        "+CESQ: ",
        "+CSQ: ",
        "+CEREG: ",
        "+C5GREG: ",
        "+COPS: ",
    ]
)
LINE = st.builds(lambda head, tokens: head + ",".join(tokens), HEAD, st.lists(TOKEN, min_size=1, max_size=20))
RANGES = {"lte": LTE, "nr_sa": NR, "umts": UMTS, "gsm": GSM}


def read(dialect: Dialect, line: str) -> Reading | ParseError:
    try:
        return dialect.read(line)
    except ParseError as error:
        return error


@given(st.one_of(st.text(), LINE))
def test_a_line_is_read_or_a_parse_error_of_one_line(line: str) -> None:
    for dialect in DIALECTS.values():
        told = read(dialect, line)
        assert isinstance(told, Reading) or str(told).isprintable()


def assert_within(reading: Reading, rat: str) -> None:
    for name, (low, high) in RANGES[rat].items():
        value = getattr(reading, name)
        assert value is None or low <= value <= high, name


@given(LINE)
def test_no_value_is_outside_of_its_range(line: str) -> None:
    for dialect in DIALECTS.values():
        reading = read(dialect, line)
        if isinstance(reading, Reading):
            assert_sound(reading)


def assert_sound(reading: Reading) -> None:
    if reading.rat in RANGES and reading.lte is None:
        assert_within(reading, reading.rat)
    if reading.lte is not None:
        assert_within(reading.lte, "lte")
    if reading.nr is not None:
        assert_within(reading.nr, "nr_sa")
    row = merge([reading])
    assert row.rsrp_dbm is None or -156 <= row.rsrp_dbm <= -44
    assert row.nr_rsrp_dbm is None or -156 <= row.nr_rsrp_dbm <= -31
    assert row.nr_rsrq_db is None or -43 <= row.nr_rsrq_db <= 20
    if reading.source != "+CESQ":  # whose NR SINR has no raw value
        for raw, db, formula in (
            (row.sinr_raw, row.sinr_db, row.sinr_formula),
            (row.nr_sinr_raw, row.nr_sinr_db, row.nr_sinr_formula),
        ):
            assert (raw is None) == (formula is None)
            assert (db is None) == (formula in {None, "raw"})


@st.composite
def serving_cells(draw: st.DrawFn) -> tuple[str, dict[str, object]]:
    state, told = draw(st.sampled_from([("NOCONN", "registered"), ("CONNECT", "registered"), ("LIMSRV", "limited")]))
    mnc = draw(st.integers(0, 99))
    raw = draw(st.integers(-1, 30))
    values: dict[str, object] = {
        "state": told,
        "rat": "lte",
        "plmn": f"510{mnc:02}",
        "cell_id": draw(st.integers(0, 2**28 - 1)),
        "pci": draw(st.integers(0, 503)),
        "earfcn": draw(st.integers(0, 262_143)),
        "band": draw(st.integers(1, 256)),
        "tac": draw(st.integers(0, 65_535)),
        "rsrp_dbm": draw(st.integers(-156, -44)),
        "rsrq_db": draw(st.integers(-34, 2)),
        "rssi_dbm": draw(st.integers(-140, 0)),
        "sinr_raw": raw,
        "sinr_db": 2 * raw - 20,
        "sinr_formula": "quectel_2x-20",
    }
    tail = draw(st.sampled_from(["", ",17", ",17,20", ",-,-32768"]))
    line = (
        '+QENG: "servingcell","{state}","LTE","FDD",510,{mnc},{cell_id:X},{pci},{earfcn},{band},5,5,{tac:X},'
        "{rsrp_dbm},{rsrq_db},{rssi_dbm},{sinr_raw},7{tail}"
    )
    return line.format(**{**values, "state": state, "mnc": mnc, "tail": tail}), values


@given(serving_cells())
def test_a_generated_serving_cell_comes_back_as_it_was(cell: tuple[str, dict[str, object]]) -> None:
    line, values = cell
    assert QUECTEL.read(line).as_dict() == values


@given(st.lists(st.one_of(LINE, st.text(max_size=30)), max_size=8))
def test_any_poll_merges_to_one_flat_reading(lines: list[str]) -> None:
    for dialect in DIALECTS.values():
        row = merge([told for told in parse(dialect, lines) if isinstance(told, Reading)])
        assert row.lte is None
        assert row.nr is None
        assert set(row.censored) <= set(row.as_dict())
        assert merge([row]).as_dict() == row.as_dict()


@given(st.integers(-1560, -440), st.integers(-340, 25), st.integers(-1400, 0), st.booleans())
def test_simcoms_levels_come_back_in_tenths_and_whole(rsrp: int, rsrq: int, rssi: int, tenths: bool) -> None:
    sent = [rsrq, rsrp, rssi] if tenths else [int(n / 10) for n in (rsrq, rsrp, rssi)]
    cell = "+CPSI: LTE,Online,510-10,0x5DCB,27439875,211,EUTRAN-BAND3,1850,5,5,"
    reading = SIMCOM.read(cell + ",".join(map(str, [*sent, 9])))
    expected = [n / 10 for n in sent] if tenths else sent
    assert [reading.rsrq_db, reading.rsrp_dbm, reading.rssi_dbm] == expected


@given(st.integers(1, 96), st.integers(1, 97), st.integers(1, 251), st.integers(1, 34))
def test_huaweis_indices_are_lower_edges(rssi: int, rsrp: int, sinr: int, rsrq: int) -> None:
    reading = HUAWEI.read(f'^HCSQ:"LTE",{rssi},{rsrp},{sinr},{rsrq}')
    assert (reading.rssi_dbm, reading.rsrp_dbm, reading.rsrq_db) == (rssi - 121, rsrp - 141, rsrq / 2 - 20)
    assert (reading.sinr_raw, reading.sinr_db) == (sinr, (sinr - 101) / 5)
