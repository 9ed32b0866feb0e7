"""The journal: what settles which seq, what a receipt may say, and what each commit makes due."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, func, select

from banua_collector import journal, registry
from banua_collector.registry import Affected
from banua_collector.tables import anchors, batches, boots, events, quarantine, seen, todo, written
from banua_collector.verify import Boot, Refused, judge
from banua_wire import batch, receipt
from banua_wire.birth import State
from banua_wire.fields import SCHEMA
from banua_wire.rows import Row
from tests.collector.fleet import NOW_MS, radio
from tests.collector.speech import OTHER_STREAM, SECRET, STREAM, A, B, anchor, message, register, take

_STRANGER = b"x" * 32


@pytest.fixture
def conn(engine: Engine) -> Iterator[Connection]:
    """A journal that knows p1."""
    with engine.begin() as conn:
        assert register(conn) == 1
        yield conn


def _hash8(payload: bytes) -> bytes:
    return batch.digest(payload)[:8]


def _count(conn: Connection, table: Any) -> int:
    return int(conn.execute(select(func.count()).select_from(table)).scalar_one())


def _how(conn: Connection) -> list[tuple[int, str]]:
    return [(row.seq, row.how) for row in conn.execute(select(seen.c.seq, seen.c.how).order_by(seen.c.seq))]


def _due(conn: Connection) -> set[int]:
    return set(conn.execute(select(todo.c.batch_id)).scalars())


def _lost(boottime_ms: int, first: int, last: int, stream: bytes = STREAM) -> Row:
    values: dict[str, Any] = {"stream": stream.hex(), "from_seq": first, "to_seq": last, "reason": "evicted"}
    return Row("lost", boottime_ms, values)


# --- one message


def test_a_batch_is_kept_as_it_came_and_receipted_by_hash(conn: Connection) -> None:
    came = message(1, [radio(5000), radio(9000)])
    done = take(conn, came)
    row = conn.execute(select(batches)).one()
    assert (row.message, row.seq, row.rows, row.first_boottime_ms, row.last_boottime_ms) == (
        came.payload,
        1,
        2,
        5000,
        9000,
    )
    ((speaker, told),) = done.receipts
    assert speaker == "p1"
    assert told == receipt.Receipt(
        STREAM, journal.journal_id_of(conn), 0, [(1, _hash8(came.payload))], [], 1, [], NOW_MS
    )
    assert (done.outcomes, done.rows, _due(conn)) == (["journalled"], {"radio": 2}, {row.id})


def test_a_duplicate_is_receipted_again_and_kept_once(conn: Connection) -> None:
    came = message()
    done = take(conn, came, came)
    again = take(conn, came)
    assert (done.outcomes, again.outcomes) == (["journalled", "duplicate"], ["duplicate"])
    assert again.receipts[0][1].got == [(1, _hash8(came.payload))]
    assert (_count(conn, batches), _count(conn, quarantine)) == (1, 0)


def test_another_batch_under_a_taken_seq_is_a_conflict_and_changes_nothing(conn: Connection) -> None:
    first, second = message(1, [radio(1)]), message(1, [radio(2)])
    take(conn, first)
    done = take(conn, second)
    told = done.receipts[0][1]
    assert (told.got, told.rejects, told.stored_to) == ([], [(1, _hash8(second.payload), "conflict")], 1)
    kept = conn.execute(select(quarantine)).one()
    assert (kept.reason, kept.detail) == ("conflict", "seq 1 of this stream is taken by another batch")
    assert conn.execute(select(batches.c.message)).scalar_one() == first.payload
    assert take(conn, first).outcomes == ["duplicate"]


def test_the_same_seq_of_another_stream_is_another_batch(conn: Connection) -> None:
    assert take(conn, message(), message(stream=OTHER_STREAM)).outcomes == ["journalled", "journalled"]


def test_a_body_that_cannot_be_read_settles_its_seq(conn: Connection) -> None:
    newer = message(1, schema=SCHEMA + 1)
    done = take(conn, newer, message(2))
    told = done.receipts[0][1]
    assert told.rejects == [(1, _hash8(newer.payload), "quarantined")]
    assert told.stored_to == 2
    assert _how(conn) == [(1, "quarantined"), (2, "journalled")]
    assert take(conn, newer).receipts[0][1].rejects == told.rejects
    assert _count(conn, quarantine) == 1


def test_what_is_not_believed_never_occupies_a_seq(conn: Connection) -> None:
    stranger = message(1, secret=_STRANGER)
    unknown = message(1, probe="p9", secret=_STRANGER)
    wrong = message(1, speaker="p9")
    done = take(conn, stranger, unknown, wrong)
    assert done.outcomes == ["bad_signature", "unknown_key", "wrong_topic"]
    assert {speaker: told.rejects for speaker, told in done.receipts} == {
        "p1": [(1, _hash8(stranger.payload), "bad_signature")],
        "p9": [(1, _hash8(unknown.payload), "unknown_key"), (1, _hash8(wrong.payload), "wrong_topic")],
    }
    assert all(told.stored_to == 0 and told.also == [] for _, told in done.receipts)
    assert _how(conn) == []
    assert take(conn, message(1)).outcomes == ["journalled"]


def test_what_was_refused_is_taken_once_its_key_is_known(conn: Connection) -> None:
    came = message(1, probe="p2", secret=_STRANGER)
    assert take(conn, came).outcomes == ["unknown_key"]
    register(conn, "p2", _STRANGER)
    assert take(conn, came).outcomes == ["journalled"]


def test_a_flood_of_strangers_has_their_room_summed_up_once_a_group(conn: Connection) -> None:
    asked: list[str] = []

    def note(_conn: Any, _cursor: Any, sql: str, *_: Any) -> None:
        asked.extend([sql] if "sum(" in sql else [])

    event.listen(conn.engine, "before_cursor_execute", note)
    flood = [message(seq, secret=_STRANGER) for seq in range(1, 21)]
    assert take(conn, *flood).outcomes == ["bad_signature"] * 20
    event.remove(conn.engine, "before_cursor_execute", note)
    assert len(asked) == 1


def test_strangers_have_a_limited_room_and_are_told_when_it_is_used_up(conn: Connection) -> None:
    first, second = message(1, secret=_STRANGER), message(2, secret=_STRANGER)
    room = len(first.payload) + len(second.payload) - 1
    done = take(conn, first, second, first, room=room)
    assert done.outcomes == ["bad_signature", "quarantine_full", "bad_signature"]
    assert [(seq, reason) for seq, _, reason in done.receipts[0][1].rejects] == [
        (1, "bad_signature"),
        (2, "quarantine_full"),
        (1, "bad_signature"),
    ]
    assert _count(conn, quarantine) == 1
    # a probe's own unreadable batches are kept whatever strangers have sent
    assert take(conn, message(3, schema=SCHEMA + 1), room=room).outcomes == ["quarantined"]


# --- what a receipt says of the stream


def test_gaps_are_told_as_ranges_until_they_close(conn: Connection) -> None:
    told = take(conn, message(1), message(2), message(4), message(6), message(7)).receipts[0][1]
    assert (told.stored_to, told.also) == (2, [(4, 4), (6, 7)])
    told = take(conn, message(3)).receipts[0][1]
    assert (told.stored_to, told.also) == (4, [(6, 7)])
    told = take(conn, message(5)).receipts[0][1]
    assert (told.stored_to, told.also) == (7, [])


def test_of_more_than_eight_ranges_the_highest_is_kept(conn: Connection) -> None:
    told = take(conn, *(message(seq) for seq in range(2, 22, 2))).receipts[0][1]
    assert (told.stored_to, told.also) == (0, [*((seq, seq) for seq in range(2, 16, 2)), (20, 20)])
    assert receipt.decode(receipt.encode(told)).highest == 20


def test_one_hole_in_a_long_stream_hides_nothing_behind_it(conn: Connection) -> None:
    take(conn, message(2))
    stream_id = conn.execute(select(seen.c.stream_id)).scalar_one()
    long = [{"stream_id": stream_id, "seq": seq, "how": "journalled", "month": "2026-11"} for seq in range(3, 5001)]
    conn.execute(seen.insert(), long)
    receipt = take(conn, message(2)).receipts[0][1]
    assert (receipt.stored_to, receipt.also) == (0, [(2, 5000)])


def test_what_is_settled_is_told_beside_a_refusal_too(conn: Connection) -> None:
    """Else a probe whose key was revoked would think that its collector has forgotten everything, and ask for ever."""
    take(conn, message(1), message(2))
    receipt = take(conn, message(3, secret=_STRANGER)).receipts[0][1]
    assert (receipt.stored_to, [reason for _, _, reason in receipt.rejects]) == (2, ["bad_signature"])


def test_what_a_probe_declares_lost_is_settled_unless_it_came(conn: Connection) -> None:
    take(conn, message(2))
    told = take(conn, message(5, [_lost(1, 1, 4)])).receipts[0][1]
    assert told.stored_to == 5
    assert _how(conn) == [(1, "lost"), (2, "journalled"), (3, "lost"), (4, "lost"), (5, "journalled")]
    event = conn.execute(select(events)).one()
    assert (event.name, event.detail) == ("lost", f"{STREAM.hex()}:1-4 evicted")
    assert take(conn, message(3)).outcomes == ["journalled"]  # found after all
    assert _how(conn)[2] == (3, "journalled")


def test_lost_rows_speak_of_their_own_probes_streams_only(conn: Connection) -> None:
    register(conn, "p2", _STRANGER)
    take(conn, message(2))
    take(conn, message(1, [_lost(1, 1, 1)], probe="p2", secret=_STRANGER, stream=OTHER_STREAM))
    assert take(conn, message(2)).receipts[0][1].stored_to == 0


def test_a_birth_is_answered_with_its_ask_and_all_that_is_known(conn: Connection) -> None:
    take(conn, message(1), message(3))
    state = State(True, A, STREAM, 77, 4, 0, "1")
    told = journal.answer_birth(conn, 1, state, retained=False, came_ms=NOW_MS, now_ms=NOW_MS)
    assert told == receipt.Receipt(STREAM, journal.journal_id_of(conn), 77, [], [], 1, [(3, 3)], NOW_MS)
    assert conn.execute(select(boots.c.first_birth_ms)).scalar_one() == NOW_MS
    unheard = journal.answer_birth(conn, None, state, retained=False, came_ms=NOW_MS, now_ms=NOW_MS)
    assert (unheard.ask, unheard.stored_to, unheard.also) == (77, 0, [])


def test_a_birth_that_the_broker_only_repeats_is_no_birth(conn: Connection) -> None:
    journal.answer_birth(conn, 1, State(True, A, STREAM, 1, 1, 0, "1"), retained=True, came_ms=NOW_MS, now_ms=NOW_MS)
    assert _count(conn, boots) == 0


# --- what the rows tell


def test_anchors_events_and_losses_go_to_tables_of_their_own(conn: Connection) -> None:
    event = Row("event", 7, {"name": "outbox_reborn", "n": 3, "detail": "torn"})
    take(conn, message(1, [anchor(5, NOW_MS, 30), event]))
    row = conn.execute(select(anchors)).one()
    assert (row.boottime_ms, row.unix_ms, row.error_ms, row.source, row.boot_id) == (5, NOW_MS, 30, "ntp", A)
    happened = conn.execute(select(events)).one()
    assert (happened.name, happened.n, happened.detail, happened.boottime_ms) == ("outbox_reborn", 3, "torn", 7)


@pytest.mark.parametrize("absent", ["unix_ms", "error_ms"])
def test_an_anchor_without_time_or_error_is_none(conn: Connection, absent: str) -> None:
    whole = anchor(5, NOW_MS)
    partial = Row("clock", 5, {name: value for name, value in whole.values.items() if name != absent})
    assert take(conn, message(1, [partial])).outcomes == ["journalled"]
    assert _count(conn, anchors) == 0


def test_a_batch_without_rows_says_nothing_of_its_boot(conn: Connection) -> None:
    take(conn, message(1, [anchor(5000, NOW_MS)]), message(2, []))
    row = conn.execute(select(boots)).one()
    assert (row.first_boottime_ms, row.last_boottime_ms, row.start_ms) == (5000, 5000, NOW_MS)
    assert take(conn, message(3, [], boot=B)).outcomes == ["journalled"]


# --- what is due


def _written(conn: Connection, batch_id: int, first_ms: int | None, last_ms: int | None, withheld: int = 0) -> None:
    values = {"probe_id": 1, "first_ms": first_ms, "last_ms": last_ms, "digest": b"d", "withheld": withheld}
    conn.execute(written.insert().values(projection="influx", batch_id=batch_id, noted_ms=1, **values))


def _settled(conn: Connection) -> None:
    conn.execute(todo.delete())


def test_a_new_anchor_makes_due_what_lies_between_its_neighbours(conn: Connection) -> None:
    take(conn, message(1, [anchor(1000, NOW_MS)]), message(2, [radio(1500)]), message(3, [anchor(2000, NOW_MS)]))
    take(conn, message(4, [radio(2500)]), message(5, [anchor(3000, NOW_MS)]), message(6, [radio(3500)]))
    take(conn, message(7, [radio(2500)], boot=B))
    _settled(conn)
    take(conn, message(8, [anchor(2600, NOW_MS)]))
    assert _due(conn) == {4, 8}


def test_a_new_boot_releases_what_waited_for_a_better_time(conn: Connection) -> None:
    take(conn, message(1), message(2))
    _settled(conn)
    _written(conn, 1, None, None, withheld=1)
    _written(conn, 2, NOW_MS, NOW_MS)
    take(conn, message(3))
    assert _due(conn) == {3}
    take(conn, message(4, boot=B))
    assert _due(conn) == {1, 3, 4}


def test_a_change_of_place_makes_due_what_is_written_in_its_time_or_on_its_way(conn: Connection) -> None:
    take(conn, *(message(seq) for seq in range(1, 7)))
    _settled(conn)
    for batch_id, (first, last) in enumerate([(0, 99), (0, 100), (150, 160), (200, 300), (201, 300)], start=1):
        _written(conn, batch_id, first, last)
    assert journal.mark_range(conn, Affected(1, 100, 200), NOW_MS) == 3
    assert _due(conn) == {2, 3, 4}
    conn.execute(todo.delete())
    conn.execute(todo.insert().values(projection="influx", probe_id=1, batch_id=6, due_ms=1))
    assert journal.mark_range(conn, Affected(1, 301, None), NOW_MS) == 1  # 6 may be on its way with the old place
    assert [row.batch_id for row in conn.execute(select(todo.c.batch_id))] == [6]


def test_a_restored_journal_gets_another_name_and_makes_everything_due(conn: Connection) -> None:
    take(conn, message(1), message(2))
    _settled(conn)
    _written(conn, 1, NOW_MS, NOW_MS)
    before = journal.journal_id_of(conn)
    assert journal.restored(conn, NOW_MS) == 2
    assert journal.journal_id_of(conn) != before
    assert _due(conn) == {1, 2}
    assert conn.execute(select(written.c.digest)).scalar_one() is None
    assert take(conn, message(1)).receipts[0][1].journal_id == journal.journal_id_of(conn)


def test_the_journal_keeps_what_a_revoked_key_had_signed_before(conn: Connection) -> None:
    assert take(conn, message(1, received_ms=NOW_MS)).outcomes == ["journalled"]
    prefix = registry.keys_of(conn, "p1")[0].public_key.hex()[:8]
    registry.revoke_key(conn, "p1", prefix, NOW_MS + 1)
    done = take(conn, message(2, received_ms=NOW_MS + 1))
    assert done.receipts[0][1].rejects == [
        (2, _hash8(message(2).payload), "key_revoked"),
    ]
    assert _how(conn) == [(1, "journalled")]
    assert SECRET not in conn.execute(select(quarantine.c.message)).scalar_one()


def test_a_text_with_a_nul_is_kept_without_it(conn: Connection) -> None:
    """No such text passes the codec today; of a version that lets one pass, PostgreSQL would refuse the whole group."""
    refused = judge(message(1, secret=_STRANGER), lambda _: [], lambda *_: Boot(None, None))
    assert isinstance(refused, Refused)
    journal.store(conn, [replace(refused, detail="a\0b")], now_ms=NOW_MS, quarantine_max_bytes=1000)
    assert conn.execute(select(quarantine.c.detail)).scalar() == "a\N{REPLACEMENT CHARACTER}b"
