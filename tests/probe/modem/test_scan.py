"""Scans of networks and neighbour cells: captured replies to exact values, and what holds for every reply."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banua_probe.modem.at_modem import AtModem
from banua_probe.modem.dialects import DIALECTS
from banua_probe.modem.errors import ModemRefused, ModemUnavailable, ParseError
from banua_probe.modem.neighbour import Neighbour, quectel_neighbour
from banua_probe.modem.ranges import LTE
from banua_probe.modem.scan import Receivable, receivable

Told = TypeVar("Told")
Answer = TypeVar("Answer")
AT = Path(__file__).parents[2] / "captures" / "at"
QUECTEL = DIALECTS["quectel"]
SCAN = "AT+COPS=?"
CELLS = 'AT+QENG="neighbourcell"'
SERVING = 'AT+QENG="servingcell"'


def captured(name: str) -> list[str]:
    text = (AT / name).read_bytes().decode("latin-1")
    return [line for line in text.split("\r\n") if line]


def read(reader: Callable[[Told], Answer], told: Told) -> Answer | ParseError:
    try:
        return reader(told)
    except ParseError as error:
        return error


LISTS: dict[str, list[Receivable]] = {
    "sim7080g-france": [
        Receivable("20810", "lte", "available", "F SFR"),
        Receivable("20820", "lte", "current", "F-Bouygues Telecom"),
    ],
    "huawei-e160g": [
        Receivable("31026", "gsm", "current", "T-Mobile"),
        Receivable("310410", "gsm", "available", "AT&T"),
    ],
    "huawei-e226-no-names": [
        Receivable("31026", "gsm", "available", None),
        Receivable("310410", "umts", "available", None),
        Receivable("310410", "gsm", "available", None),
    ],
    "sierra-ac881": [
        Receivable("31026", "gsm", "available", "T-Mobile"),
        Receivable("310410", "umts", "available", "AT&T"),
        Receivable("310410", "gsm", "available", "AT&T"),
    ],
    "nokia-n80-no-technology": [
        Receivable("31026", None, "current", "T - Mobile"),
        Receivable("31064", None, "available", "Einstein PCS"),
        Receivable("31041", None, "available", "Cingular"),
    ],
    "nokia-2720-two-lines": [
        Receivable("31026", "gsm", "current", "T - Mobile"),
        Receivable("310410", "gsm", "available", "AT&T"),
    ],
    "novatel-xu870-line-a-network": [
        Receivable("310410", "umts", "unknown", "AT&T MicroCell"),
        Receivable("310410", "gsm", "available", "AT&T MicroCell"),
        Receivable("31026", "gsm", "available", "T-Mobile"),
    ],
    "zte-mf627-comma-at-the-end": [
        Receivable("310410", "gsm", "current", "AT&T@"),
        Receivable("31026", "gsm", "forbidden", "Vstream Wireless"),
    ],
    "samsung-z810-comma-in-a-name": [
        Receivable("310260", "gsm", "available", "T-Mobile USA, In"),
        Receivable("310410", "gsm", "available", "AT&T"),
    ],
    "sony-ericsson-k600i-twice": [
        Receivable("26203", None, "current", "blau"),
        Receivable("26201", None, "forbidden", None),
        Receivable("26202", None, "forbidden", None),
        Receivable("26207", None, "forbidden", None),
    ],
}
UNREADABLE = {
    "ericsson-f3607gw-unreadable": "no network in '2",
    "option-quicksilver-unreadable": "not a numeric operator: '3104100'",
    "sim7080g-refused": "a scan without a list of networks",
}


@pytest.mark.parametrize("name", LISTS)
def test_a_captured_list_is_read_whole(name: str) -> None:
    assert receivable(captured(f"3gpp/operators/{name}.txt")) == LISTS[name]


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_list_that_cannot_be_read_whole_is_not_read(name: str) -> None:
    with pytest.raises(ParseError) as raised:
        receivable(captured(f"3gpp/operators/{name}.txt"))
    assert str(raised.value).startswith(UNREADABLE[name])


def test_every_capture_is_tested_and_has_a_source() -> None:
    sources = (AT / "SOURCES.md").read_text(encoding="utf-8")
    assert {path.stem for path in AT.glob("*/operators/*.txt")} == set(LISTS) | set(UNREADABLE)
    assert [path.name for path in AT.glob("*/*/*.txt") if path.name not in sources] == []


@pytest.mark.parametrize("reply", ["+COPS: ,,(0,1,2,3,4),(0,1,2)", "+COPS: ", "+COPS:", "+COPS: ,,(0-4),(0-2)"])
def test_an_empty_list_is_a_list(reply: str) -> None:
    assert receivable(["AT+COPS=?", reply, "OK"]) == []


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["OK"],  # nothing was said of the networks: no evidence
        ["+CREG: 2", "OK"],
        ["+COPS: (0,1,2,3,4),(0,1,2)"],
        ['+COPS: (2,"A","A","51010",7'],
        ['+COPS: (2,"A","A","51010",7)(1,"B","B","51011",7)'],
        ['+COPS: (2,"A","A","51010",7),x'],
        ['+COPS: (2,"A","A")'],
        ['+COPS: (2,"A","A","",7)'],
        ['+COPS: (2,"A","A","5101",7)'],
        ['+COPS: (2,"A","A","51010","LTE")'],
        ["+COPS: " + ",".join(['(2,"A","A","51010",7)'] * 800)],
    ],
)
def test_anything_else_is_a_parse_error(lines: list[str]) -> None:
    with pytest.raises(ParseError):
        receivable(lines)


@pytest.mark.parametrize(
    ("access", "rat"),
    list(
        enumerate(
            ["gsm", "gsm", "umts", "gsm", *["umts"] * 3, "lte", "gsm", "lte", "lte", "nr_sa", "nr_sa", "nr_nsa", None]
        )
    ),
)
def test_the_technology_is_that_of_the_standard(access: int, rat: str | None) -> None:
    assert [network.rat for network in receivable([f'+COPS: (1,"A","A","51010",{access})'])] == [rat]


def test_the_better_status_of_one_network_counts_and_an_unsolicited_line_does_not() -> None:
    lines = ['+COPS: (1,"A","A","51010",9),(2,"A","A","51010",7),(3,"A","A","51010",10)', "+CREG: 2", "OK"]
    assert receivable(lines) == [Receivable("51010", "lte", "current", "A")]


def test_fibocoms_extra_value_does_not_hide_the_technology() -> None:
    assert receivable(['+COPS: (2,"","EE","23430","609C",7)']) == [Receivable("23430", "lte", "current", "EE")]


VALUE = st.one_of(st.integers(-2, 20).map(str), st.text(max_size=6), st.sampled_from(['"51010"', '"A, b"', '"("', ""]))
GROUP = st.lists(VALUE, max_size=6).map(lambda values: f"({','.join(values)})")
LIST = st.lists(GROUP, max_size=5).map(lambda groups: f"+COPS: {','.join(groups)}")


@given(st.lists(st.one_of(LIST, st.text(), st.binary().map(lambda raw: raw.decode("latin-1"))), max_size=4))
def test_any_reply_is_a_list_or_a_parse_error_of_one_line(lines: list[str]) -> None:
    found = read(receivable, lines)
    if isinstance(found, ParseError):
        assert str(found).isprintable()
    else:
        assert len({(network.plmn, network.rat) for network in found}) == len(found)
        assert all(network.plmn.isdigit() and len(network.plmn) in {5, 6} for network in found)


NETWORKS = st.lists(
    st.builds(
        Receivable,
        st.from_regex(r"[0-9]{5,6}", fullmatch=True),
        st.sampled_from(["gsm", "umts", "lte", "nr_sa", "nr_nsa"]),
        st.sampled_from(["unknown", "available", "current", "forbidden"]),
        st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters='"'), min_size=1),
    ),
    max_size=8,
    unique_by=lambda network: (network.plmn, network.rat),
)
ACCESS = {"gsm": 0, "umts": 2, "lte": 7, "nr_sa": 11, "nr_nsa": 13}
STATUS = ("unknown", "available", "current", "forbidden")


@given(NETWORKS)
def test_a_generated_list_comes_back_as_it_was(networks: list[Receivable]) -> None:
    groups = [f'({STATUS.index(n.status)},"{n.name}","","{n.plmn}",{ACCESS[n.rat or ""]})' for n in networks]
    assert receivable([f"+COPS: {','.join(groups)},,(0-4),(0-2)"]) == networks


RM520N = [
    Neighbour(rat="lte", relation="intra", earfcn=275, pci=34, rsrq_db=-20, rsrp_dbm=-105, rssi_dbm=-76),
    Neighbour(rat="lte", relation="intra", earfcn=275, pci=46, rsrq_db=-20, rsrp_dbm=-106, rssi_dbm=-75),
    Neighbour(rat="lte", relation="inter", earfcn=1350, pci=240, rsrq_db=-18, rsrp_dbm=-95, rssi_dbm=-68),
    Neighbour(rat="lte", relation="inter", earfcn=1350, pci=427, rsrq_db=-14, rsrp_dbm=-94, rssi_dbm=-69),
    Neighbour(rat="lte", relation="inter", earfcn=1350, pci=465, rsrq_db=-17, rsrp_dbm=-94, rssi_dbm=-68),
    Neighbour(rat="lte", relation="inter", earfcn=1350, pci=157, rsrq_db=-17, rsrp_dbm=-95, rssi_dbm=-68),
    Neighbour(rat="lte", relation="inter", earfcn=1350, pci=47, rsrq_db=-18, rsrp_dbm=-96, rssi_dbm=-69),
]


class Scripted:
    """A port that answers from a table; None is a command that is never answered."""

    def __init__(self, replies: dict[str, list[str] | None]) -> None:
        self.replies = replies
        self.asked: list[tuple[str, float]] = []
        self.session = 1

    def open(self) -> int:
        return 0

    def exchange(self, command: str, timeout_s: float) -> list[str]:
        self.asked.append((command, timeout_s))
        reply = self.replies.get(command, ["OK"])
        if reply is None:
            raise ModemUnavailable("silent")
        return reply


def test_the_serving_cell_is_no_neighbour_of_itself() -> None:
    port = Scripted(
        {
            SERVING: captured("quectel/neighbours/rm520n-gl-serving.txt"),
            CELLS: captured("quectel/neighbours/rm520n-gl.txt"),
        }
    )
    assert AtModem(port, QUECTEL).neighbours() == RM520N
    port.replies[SERVING] = ["ERROR"]
    assert AtModem(port, QUECTEL).neighbours() == [
        Neighbour(rat="lte", relation="intra", earfcn=275, pci=280, rsrq_db=-14, rsrp_dbm=-99, rssi_dbm=-67),
        *RM520N,
    ]


def test_a_channel_without_a_cell_and_another_technology_are_no_neighbours() -> None:
    modem = AtModem(Scripted({CELLS: [*captured("quectel/neighbours/eg25-g.txt"), "OK"]}), QUECTEL)
    assert modem.neighbours() == [
        Neighbour(rat="lte", relation="intra", earfcn=6300, pci=188, rsrq_db=-12, rsrp_dbm=-105, rssi_dbm=-75)
    ]
    assert modem.unreadable == 0


def test_a_value_outside_its_range_is_unknown_and_an_unreadable_line_is_counted() -> None:
    lines = ['+QENG: "neighbourcell intra","LTE",6300,188,-12,-32768,1,0', '+QENG: "neighbourcell intra","LTE",1', "OK"]
    modem = AtModem(Scripted({CELLS: lines}), QUECTEL)
    assert modem.neighbours() == [Neighbour(rat="lte", relation="intra", earfcn=6300, pci=188, rsrq_db=-12)]
    assert modem.unreadable == 1


def test_no_neighbour_is_told_apart_from_no_command_a_refusal_and_no_answer() -> None:
    assert AtModem(Scripted({}), QUECTEL).neighbours() == []
    assert AtModem(Scripted({}), DIALECTS["3gpp"]).neighbours() is None
    with pytest.raises(ModemRefused, match=r"\+CME ERROR: 50"):
        AtModem(Scripted({CELLS: ["+CME ERROR: 50"]}), QUECTEL).neighbours()
    with pytest.raises(ModemUnavailable, match="no reply to"):
        AtModem(Scripted({CELLS: None}), QUECTEL).neighbours()
    with pytest.raises(ModemUnavailable, match="silent"):
        AtModem(Scripted({CELLS: None, SERVING: None}), QUECTEL).neighbours()


def test_a_scan_may_take_its_time_and_is_refused_unreadable_or_unanswered() -> None:
    port = Scripted({SCAN: ["+COPS: ,,(0-4),(0-2)", "OK"]})
    assert AtModem(port, QUECTEL, monotonic=lambda: 0).scan(170.0) == []
    assert port.asked[-1] == (SCAN, 170.0)
    with pytest.raises(ModemRefused, match="ERROR"):
        AtModem(Scripted({SCAN: captured("3gpp/operators/sim7080g-refused.txt")}), QUECTEL).scan()
    with pytest.raises(ParseError):
        AtModem(Scripted({SCAN: ["OK"]}), QUECTEL).scan()
    with pytest.raises(ModemUnavailable):
        AtModem(Scripted({SCAN: None}), QUECTEL).scan()


HEAD = st.sampled_from(
    ['+QENG: "neighbourcell intra","LTE",', '+QENG: "neighbourcell inter","LTE",', '+QENG: "neighbourcell",', ""]
)
LINE = st.builds(
    lambda head, tokens: head + ",".join(tokens),
    HEAD,
    st.lists(st.one_of(st.integers(-40_000, 300_000).map(str), st.sampled_from(["-", ""]), st.text(max_size=3))),
)


@given(st.one_of(LINE, st.text()))
def test_any_line_is_a_cell_within_its_ranges_none_or_a_parse_error(line: str) -> None:
    cell = read(quectel_neighbour, line)
    if isinstance(cell, ParseError):
        assert str(cell).isprintable()
    elif cell is not None:
        for name in ("earfcn", "pci", "rsrp_dbm", "rsrq_db", "rssi_dbm"):
            value = getattr(cell, name)
            assert value is None or LTE[name][0] <= value <= LTE[name][1]
