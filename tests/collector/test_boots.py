"""Boots of one probe: when they ran, and when two of them are two devices under one name."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, Engine, select

from banua_collector import boots, journal
from banua_collector.errors import RegistryError
from banua_collector.tables import batches, events, todo
from banua_collector.tables import boots as table
from banua_wire.birth import State
from tests.collector.fleet import NOW_MS, radio
from tests.collector.speech import OTHER_STREAM, STREAM, A, B, C, anchor, message, register, take

_MINUTE = 60_000


@pytest.fixture
def conn(engine: Engine) -> Iterator[Connection]:
    with engine.begin() as conn:
        register(conn)
        yield conn


def _born(conn: Connection, boot: bytes, now_ms: int) -> None:
    journal.answer_birth(
        conn, 1, State(True, boot, STREAM, 1, 1, 0, "1"), retained=False, came_ms=now_ms, now_ms=now_ms
    )


def _standing(conn: Connection) -> dict[bytes, str]:
    return {row.boot_id: row.standing for row in conn.execute(select(table.c.boot_id, table.c.standing))}


def _ran(conn: Connection, seq: int, boot: bytes, first_ms: int, last_ms: int, error_ms: int = 20) -> None:
    """Journal a boot that ran from `first_ms` to `last_ms` by its own anchors, in a stream of its own."""
    base = 1000
    rows = [anchor(base, first_ms, error_ms), anchor(base + last_ms - first_ms, last_ms, error_ms)]
    take(conn, message(seq, rows, boot=boot, stream=boot[:8]))


def test_boots_that_follow_each_other_are_in_order(conn: Connection) -> None:
    for now_ms, boot in enumerate([A, A, B, B, C]):
        _born(conn, boot, NOW_MS + now_ms)
    assert _standing(conn) == {A: "ok", B: "ok", C: "ok"}


def test_a_birth_that_is_handled_late_is_no_clone(conn: Connection) -> None:
    """A came twice before B did; another collector handles its second birth after this one has handled B's."""
    _born(conn, A, NOW_MS)
    _born(conn, B, NOW_MS + 2)
    _born(conn, A, NOW_MS + 1)
    assert _standing(conn) == {A: "ok", B: "ok"}
    _born(conn, A, NOW_MS + 3)
    assert _standing(conn) == {A: "held", B: "held"}


def test_an_older_boot_born_again_after_a_newer_one_holds_both(conn: Connection) -> None:
    take(conn, message(1, boot=A), message(2, boot=B))
    for now_ms, boot in enumerate([A, B]):
        _born(conn, boot, NOW_MS + now_ms)
    conn.execute(todo.delete())
    _born(conn, A, NOW_MS + 2)
    assert _standing(conn) == {A: "held", B: "held"}
    assert set(conn.execute(select(todo.c.batch_id)).scalars()) == {1, 2}
    event = conn.execute(select(events)).one()
    assert event.name == "two_live_clones"
    assert event.detail == f"boot {A.hex()} connects again after a newer boot did: {B.hex()}"
    _born(conn, B, NOW_MS + 3)
    assert len(conn.execute(select(events)).all()) == 1


def test_boots_that_overlap_beyond_their_errors_are_held(conn: Connection) -> None:
    _ran(conn, 1, A, NOW_MS, NOW_MS + 10 * _MINUTE)
    conn.execute(todo.delete())
    _ran(conn, 1, B, NOW_MS + 9 * _MINUTE, NOW_MS + 20 * _MINUTE)
    assert _standing(conn) == {A: "held", B: "held"}
    assert set(conn.execute(select(todo.c.batch_id)).scalars()) == {1, 2}
    assert conn.execute(select(events.c.detail)).scalar_one() == (
        f"boot {B.hex()} runs while another boot does: {A.hex()}"
    )


def test_a_boot_of_one_moment_within_another_is_held_with_it(conn: Connection) -> None:
    take(conn, message(1, [anchor(0, NOW_MS), radio(600_000)], boot=A))
    take(conn, message(1, [anchor(5_000, NOW_MS + 300_000), radio(5_000)], boot=B, stream=OTHER_STREAM))
    assert _standing(conn) == {A: "held", B: "held"}


def test_two_clones_in_one_group_are_one_event(conn: Connection) -> None:
    take(
        conn,
        message(1, [anchor(0, NOW_MS), radio(600_000)], boot=A),
        message(1, [anchor(5_000, NOW_MS + 300_000), radio(5_000)], boot=B, stream=OTHER_STREAM),
    )
    assert [row.name for row in conn.execute(select(events))] == ["two_live_clones"]


