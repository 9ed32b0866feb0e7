"""Rows to line protocol: names, tags, escapes, and never two rows at one point."""

import re

import pytest

from banua_collector.dating import Dated
from banua_collector.project.points import Candidate, Speaker, candidates_of, points
from banua_collector.registry import Deployment, Place, Village
from banua_wire.codec import Block
from banua_wire.fields import BY_KIND
from banua_wire.rows import Row
from tests.collector.fleet import NOW_MS, path, radio

_NS = NOW_MS * 1_000_000
_ALONE = Speaker("p1", simulated=False, deployments=())
_VILLAGE = Village(
    "63.01.01.2002", "Tabanio", "63.01.01", "Takisung", "63.01", "Kabupaten Tanah Laut", -3.7, 114.6, "test"
)


def _candidate(
    row: Row, unix_ms: int = NOW_MS, *, batch_id: int = 1, digest: bytes = b"h", boot: bytes = b"b"
) -> Candidate:
    block = Block(BY_KIND[row.kind], [row.boottime_ms], {name: [value] for name, value in row.values.items()})
    (made,) = candidates_of(block, [Dated(unix_ms, 20)], batch_id, digest, boot)
    return made


def _series(row: Row, speaker: Speaker, unix_ms: int = 1) -> str:
    (point,) = points([_candidate(row, unix_ms)], speaker)[0]
    return re.split(r"(?<!\\) ", point.line)[0]


def _lines(*candidates: Candidate, speaker: Speaker = _ALONE) -> list[str]:
    return [point.line for point in points(candidates, speaker)[0]]


def _stood(place: str, from_ms: int, to_ms: int | None) -> Deployment:
    return Deployment(
        1, 1, "p1", Place(1, place, place, None, None, _VILLAGE), from_ms, to_ms, None, None, None, "online"
    )


def test_a_row_is_one_line_of_tags_and_floats() -> None:
    assert _lines(_candidate(radio(5))) == [
        (
            "radio,modem=m1,probe=p1 "
            'plmn="51010",polls=6.0,polls_registered=6.0,rat="lte",rsrp_dbm=-95.5,rsrq_db=-11.0,state="registered",'
            f"time_error_ms=20.0 {_NS}"
        )
    ]


def test_texts_and_tags_are_escaped() -> None:
    row = Row("radio", 5, {"modem": r"a b,c=d\e", "state": r'say "no" \ 1,2=3'})
    assert _lines(_candidate(row)) == [
        (
            r"radio,modem=a\ b\,c\=d/e,probe=p1 "
            rf'state="say \"no\" \\ 1,2=3",time_error_ms=20.0 {_NS}'
        )
    ]


def test_an_absent_tag_is_not_there() -> None:
    assert _series(Row("path", 1, {"target": "t", "method": "tcp"}), _ALONE) == "path,method=tcp,probe=p1,target=t"


def test_two_modems_in_one_minute_are_two_series() -> None:
    made = _lines(_candidate(radio(5)), _candidate(radio(5, modem="m2")))
    assert [(line.split(" ")[0], line.split(" ")[-1]) for line in made] == [
        ("radio,modem=m1,probe=p1", str(_NS)),
        ("radio,modem=m2,probe=p1", str(_NS)),
    ]


def test_rows_that_fall_on_one_millisecond_stand_a_nanosecond_apart_in_order_of_boot() -> None:
    late, early, other = radio(6, rsrp_dbm=-60), radio(5, rsrp_dbm=-50), radio(1, rsrp_dbm=-70)
    given = [_candidate(other, boot=b"c"), _candidate(late), _candidate(early)]
    for order in (given, given[::-1]):
        made = [(re.findall(r"rsrp_dbm=([-.\d]+)", line)[0], int(line.split(" ")[-1])) for line in _lines(*order)]
        assert made == [("-50.0", _NS), ("-60.0", _NS + 1), ("-70.0", _NS + 2)]


def test_of_differing_twins_the_smaller_hash_counts_and_both_are_told() -> None:
    first = _candidate(radio(5, rsrp_dbm=-50), batch_id=1, digest=b"z")
    second = _candidate(radio(5, rsrp_dbm=-60), batch_id=2, digest=b"a")
    for order in ((first, second), (second, first)):
        made, twins = points(order, _ALONE)
        assert [(point.batch_id, "rsrp_dbm=-60.0" in point.line) for point in made] == [(2, True)]
        assert [(pair.counted, pair.dropped) for pair in twins] == [(second, first)]


def test_equal_twins_count_once_without_a_word() -> None:
    made, twins = points([_candidate(radio(5), digest=b"z"), _candidate(radio(5), batch_id=2, digest=b"a")], _ALONE)
    assert ([point.batch_id for point in made], twins) == ([2], [])


@pytest.mark.parametrize(
    ("unix_ms", "place"), [(NOW_MS - 1, None), (NOW_MS, "one"), (NOW_MS + 9, "one"), (NOW_MS + 10, "two")]
)
def test_the_deployment_of_that_time_names_place_village_district_and_regency(unix_ms: int, place: str | None) -> None:
    stood = (_stood("one", NOW_MS, NOW_MS + 10), _stood("two", NOW_MS + 10, None))
    series = _series(radio(5), Speaker("p1", simulated=False, deployments=stood), unix_ms)
    tags = "" if place is None else f"place={place},"
    where = "" if place is None else ",regency=63.01,village=63.01.01.2002"
    district = "" if place is None else "district=63.01.01,"
    assert series == f"radio,{district}modem=m1,{tags}probe=p1{where}"


def test_what_is_simulated_says_so_by_probe_or_by_row() -> None:
    simulated = Speaker("p1", simulated=True, deployments=())
    assert _series(radio(5), simulated) == "radio,modem=m1,probe=p1,simulated=true"
    assert _series(radio(5, simulated=1), _ALONE) == "radio,modem=m1,probe=p1,simulated=true"
    assert "simulated=1" not in _lines(_candidate(radio(5, simulated=1)))[0]


def test_an_array_becomes_derived_figures_and_a_lost_percentile_is_absent() -> None:
    (line,) = _lines(_candidate(path(5, [10_000, None])))
    fields = dict(field.split("=") for field in line.split(" ")[1].split(","))
    bounds = [round(float(fields.pop(name)), 4) for name in ("loss_low", "loss_high")]
    assert bounds == [0.0945, 0.9055]
    assert fields == {
        "outcome": '"measured"',
        "sent": "2.0",
        "received": "1.0",
        "loss": "0.5",
        "rtt_p50_ms": "10.0",
        "p80_lost": "1.0",
        "p95_lost": "1.0",
        "rtt_min_ms": "10.0",
        "rtt_mean_ms": "10.0",
        "pdv_p95_ms": "0.0",
        "time_error_ms": "20.0",
    }
