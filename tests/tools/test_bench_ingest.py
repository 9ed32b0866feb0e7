"""The benches of the collector: what they send is what a fleet sends, what they tell has its goals."""

from __future__ import annotations

import argparse
from itertools import pairwise
from typing import cast

import pytest

from banua_lab.bench import ingest, peers
from banua_lab.bench.figures import Figure
from banua_lab.bench.fleet import batches, fleet
from banua_lab.bench.peers import Cost
from banua_lab.bench.servers import Memory, Server
from banua_wire.batch import open_rows, verifies
from banua_wire.envelope import unpack
from banua_wire.signature import public_of

BEGAN_MS = 1_795_305_600_000


def missed(figures: list[Figure]) -> list[str]:
    return [figure.name for figure in figures if not figure.met]


def test_a_fleet_takes_turns_and_signs_rows_with_an_anchor() -> None:
    probes = fleet(3)
    made = batches(probes, 7, 10, BEGAN_MS)
    assert [(unpack(batch.message)[0].probe, unpack(batch.message)[0].seq) for batch in made] == [
        (f"bench-{number % 3:04}", 1 + number // 3) for number in range(7)
    ]
    for number, batch in enumerate(made):
        assert verifies(public_of(probes[number % 3].secret), batch.message)
        assert [row.kind for row in open_rows(batch.message)] == ["radio"] * 10 + ["clock"]
        assert batch.topic == f"banua/v1/{probes[number % 3].name}/batch"


def test_the_batches_of_a_probe_go_on_in_time() -> None:
    spans = [[row.boottime_ms for row in open_rows(batch.message)] for batch in batches(fleet(1), 3, 60, BEGAN_MS)]
    assert all(before[-1] < after[0] for before, after in pairwise(spans))


def test_telegraf_gets_every_row_with_its_tags_and_every_number_a_float() -> None:
    probes = fleet(2)
    [first, *others] = peers.lines(probes, batches(probes, 2, 10, BEGAN_MS))
    assert len(others) == 19
    series, fields, time_ns = first.split(" ")
    assert series == (
        "radio,district=63.01.01,modem=m1,place=titik-bench-0000,probe=bench-0000,regency=63.01,village=63.01.01.2001"
    )
    assert 'state="registered",' in fields
    assert "polls=6.0," in fields
    assert "modem" not in fields
    assert int(time_ns) // 1_000_000 > BEGAN_MS


def measured(cpu_us: float, *, seconds: float = 1, rss_mb: tuple[float, ...] = (90, 100, 100, 100)) -> ingest.Measured:
    return ingest.Measured(60_000, 1000, cpu_us * 0.06, 0.0, 0.0, seconds, seconds, list(rss_mb))


def test_the_goals_of_ingest_are_of_its_batch_size() -> None:
    assert missed(ingest.figures(measured(13), 60)) == ["CPU a row"]
    assert missed(ingest.figures(measured(13), 10)) == []
    assert missed(ingest.figures(measured(11, rss_mb=(90, 100, 100, 106)), 60)) == ["memory, last quarter to second"]


def test_a_backlog_that_was_sent_in_part_stands_for_a_day() -> None:
    told = {figure.name: figure.value for figure in ingest.backlog_figures(measured(11, seconds=2))}
    assert told["a day of 2,016 probes journalled"] == pytest.approx(48.384 * 2)
    assert missed(ingest.backlog_figures(measured(11, seconds=3))) == ["a day of 2,016 probes journalled"]


def test_the_goals_beside_telegraf_are_by_its_one_line_a_message() -> None:
    theirs = {1: Cost(36, 30, 80, 9000), 60: Cost(18, 30, 80, 9000)}
    mine = {60: Cost(12.1, 30, 80, 9000), 10: Cost(35, 30, 80, 9000)}
    assert missed(peers.figures(theirs, mine)) == ["ours, 60 a batch, to Telegraf, 1 a message"]


def test_memory_is_the_most_of_each_quarter() -> None:
    memory = Memory(cast("Server", None))
    memory._samples = [1, 2, 3, 9, 4, 4, 8, 5]
    assert memory.quarters() == [2, 9, 4, 8]
    memory._samples = [7]
    assert memory.quarters() == [7, 7, 7, 7]


@pytest.mark.real
def test_ingest_finds_every_row_in_influxdb() -> None:
    parser = argparse.ArgumentParser()
    ingest.add_arguments(parser)
    told = ingest.run(parser.parse_args(["--batches", "12", "--probes", "5", "--rows-a-batch", "10"]))
    assert next(figure.value for figure in told if figure.name == "rows") == 120