@pytest.mark.parametrize(("overlap_ms", "standing"), [(200, "ok"), (201, "held")])
def test_an_overlap_within_both_errors_is_none(conn: Connection, overlap_ms: int, standing: str) -> None:
    _ran(conn, 1, A, NOW_MS, NOW_MS + 10 * _MINUTE, 100)
    _ran(conn, 1, B, NOW_MS + 10 * _MINUTE - overlap_ms, NOW_MS + 20 * _MINUTE, 100)
    assert _standing(conn) == {A: standing, B: standing}


def test_an_old_boot_whose_batches_come_late_is_no_clone(conn: Connection) -> None:
    _born(conn, A, NOW_MS)
    _born(conn, B, NOW_MS + 1)
    _ran(conn, 1, B, NOW_MS + 60 * _MINUTE, NOW_MS + 70 * _MINUTE)
    _ran(conn, 1, A, NOW_MS, NOW_MS + 10 * _MINUTE)
    assert _standing(conn) == {A: "ok", B: "ok"}


def test_an_undated_boot_overlaps_nothing(conn: Connection) -> None:
    _ran(conn, 1, A, NOW_MS, NOW_MS + 10 * _MINUTE)
    take(conn, message(1, [radio(5)], boot=B, stream=OTHER_STREAM))
    assert _standing(conn) == {A: "ok", B: "ok"}


def test_boots_of_two_probes_may_run_at_once(conn: Connection) -> None:
    register(conn, "p2", b"2" * 32)
    _ran(conn, 1, A, NOW_MS, NOW_MS + 10 * _MINUTE)
    rows = [anchor(1000, NOW_MS), anchor(1000 + _MINUTE, NOW_MS + _MINUTE)]
    take(conn, message(1, rows, probe="p2", secret=b"2" * 32, boot=B))
    assert _standing(conn) == {A: "ok", B: "ok"}


@pytest.mark.parametrize("standing", ["released", "dropped"])
def test_a_person_decides_and_what_was_held_is_due(conn: Connection, standing: str) -> None:
    _ran(conn, 1, A, NOW_MS, NOW_MS + 10 * _MINUTE)
    _ran(conn, 1, B, NOW_MS, NOW_MS + 10 * _MINUTE)
    conn.execute(todo.delete())
    journal.assign_boot(conn, 1, A, standing, NOW_MS)
    assert _standing(conn) == {A: standing, B: "held"}
    of_a = conn.execute(select(batches.c.id).where(batches.c.boot_id == A)).scalar_one()
    assert conn.execute(select(todo.c.batch_id)).scalars().all() == [of_a]
    journal.assign_boot(conn, 1, A, "released", NOW_MS)  # on second thoughts


def test_there_is_nothing_to_decide_for_a_boot_in_good_standing(conn: Connection) -> None:
    _ran(conn, 1, A, NOW_MS, NOW_MS + 1)
    with pytest.raises(RegistryError, match=rf"^boot {A.hex()}: not one that is held$"):
        journal.assign_boot(conn, 1, A, "released", NOW_MS)
    with pytest.raises(RegistryError, match=rf"^boot {B.hex()}: not one that is held$"):
        journal.assign_boot(conn, 1, B, "released", NOW_MS)
    with pytest.raises(RegistryError, match=r"^standing: 'ok' is not one of released, dropped$"):
        journal.assign_boot(conn, 1, A, "ok", NOW_MS)


def test_a_released_boot_stays_released(conn: Connection) -> None:
    _ran(conn, 1, A, NOW_MS, NOW_MS + 10 * _MINUTE)
    _ran(conn, 1, B, NOW_MS, NOW_MS + 10 * _MINUTE)
    journal.assign_boot(conn, 1, A, "released", NOW_MS)
    _ran(conn, 2, A, NOW_MS + 10 * _MINUTE, NOW_MS + 11 * _MINUTE)
    assert _standing(conn) == {A: "released", B: "held"}


def test_a_boot_is_over_when_a_later_one_of_its_stream_or_else_of_its_probe_is_known(conn: Connection) -> None:
    take(conn, message(5, boot=B), message(2, boot=A))
    rows = {row.boot_id: row for row in conn.execute(select(table))}
    everything = list(rows.values())
    assert (boots.is_over(rows[A], everything), boots.is_over(rows[B], everything)) == (True, False)
    take(conn, message(1, boot=C, stream=OTHER_STREAM))
    everything = list(conn.execute(select(table)))
    assert boots.is_over(rows[B], everything)
