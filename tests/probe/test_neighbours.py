"""Neighbour cells as rows: each cell once, and three outcomes told apart."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from banua_probe.config import Modem
from banua_probe.modem.at_modem import AtModem
from banua_probe.modem.dialects import DIALECTS, DialectName
from banua_probe.modem.errors import ModemUnavailable
from banua_probe.modem.neighbour import Neighbour
from banua_probe.sensors.modems import SharedModem
from banua_probe.sensors.neighbours import look_around, neighbour_rows
from banua_wire.rows import Row, checked

CELLS = 'AT+QENG="neighbourcell"'
NEAR = Neighbour(rat="lte", relation="intra", earfcn=1850, pci=84, rsrp_dbm=-114, rsrq_db=-17, rssi_dbm=-85)
FAR = Neighbour(rat="lte", relation="inter", earfcn=3500, pci=84)


def values(rows: list[Row]) -> list[dict[str, Any]]:
    return [checked(row).values for row in rows]


def test_a_row_for_each_cell_and_the_summary() -> None:
    rows = neighbour_rows("m1", 5, [NEAR, FAR], simulated=True)
    assert [(row.kind, row.boottime_ms) for row in rows] == [("neighbours", 5)] * 3
    assert values(rows) == [
        {"modem": "m1", "earfcn": 1850, "pci": 84, "outcome": "measured", "rat": "lte", "relation": "intra"}
        | {"rsrp_dbm": -114, "rsrq_db": -17, "rssi_dbm": -85, "simulated": 1},
        {"modem": "m1", "earfcn": 3500, "pci": 84, "outcome": "measured", "rat": "lte", "relation": "inter"}
        | {"simulated": 1},
        {"modem": "m1", "outcome": "measured", "count": 2, "simulated": 1},
    ]


def test_a_cell_that_stands_twice_is_one_row() -> None:
    again = Neighbour(rat="lte", relation="inter", earfcn=1850, pci=84)
    rows = values(neighbour_rows("m1", 5, [NEAR, FAR, again]))
    assert [(row.get("earfcn"), row.get("relation")) for row in rows] == [
        (1850, "intra"), (3500, "inter"), (None, None),
    ]  # fmt: skip
    assert rows[-1]["count"] == 2


class Scripted:
    """A port that answers one command with `reply`, None for no answer, and all others with OK."""

    session = 1

    def __init__(self, reply: list[str] | None) -> None:
        self._reply = reply

    def open(self) -> int:
        return 0

    def exchange(self, command: str, timeout_s: float) -> list[str]:
        assert timeout_s > 0
        reply = self._reply if command == CELLS else ["OK"]
        if reply is None:
            raise ModemUnavailable("silent")
        return reply


def looked(reply: list[str] | None, dialect: DialectName = "quectel") -> list[dict[str, Any]]:
    settings = Modem(name="m1", device="/dev/null", dialect=dialect)
    modem = SharedModem(AtModem(Scripted(reply), DIALECTS[dialect]))
    return values(look_around(settings, modem, lambda: 7))


def test_the_outcomes_are_told_apart() -> None:
    assert looked(["OK"]) == [{"modem": "m1", "outcome": "measured", "count": 0}]
    assert looked(["ERROR"]) == [{"modem": "m1", "outcome": "failed", "reason": "refused by the modem: ERROR"}]
    assert looked(None) == [
        {"modem": "m1", "outcome": "failed", "reason": 'no answer: no reply to AT+QENG="neighbourcell"'}
    ]
    assert looked(["OK"], "simcom") == [
        {"modem": "m1", "outcome": "not_measured", "reason": "dialect simcom has no command for it"}
    ]
    assert [row.get("pci") for row in looked(['+QENG: "neighbourcell intra","LTE",1850,84,-17,-114,-85', "OK"])] == [
        84, None,
    ]  # fmt: skip


LEVEL = st.none() | st.integers(-40_000, 40_000)


@given(
    st.lists(
        st.builds(
            Neighbour,
            rat=st.just("lte"),
            relation=st.sampled_from(["intra", "inter"]),
            earfcn=st.integers(0, 262_143),
            pci=st.integers(0, 503),
            rsrp_dbm=LEVEL,
            rsrq_db=LEVEL,
            rssi_dbm=LEVEL,
        ),
        max_size=20,
    )
)
def test_every_row_is_within_the_dictionary_and_of_its_own_key(cells: list[Neighbour]) -> None:
    rows = neighbour_rows("m1", 0, cells)
    assert len({checked(row).key for row in rows}) == len(rows)
