"""What holds for every reply: no other error, no value out of its range, nothing lost on the way."""

from hypothesis import given
from hypothesis import strategies as st

from banua_probe.modem.dialects import DIALECTS, Dialect, parse
from banua_probe.modem.errors import ParseError
from banua_probe.modem.merge import merge
from banua_probe.modem.ranges import GSM, LTE, NR, UMTS
from banua_probe.modem.reading import Reading

QUECTEL = DIALECTS["quectel"]
NUMBER = st.one_of(st.integers(-40_000, 300_000), st.integers(-160, 130)).map(str)
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
    reading = read(QUECTEL, line)
    if isinstance(reading, ParseError):
        return
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
    assert (row.sinr_raw is None) == (row.sinr_db is None) == (row.sinr_formula is None)


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
    readings = [told for told in parse(QUECTEL, lines) if isinstance(told, Reading)]
    row = merge(readings)
    assert row.lte is None
    assert row.nr is None
    assert set(row.censored) <= set(row.as_dict())
    assert merge([row]).as_dict() == row.as_dict()
