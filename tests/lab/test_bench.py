"""The pure parts of the benches; what they measure is never asserted here."""

from __future__ import annotations

import itertools
import json
import math
import os
from pathlib import Path

import pytest

from banua_lab import cli
from banua_lab.bench import BENCHES, outbox, probe, wire
from banua_lab.bench.day import Senses
from banua_lab.bench.figures import Figure, exit_status, table, tell
from banua_lab.bench.outbox import Collector
from banua_lab.bench.probe import Usage
from banua_lab.bench.radio import RADIO_FIELDS, radio_rows
from banua_probe.uplink import Incoming
from banua_wire import batch, codec, receipt
from banua_wire.birth import State, encode
from banua_wire.envelope import Envelope
from banua_wire.fields import BY_KIND, SCHEMA
from banua_wire.rows import Row, checked
from banua_wire.topics import topic

GOOD = Figure("memory", 31.25, "MB", 40)
BAD = Figure("CPU", 1.5, "%", 1)
SLOW = Figure("rows", 9.0, "/s", 10, at_most=False)


@pytest.mark.parametrize(
    ("figure", "met"),
    [
        (Figure("f", 40, "MB", 40), True),
        (Figure("f", 40.01, "MB", 40), False),
        (Figure("f", 10, "/s", 10, at_most=False), True),
        (Figure("f", 9, "/s", 10, at_most=False), False),
        (Figure("f", math.nan, "MB", 40), False),
        (Figure("f", math.nan, "MB"), True),
    ],
)
def test_a_goal_is_met_at_its_limit_and_never_by_what_is_no_number(figure: Figure, met: bool) -> None:
    assert figure.met == met


def test_the_table_has_the_command_and_every_goal() -> None:
    assert table("banua-lab bench x", [GOOD, BAD, Figure("rows", 4824, "")]).splitlines() == [
        "$ banua-lab bench x",
        "memory  31.25 MB  goal ≤ 40 MB: met",
        "CPU        1.5 %  goal ≤ 1 %: missed",
        "rows       4824 ",
    ]


def test_a_miss_is_not_rounded_to_its_goal() -> None:
    assert Figure("f", 40.0004, "MB", 40).value_text == "40.0004 MB"


def test_the_exit_status_names_every_missed_goal_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status([GOOD]) == 0
    assert capsys.readouterr().err == ""
    assert exit_status([GOOD, BAD, SLOW]) == 2
    assert capsys.readouterr().err == "missed: CPU 1.5 %, goal ≤ 1 %; rows 9 /s, goal ≥ 10 /s\n"


def test_json_is_one_object_with_the_command_and_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell("banua-lab bench x --json", [GOOD], as_object=True) == 0
    assert json.loads(capsys.readouterr().out) == {
        "command": "banua-lab bench x --json",
        "figures": [{"name": "memory", "value": 31.25, "unit": "MB", "goal": 40, "at_most": True, "met": True}],
    }


