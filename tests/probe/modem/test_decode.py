import json
from io import BytesIO, StringIO

from hypothesis import given
from hypothesis import strategies as st

from banua_probe.decode import bounded_lines, decode_stream
from banua_probe.modem.dialects import DIALECTS
from banua_probe.modem.line import MAX_LINE

# Lines that are near to real ones, so that the readers' own branches are reached and not only the first check.
TOKENS = st.sampled_from(
    ["-", "", "0", "1", "99", "255", "-32768", "-3276", "-110", "510", "10", "1A2B", '"LTE"', '"NR5G-NSA"', '"NR5G-SA"',
     '"servingcell"', '"NOCONN"', '"SEARCH"', "LTE", "NR5G", "NR5G_NSA", "WCDMA", "Online", "NO SERVICE", "510-10",
     "EUTRAN-BAND3", "-889", "-4.5", '"WCDMA"', '"NOSERVICE"', '"GSM"', '"5DCB"', "-x", '"', "FFFFFFFFFFFFFFFFF",
     "99999999999"]
)  # fmt: skip
COMMANDS = st.sampled_from(
    ["+QENG", "+QCSQ", "+QSINR", "+CSQ", "+CESQ", "+CREG", "+CEREG", "+C5GREG", "+COPS", "+CPSI", "^HCSQ", "+X", ""]
)
NEARLY = st.builds(
    lambda name, colon, tokens: f"{name}{colon}{','.join(tokens)}".encode(),
    COMMANDS,
    st.sampled_from([": ", ":", " "]),
    st.lists(TOKENS, max_size=24),
)
LINES = st.lists(st.one_of(st.binary(max_size=200), NEARLY), max_size=12).map(b"\r\n".join)


@given(st.sampled_from(sorted(DIALECTS)), LINES)
def test_any_bytes_give_one_json_object_a_line_and_status_0_or_1(dialect: str, text: bytes) -> None:
    out = StringIO()
    status = decode_stream(dialect, bounded_lines(BytesIO(text)), out)
    told = [json.loads(line) for line in out.getvalue().splitlines()]
    assert all(set(one) == {"error", "line"} or "state" in one for one in told)
    assert status == int(any("error" in one for one in told))
    numbers = [one["line"] for one in told if "error" in one]
    assert numbers == sorted(numbers)
    assert all(1 <= number <= text.count(b"\n") + 1 for number in numbers)
    assert out.getvalue().isascii()


def test_a_line_of_4096_bytes_is_read_and_a_longer_one_is_not() -> None:
    padding = b" " * (MAX_LINE - len("+CSQ: 28,99"))
    text = b"+CSQ: 28,99" + padding + b"\r\n" + b"+CSQ: 28,99 " + padding + b"\r\n" + b"A" * 100_000 + b"\n+CSQ: 1,99"
    for lines in (bounded_lines(BytesIO(text)), BytesIO(text)):
        out = StringIO()
        assert decode_stream("3gpp", lines, out) == 1
        assert [json.loads(line) for line in out.getvalue().splitlines()] == [
            {"state": "unknown", "rssi_dbm": -57},
            {"error": "longer than 4096 bytes", "line": 2},
            {"error": "longer than 4096 bytes", "line": 3},
            {"state": "unknown", "rssi_dbm": -111},
        ]


def test_a_line_too_long_is_never_held_whole() -> None:
    assert max(map(len, bounded_lines(BytesIO(b"x" * 1_000_000)))) == MAX_LINE + 1


def test_a_line_of_spaces_costs_time_in_proportion() -> None:
    out = StringIO()
    assert decode_stream("3gpp", [b"+CSQ:" + b" " * 4000 + b'x"', b"+CSQ: " + b'" ",' * 1000 + b'"'], out) == 1


def test_noise_alone_says_nothing() -> None:
    out = StringIO()
    noise = b"\x00AT+CSQ\r\r\n\r\nOK\r\nERROR\r\n+CME ERROR: 30\r\n+CMS ERROR: unknown\r\nat+csq\n"
    assert decode_stream("3gpp", [noise], out) == 0
    assert out.getvalue() == ""
