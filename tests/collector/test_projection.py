"""The projection against a target in memory: whatever happens on the way, each row ends up once, where it belongs."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, select

from banua_collector import db, journal, registry
from banua_collector.config import Limits
from banua_collector.ingest import Ingest
from banua_collector.metrics import Metrics
from banua_collector.opened import Opened
from banua_collector.project import influx
from banua_collector.project.influx import InfluxProjection, backlog
from banua_collector.project.target import Refusal, TargetUnavailableError
from banua_collector.registry import Affected
from banua_collector.tables import boots, events, refused, todo, written
from banua_wire import batch
from banua_wire.batch import open_blocks
from banua_wire.rows import Row
from tests.collector.fleet import NOW_MS, radio
from tests.collector.memory import MemoryTarget
from tests.collector.speech import A, B, anchor, message, register, take

_VILLAGE = "63.01.01.2002"
_HOUR = 3_600_000
_NS = 1_000_000


class Chain:
    """A journal with p1 and two places, and the projection of it to a target in memory."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.target: MemoryTarget = MemoryTarget()
        self.projection = InfluxProjection(engine, self.target, lambda: NOW_MS)

    def take(self, seq: int, rows: Sequence[Row], boot: bytes = A) -> None:
        with self.engine.begin() as conn:
            take(conn, message(seq, rows, boot=boot))

    def deploy(self, place: str, from_ms: int, to_ms: int | None = None) -> None:
        with self.engine.begin() as conn:
            journal.mark_range(conn, registry.deploy(conn, "p1", place, from_ms, to_ms)[1], NOW_MS)

    def correct(self, number: int, **changes: Any) -> None:
        with self.engine.begin() as conn:
            journal.mark_range(conn, registry.correct_deployment(conn, number, **changes), NOW_MS)

    def project(self) -> dict[tuple[str, int], str]:
        """Project until nothing is due, trying again after each refusal."""
        while True:
            try:
                self.projection.project_plain()
                if self.projection.step() is None:
                    return self.target.points
            except TargetUnavailableError:
                continue

    def times(self, kind: str = "radio") -> list[int]:
        """Project, and return the ms at which a row of `kind` stands."""
        return sorted(ns // _NS for series, ns in self.project() if series.startswith(f"{kind},"))

    def places(self) -> list[tuple[int, str]]:
        """Project, and return each radio row's ms and place."""
        tags = [(ns // _NS, dict(tag.split("=") for tag in series.split(",")[1:])) for series, ns in self.project()]
        return sorted((ms, tag.get("place", "-")) for ms, tag in tags if "modem" in tag)


def _prepare(engine: Engine) -> None:
    with engine.begin() as conn:
        registry.load_villages(conn)
        registry.add_place(conn, _VILLAGE, "one", "Balai desa")
        registry.add_place(conn, _VILLAGE, "two", "Masjid")
        register(conn)


@pytest.fixture
def chain(engine: Engine) -> Chain:
    _prepare(engine)
    return Chain(engine)


def test_a_row_is_written_once_it_is_dated_and_a_late_anchor_moves_it(chain: Chain) -> None:
    chain.take(1, [radio(1000)])
    assert chain.times() == []
    chain.take(2, [anchor(11_000, NOW_MS + 10_000, error_ms=1500)])
    assert chain.times() == [NOW_MS]
    chain.take(3, [anchor(1000, NOW_MS + 700, error_ms=5)])
    assert chain.times() == [NOW_MS + 700]
    assert chain.times("clock") == [NOW_MS + 700, NOW_MS + 10_700], "the worse anchor is dated by the better one"


def test_a_badly_dated_row_waits_until_its_boot_is_over(chain: Chain) -> None:
    chain.take(1, [radio(1000), anchor(1000, NOW_MS, error_ms=2001)])
    assert chain.project() == {}
    chain.take(2, [radio(1)], boot=B)
    assert chain.times() == [NOW_MS]
    assert all("time_error_ms=2001.0" in fields for fields in chain.target.points.values())


def test_an_undated_row_is_written_by_no_means(chain: Chain) -> None:
    chain.take(1, [radio(1000)])
    chain.take(2, [radio(1)], boot=B)
    assert chain.project() == {}
    assert not chain.target.calls


def test_a_corrected_deployment_moves_rows_to_their_place(chain: Chain) -> None:
    chain.deploy("one", NOW_MS)
    chain.take(1, [anchor(0, NOW_MS), radio(10), radio(20)])
    assert chain.places() == [(NOW_MS + 10, "one"), (NOW_MS + 20, "one")]
    chain.correct(1, to_ms=NOW_MS + 20)
    assert chain.places() == [(NOW_MS + 10, "one"), (NOW_MS + 20, "-")]
    chain.deploy("two", NOW_MS + 20)
    assert chain.places() == [(NOW_MS + 10, "one"), (NOW_MS + 20, "two")]
    chain.correct(1, place="two")
    assert chain.places() == [(NOW_MS + 10, "two"), (NOW_MS + 20, "two")]


def test_a_held_boot_is_taken_out_and_a_released_one_put_back(chain: Chain) -> None:
    chain.take(1, [anchor(0, NOW_MS), radio(_HOUR)])
    assert chain.times() == [NOW_MS + _HOUR]
    chain.take(2, [anchor(0, NOW_MS), radio(_HOUR, rsrp_dbm=-60)], boot=B)
    assert chain.project() == {}
    with chain.engine.begin() as conn:
        journal.assign_boot(conn, 1, B, "released", NOW_MS)
        journal.assign_boot(conn, 1, A, "dropped", NOW_MS)
    assert chain.times() == [NOW_MS + _HOUR]
    assert any("rsrp_dbm=-60.0" in fields for fields in chain.target.points.values())


def test_what_shares_the_time_of_a_moved_row_is_not_lost(chain: Chain) -> None:
    chain.take(1, [anchor(0, NOW_MS), radio(0), radio(10_000)])
    chain.take(2, [radio(5_000), radio(20_000)])
    assert chain.times() == [NOW_MS + ms for ms in (0, 5_000, 10_000, 20_000)]
    # the new anchor re-dates batch 1 only in its second row, but batch 2's time is within what is deleted
    chain.take(3, [anchor(10_000, NOW_MS + 10_003)])
    assert chain.times()[0] == NOW_MS
    assert len(chain.times()) == 4
    assert chain.times()[2:] == [NOW_MS + 10_003, NOW_MS + 20_003]


def test_of_differing_twins_one_stands_whichever_came_first_and_an_event_tells(chain: Chain) -> None:
    chain.take(1, [anchor(0, NOW_MS), radio(5, rsrp_dbm=-50)])
    chain.project()
    chain.take(2, [radio(5, rsrp_dbm=-60)])
    first = dict(chain.project())
    assert chain.times() == [NOW_MS + 5]
    with db.reading(chain.engine) as conn:
        assert [row.name for row in conn.execute(select(events))] == ["twin_rows"]
    with chain.engine.begin() as conn:
        journal.restored(conn, NOW_MS)
    assert chain.project() == first
    with db.reading(chain.engine) as conn:
        assert len(conn.execute(select(events)).all()) == 1


def test_what_stands_between_the_rows_of_a_batch_that_loses_one_is_kept(chain: Chain) -> None:
    first = [anchor(0, NOW_MS), radio(5), radio(100_000)]
    chain.take(1, first)
    chain.take(2, [radio(50_000)])
    chain.project()
    smaller = next(
        twin
        for twin in ([radio(5, rsrp_dbm=dbm)] for dbm in range(-90, -50))
        if batch.digest(message(3, twin).payload) < batch.digest(message(1, first).payload)
    )
    chain.take(3, smaller)
    assert chain.times() == [NOW_MS + 5, NOW_MS + 50_000, NOW_MS + 100_000]


@pytest.mark.parametrize("answers", [["refused"], ["lost"], ["ok", "refused"], ["ok", "lost"], ["lost", "lost"]])
def test_a_crash_anywhere_is_made_good(chain: Chain, answers: list[str]) -> None:
    chain.take(1, [anchor(0, NOW_MS), radio(10), radio(20)])
    chain.take(2, [radio(15), radio(30)])
    chain.project()
    chain.deploy("one", NOW_MS)
    chain.target.answers = answers
    assert chain.places() == [(NOW_MS + ms, "one") for ms in (10, 15, 20, 30)]
    assert chain.target.calls[-1] == "write"
    assert len(chain.target.points) == 5


@pytest.mark.parametrize("written_before", [False, True])
def test_what_changes_between_a_crash_and_its_repair_leaves_no_second_point(
    chain: Chain, *, written_before: bool
) -> None:
    if written_before:
        chain.take(1, [radio(1000), anchor(11_000, NOW_MS + 500_000)])
        chain.project()
        chain.take(2, [anchor(1500, NOW_MS)])
        chain.target.answers = ["ok", "lost"]
    else:
        chain.take(1, [radio(1000), anchor(11_000, NOW_MS + 10_000)])
        chain.target.answers = ["lost"]
    with pytest.raises(TargetUnavailableError):
        chain.projection.step()
    chain.take(3, [anchor(1000, NOW_MS + 90_000, error_ms=5)])
    assert chain.times() == [NOW_MS + 90_000]


def test_a_change_while_a_batch_is_on_its_way_is_not_missed(chain: Chain) -> None:
    chain.take(1, [anchor(0, NOW_MS), radio(10)])
    write = chain.target.write

    def meanwhile(lines: Sequence[str]) -> list[Refusal]:
        chain.target.write = write  # type: ignore[method-assign]
        chain.deploy("one", NOW_MS)
        return write(lines)

    chain.target.write = meanwhile  # type: ignore[method-assign]
    assert chain.places() == [(NOW_MS + 10, "one")]


@pytest.mark.parametrize("name", ["gather", "gather_many"])
def test_a_deployment_made_between_reading_and_noting_is_not_missed(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    chain.take(1, [anchor(0, NOW_MS), radio(10)])
    where = f"banua_collector.project.influx.{name}"
    reads: Callable[..., Any] = getattr(influx, name)

    def then_deploy(*arguments: Any, **named: Any) -> Any:
        found = reads(*arguments, **named)
        monkeypatch.undo()
        chain.deploy("one", NOW_MS)
        return found

    monkeypatch.setattr(where, then_deploy)
    if name == "gather":
        chain.projection.step()
    assert chain.places() == [(NOW_MS + 10, "one")]


def test_the_backlog_counts_batches_once_and_tells_the_oldest(chain: Chain) -> None:
    chain.take(1, [radio(1)])
    chain.take(2, [anchor(1, NOW_MS)])
    with db.reading(chain.engine) as conn:
        assert backlog(conn) == (2, NOW_MS)
    chain.project()
    with db.reading(chain.engine) as conn:
        assert backlog(conn) == (0, None)


# --- whatever the order, the same points


@dataclass(frozen=True)
class Step:
    """One thing that happens: a batch comes, a person deploys or corrects, the projection runs (and is answered so)."""

    what: str
    batch: int = 0
    answers: tuple[str, ...] = ()


_BASE = {A: NOW_MS, B: NOW_MS + 24 * _HOUR}
_BOOTTIMES = st.integers(0, 6).map(lambda n: n * 700)


@st.composite
def _rows(draw: st.DrawFn, boot: bytes) -> list[Row]:
    rows = {
        (row.kind, row.key, row.boottime_ms): row
        for row in draw(
            st.lists(
                st.builds(
                    lambda at, modem, dbm: radio(at, modem=modem, rsrp_dbm=dbm),
                    _BOOTTIMES,
                    st.sampled_from(["m1", "m2"]),
                    st.sampled_from([-50, -60, -70]),
                ),
                min_size=1,
                max_size=4,
            )
        )
    }
    told = st.tuples(_BOOTTIMES, st.integers(-1500, 1500), st.sampled_from([0, 20, 1999, 2500]))
    for at, off, error in draw(st.lists(told, max_size=1)):
        rows["clock", (), at] = anchor(at, _BASE[boot] + at + off, error)
    return list(rows.values())


@st.composite
def _histories(draw: st.DrawFn) -> tuple[list[tuple[int, bytes, list[Row]]], list[Step]]:
    batches = [(seq, boot, draw(_rows(boot))) for seq, boot in enumerate([A, A, A, A, B, B], start=1)]
    order = draw(st.permutations([Step("batch", number) for number in range(len(batches))]))
    answers = st.lists(st.sampled_from(["ok", "refused", "lost"]), max_size=4).map(tuple)
    steps = list(order)
    for what in ("deploy", "correct", "move"):  # in this order, at any time
        place = draw(st.integers(0, len(steps)))
        done = max((n for n, step in enumerate(steps) if step.what in {"deploy", "correct"}), default=-1)
        steps.insert(max(place, done + 1), Step(what))
    for _ in range(draw(st.integers(0, 6))):
        steps.insert(draw(st.integers(0, len(steps))), Step("project", answers=draw(answers)))
    return batches, steps


def _live(chain: Chain, batches: list[tuple[int, bytes, list[Row]]], steps: Sequence[Step]) -> None:
    for step in steps:
        match step.what:
            case "batch":
                seq, boot, rows = batches[step.batch]
                chain.take(seq, rows, boot)
            case "deploy":
                chain.deploy("one", NOW_MS + 1000)
            case "correct":
                chain.correct(1, to_ms=NOW_MS + 2500)
            case "move":
                chain.deploy("two", NOW_MS + 2500)
            case _:
                chain.target.answers = list(step.answers)
                with contextlib.suppress(TargetUnavailableError):  # taken up again by a later step
                    chain.projection.project_plain()
                    chain.projection.step()


@pytest.fixture(scope="module")
def prepared() -> Iterator[Path]:
    """A database file with p1 and its places, to copy."""
    with tempfile.TemporaryDirectory() as folder:
        engine = db.open_engine(f"sqlite:///{folder}/prepared.sqlite")
        db.migrate(engine, now_ms=lambda: NOW_MS)
        _prepare(engine)
        engine.dispose()
        yield Path(folder) / "prepared.sqlite"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=_histories())
def test_any_order_of_arrival_ends_in_the_points_of_projecting_all_at_once(
    prepared: Path, history: tuple[list[tuple[int, bytes, list[Row]]], list[Step]]
) -> None:
    batches, steps = history
    in_order = [Step("batch", number) for number in range(len(batches))]
    stood = [Step("deploy"), Step("correct"), Step("move")]
    ended: list[dict[tuple[str, int], str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, each in (("lived", steps), ("at-once", in_order + stood)):
            file = Path(folder) / f"{name}.sqlite"
            shutil.copy(prepared, file)
            engine = db.open_engine(f"sqlite:///{file}")
            chain = Chain(engine)
            _live(chain, batches, each)
            ended.append(dict(chain.project()))
            with db.reading(engine) as conn:
                assert conn.execute(select(todo)).all() == []
                assert all(row.digest is not None for row in conn.execute(select(written)))
                assert {row.standing for row in conn.execute(select(boots))} == {"ok"}
            engine.dispose()
    assert ended[0] == ended[1]
    # each identity once: of a boot with an anchor and an end every row, of one without an anchor none
    dated = {boot for _, boot, rows in batches if any(row.kind == "clock" for row in rows) for boot in [boot]}
    identities = {
        (boot, row.kind, row.key, row.boottime_ms) for _, boot, rows in batches for row in rows if boot in dated
    }
    of_a = [ns for _, ns in ended[0] if ns < _BASE[B] * _NS - _HOUR * _NS]
    assert len(of_a) == sum(boot == A for boot, *_ in identities)
    assert len(ended[0]) <= len(identities)


class Refusing(MemoryTarget):
    """A target that takes no points of a level below -100 dBm until it has learnt to."""

    learnt = False

    def write(self, lines: Sequence[str]) -> list[Refusal]:
        """See `Target`."""
        bad = [line for line in lines if "rsrp_dbm=-1" in line and not self.learnt]
        super().write([line for line in lines if line not in bad])
        return [Refusal(line, "too low for this bucket") for line in bad]


def test_points_the_target_will_never_take_are_kept_with_its_reason(chain: Chain) -> None:
    chain.target = target = Refusing()
    chain.projection = InfluxProjection(chain.engine, chain.target, lambda: NOW_MS)
    chain.take(1, [anchor(0, NOW_MS), radio(10, rsrp_dbm=-60), radio(20, rsrp_dbm=-110), radio(30, rsrp_dbm=-70)])
    assert chain.times() == [NOW_MS + 10, NOW_MS + 30]
    with db.reading(chain.engine) as conn:
        kept = conn.execute(select(refused)).one()
        assert conn.execute(select(todo)).all() == [], "it holds up nothing"
    assert (kept.batch_id, kept.reason) == (1, "too low for this bucket")
    assert kept.line.endswith(f" {(NOW_MS + 20) * _NS}")
    assert chain.projection.points_refused == 1
    with chain.engine.begin() as conn:
        journal.due_batches(conn, 1, [1], NOW_MS)
    target.learnt = True
    assert chain.times() == [NOW_MS + 10, NOW_MS + 20, NOW_MS + 30]
    with db.reading(chain.engine) as conn:
        assert conn.execute(select(refused)).all() == []


def test_plain_work_leaves_alone_what_shares_its_time_with_what_stands(chain: Chain) -> None:
    """A second boot's rows fall on the milliseconds of the first's: they have to be told apart, so both are planned."""
    chain.take(1, [anchor(0, NOW_MS), radio(10)])
    assert chain.projection.project_plain() == 1
    chain.take(2, [anchor(5, NOW_MS + 5), radio(10, rsrp_dbm=-60)], boot=B)
    assert chain.projection.project_plain() == 0
    assert len([1 for series, _ in chain.project() if series.startswith("radio")]) == 2


@pytest.mark.parametrize("later_ms", [100_000, 3 * 3_600_000])
def test_plain_work_looks_at_each_of_several_times(chain: Chain, later_ms: int) -> None:
    """Only the first of two batches shares its time with what stands; the second is of the same hour, or of another."""
    chain.take(1, [anchor(0, NOW_MS), radio(10)])
    assert chain.projection.project_plain() == 1
    chain.take(2, [anchor(5, NOW_MS + 5), radio(10, rsrp_dbm=-60)], boot=B)
    chain.take(3, [radio(later_ms), radio(later_ms + 5)], boot=B)
    assert chain.projection.project_plain() == 0
    assert chain.times() == [NOW_MS + 10, NOW_MS + 10, NOW_MS + later_ms, NOW_MS + later_ms + 5]


def test_what_comes_now_does_not_wait_for_a_long_backlog(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("gather", "influx"):
        monkeypatch.setattr(f"banua_collector.project.{module}.MANY", 2)
    for seq in range(1, 10):
        chain.take(seq, [anchor(100 * seq, NOW_MS + 100 * seq), radio(100 * seq)])
    assert chain.projection.project_plain() == 2
    assert chain.projection.project_plain() == 2
    written_so_far = sorted((ns // _NS - NOW_MS) // 100 for series, ns in chain.target.points if "modem" in series)
    assert written_so_far == [1, 2, 8, 9]
    assert len(chain.times()) == 9


def test_large_batches_are_taken_fewer_at_once(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by rows; a batch that is larger than that alone is taken alone."""
    monkeypatch.setattr("banua_collector.project.gather.ROWS", 7)
    for seq, rows in enumerate((9, 3, 3, 3), start=1):
        chain.take(seq, [anchor(100 * seq, NOW_MS + 100 * seq), *(radio(100 * seq + n) for n in range(rows - 1))])
    assert [chain.projection.project_plain() for _ in range(4)] == [1, 2, 1, 0]
    assert len(chain.times()) == 14


def test_what_ingest_has_opened_reads_as_what_is_in_the_journal(engine: Engine) -> None:
    """The same batches, once handed over and once opened anew: the target holds the same, and nothing is kept."""
    _prepare(engine)
    opened = Opened(lambda: 0.0)
    read, handed = Chain(engine), Chain(engine)
    handed.projection = InfluxProjection(engine, handed.target, lambda: NOW_MS, opened)
    rows = [anchor(0, NOW_MS), *(radio(10 * n + 1, modem=f"m{n % 3}", rsrp_dbm=-60 - n) for n in range(30))]
    ingest = Ingest(engine, Metrics(engine), Limits(), lambda: NOW_MS, lambda _: None, opened)
    ingest.take([(message(1, rows), False)])
    assert opened.values == 30 * 9 + 4
    expected = dict(handed.project())
    assert opened.values == 0
    with engine.begin() as conn:
        journal.replay(conn, Affected(1, 0, None), NOW_MS)
    assert read.project() == expected
    assert len(expected) == 31


def test_what_is_handed_over_is_bounded_in_rows_and_age(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banua_collector.opened.MAX_VALUES", 5 * 9)
    now = 0.0
    opened = Opened(lambda: now)
    payloads = {seq: message(seq, [radio(n) for n in range(rows)]).payload for seq, rows in ((1, 3), (2, 3), (3, 2))}
    for seq, payload in payloads.items():
        opened.keep(bytes([seq]), open_blocks(payload))
    assert opened.values == 45, "the second had no room, the third had"
    opened.keep(b"\1", open_blocks(payloads[1]))
    assert opened.values == 45, "what is kept is not counted twice"
    now = 61.0
    opened.keep(b"\2", open_blocks(payloads[2]))
    assert opened.values == 27, "the old ones are forgotten"
    assert opened.blocks(b"\1", payloads[1]) == open_blocks(payloads[1]), "and read from what the journal has"


def test_what_a_target_that_was_started_anew_has_forgotten_is_written_again(chain: Chain) -> None:
    chain.take(1, [anchor(0, NOW_MS), radio(10), radio(20)])
    assert chain.projection.mind_restart() == 0, "seen for the first time"
    assert chain.times() == [NOW_MS + 10, NOW_MS + 20]
    assert chain.projection.mind_restart() == 0
    chain.target.points.clear()
    chain.target.began_s = 2000.0
    assert chain.projection.mind_restart() == 1
    assert chain.times() == [NOW_MS + 10, NOW_MS + 20]
    assert not [call for call in chain.target.calls if call.startswith("delete")]
    assert chain.projection.mind_restart() == 0


def test_two_processes_at_one_probe_leave_each_row_once(sqlite_engine: Engine) -> None:
    """On SQLite nothing is claimed: as where a claim's connection dies while its process writes, and another comes."""
    _prepare(sqlite_engine)
    chain = Chain(sqlite_engine)
    chain.take(1, [anchor(0, NOW_MS), radio(400)])
    write = chain.target.write
    other = InfluxProjection(chain.engine, chain.target, lambda: NOW_MS)

    def late(lines: Sequence[str]) -> list[Refusal]:
        chain.target.write = write  # type: ignore[method-assign]
        chain.take(2, [anchor(500, NOW_MS + 900)])
        while other.step() is not None:
            continue
        return write(lines)

    chain.target.write = late  # type: ignore[method-assign]
    chain.projection.project(1)
    stands = chain.times()
    assert len(stands) == 1
    assert stands != [NOW_MS + 400], "the better anchor counts"


def test_a_replay_beside_a_projection_at_work_still_deletes_first(chain: Chain) -> None:
    """A stray point stands where the batch's points do: `replay` has it deleted, also when it comes in between."""
    chain.take(1, [anchor(0, NOW_MS), radio(10), radio(30)])
    assert chain.times() == [NOW_MS + 10, NOW_MS + 30]
    series = next(series for series, _ in chain.target.points if series.startswith("radio,"))
    chain.target.points[series, (NOW_MS + 20) * _NS] = "rsrp_dbm=-1.0"
    with chain.engine.begin() as conn:
        journal.due_batches(conn, 1, [1], NOW_MS)
    write = chain.target.write

    def meanwhile(lines: Sequence[str]) -> list[Refusal]:
        chain.target.write = write  # type: ignore[method-assign]
        with chain.engine.begin() as conn:
            journal.replay(conn, registry.Affected(1, 0, None), NOW_MS)
        return write(lines)

    chain.target.write = meanwhile  # type: ignore[method-assign]
    assert chain.times() == [NOW_MS + 10, NOW_MS + 30]