def test_the_command_prints_itself_and_its_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wire, "run", lambda _: [BAD])
    assert cli.main(["bench", "wire", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["command"] == "banua-lab bench wire --json"


def test_help_names_every_bench(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["bench", "--help"])
    told = capsys.readouterr().out
    assert all(f"{name} " in told and about in told for name, about in BENCHES.items())


# --- rows -------------------------------------------------------------------------------------------------------------


def test_the_record_has_27_fields_and_its_keys() -> None:
    assert len(RADIO_FIELDS) == 27
    assert set(BY_KIND["radio"].key) <= set(RADIO_FIELDS)


def test_one_seed_makes_one_sequence_that_the_dictionary_allows() -> None:
    rows = list(itertools.islice(radio_rows(7, longest_run=4), 600))
    assert rows == list(itertools.islice(radio_rows(7, longest_run=4), 600))
    assert rows != list(itertools.islice(radio_rows(8, longest_run=4), 600))
    assert [checked(row) for row in rows] == rows
    assert {name for row in rows for name in row.values} == set(RADIO_FIELDS)


@pytest.mark.parametrize("longest", [4, 59])
def test_no_field_of_the_records_keeps_its_value_for_longer_than_told(longest: int) -> None:
    rows = list(itertools.islice(radio_rows(7, longest_run=longest), 600))
    for start in range(len(rows) - longest):
        some = [row.values for row in rows[start : start + longest + 1]]
        assert [name for name in RADIO_FIELDS if len({values.get(name) for values in some}) == 1] == []


def test_values_are_absent_now_and_then() -> None:
    rows = list(itertools.islice(radio_rows(7), 600))
    assert 0 < sum("rsrp_dbm" not in row.values for row in rows) < 60


def test_a_day_has_every_sensor_at_its_rate() -> None:
    senses = Senses(1, 0)
    rows = [row for now_ms in range(0, 86_400_000, 1000) for row in senses.rows(now_ms)]
    counts = {kind: sum(row.kind == kind for row in rows) for kind in {row.kind for row in rows}}
    assert counts == {"radio": 2880, "board": 288, "neighbours": 288 * 4, "path": 288, "dns": 192, "web": 24}
    assert [checked(row) for row in rows] == rows
    states = [row.values["state"] for row in rows if row.kind == "radio" and row.values["modem"] == "m2"]
    assert sum(one != other for one, other in itertools.pairwise(states)) == 23


# --- the benches ------------------------------------------------------------------------------------------------------


def test_batches_are_whole_and_sizes_are_averages_a_record() -> None:
    rows = list(itertools.islice(radio_rows(7, longest_run=4), 11))
    groups = wire.batches(rows, 5)
    assert groups == [rows[:5], rows[5:10]]
    told = wire.sizes(groups)
    assert told.body == sum(len(codec.encode(group)) for group in groups) / 10
    assert (told.envelope, told.json > told.json_zlib > told.body) == (4 + 1 + 1 + 11 + 8 + 4 + 16 + 2 + 1 + 4, True)


def test_what_was_counted_in_half_an_hour_is_scaled_to_a_day() -> None:
    counted = {"write_bytes": 100_000, "wchar": 50_000, "batches": 6, "batch_bytes": 6000, "rows": 100}
    told = {figure.name: figure.value for figure in outbox.figures(counted, 30)}
    assert told["written to the disk (write_bytes)"] == pytest.approx(4.8)
    assert told["batches"] == 288


def test_a_folder_in_memory_is_told_from_one_on_a_disk(tmp_path: Path) -> None:
    device = tmp_path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        f"22 1 0:999999 / /proc rw - proc proc rw\n23 1 {number} / / rw,noatime shared:1 - tmpfs none rw\n"
    )
    assert outbox.file_system(tmp_path, mounts) == "tmpfs"
    mounts.write_text("22 1 0:999999 / /proc rw - proc proc rw\n")
    assert outbox.file_system(tmp_path, mounts) == "unknown"


def test_the_outbox_bench_refuses_memory(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(outbox, "file_system", lambda _: "tmpfs")
    assert cli.main(["bench", "outbox"]) == 1
    assert capsys.readouterr().err == "banua-lab: --folder .: tmpfs is memory; name a folder on a disk\n"


def test_the_stand_in_collector_receipts_batches_and_answers_asks() -> None:
    collector = Collector(lambda: 5)
    row = Row("board", 1, {"uptime_s": 1})
    message = batch.seal(bytes(range(32)), Envelope("kalsel-0001", b"streamid", 1, bytes(16), SCHEMA), [row])
    collector.publish(topic("kalsel-0001", "batch"), message)
    state = State(online=True, boot_id=bytes(16), stream=b"streamid", ask=9, next_seq=2, waiting=0, version="1")
    collector.publish(topic("kalsel-0001", "state"), encode(state))
    told = [receipt.decode(event.payload) for event in collector.events if isinstance(event, Incoming)]
    assert [(each.ask, each.got, each.stored_to) for each in told] == [
        (0, [(1, batch.digest(message)[:8])], 1),
        (9, [], 1),
    ]
    assert (collector.batches, collector.batch_bytes) == (1, len(message))


def test_memory_and_cpu_are_read_as_the_kernel_writes_them() -> None:
    assert probe.memory_mb("Name:\tx\nVmHWM:\t   40000 kB\nVmRSS:\t   30000 kB\n") == (30.72, 40.96)
    assert Usage(0.2, 0.6, 120, 30, 31).cpu_pct == pytest.approx(0.5)
    assert probe.cpu_s(1) >= 0


def test_each_figure_of_the_probe_is_from_its_run() -> None:
    brisk, usual = Usage(0.3, 4, 40, 36, 37), Usage(0.2, 0.6, 120, 30, 31)
    assert [figure.value for figure in probe.figures(brisk, usual)] == pytest.approx([36, 37, 30, 31, 0.5, 0.2, 10])
