"""Out of quarantine: into the journal, as of when it came, once there is a reason to believe or a way to read it."""

from typing import Any

import pytest
from sqlalchemy import Engine, insert, select

from banua_collector import db, journal, quarantine, registry
from banua_collector import tables as t
from banua_collector.errors import RegistryError
from banua_wire import batch, signature
from banua_wire.fields import SCHEMA
from tests.collector.fleet import NOW_MS, radio
from tests.collector.history import LATER, OTHER_SECRET, STRANGER, at, hear
from tests.collector.speech import SECRET, A, message, register


@pytest.fixture
def known(engine: Engine) -> Engine:
    """A journal that knows p1."""
    with engine.begin() as conn:
        register(conn)
    return engine


def _all(engine: Engine, table: Any) -> list[Any]:
    with db.reading(engine) as conn:
        return list(conn.execute(select(table)).all())


def _reasons(engine: Engine) -> list[str]:
    return [row.reason for row in _all(engine, t.quarantine)]


def test_an_unknown_key_is_journalled_after_the_probe_was_registered(known: Engine) -> None:
    came = [message(seq, probe="p2", secret=OTHER_SECRET, received_ms=at("2026-03-10") + seq) for seq in (1, 2)]
    assert hear(known, *came) == ["unknown_key"] * 2
    assert quarantine.replay(known, LATER) == {("unknown_key", "unknown_key"): 2}
    with known.begin() as conn:
        register(conn, "p2", OTHER_SECRET)
    assert quarantine.replay(known, LATER, reason="unknown_key") == {("unknown_key", "journalled"): 2}
    assert [(row.seq, row.received_ms, row.message) for row in _all(known, t.batches)] == [
        (seq, each.received_ms, each.payload) for seq, each in enumerate(came, 1)
    ]
    assert _reasons(known) == []
    assert len(_all(known, t.todo)) == 2
    assert hear(known, came[0]) == ["duplicate"]


def test_a_bad_signature_is_journalled_after_its_key_was_added(known: Engine) -> None:
    hear(known, message(1, secret=OTHER_SECRET, received_ms=at("2026-03-10")), message(2, secret=STRANGER))
    with known.begin() as conn:
        registry.add_key(conn, "p1", signature.public_of(OTHER_SECRET), now_ms=LATER)
    assert quarantine.replay(known, LATER) == {
        ("bad_signature", "journalled"): 1,
        ("bad_signature", "bad_signature"): 1,
    }
    assert [row.seq for row in _all(known, t.batches)] == [1]
    assert _reasons(known) == ["bad_signature"]


@pytest.mark.parametrize("by", ["replay", "probe"])
def test_what_an_earlier_version_could_not_read_settles_as_journalled(
    known: Engine, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    came = message(1, received_ms=at("2026-03-10"))
    with monkeypatch.context() as earlier:
        earlier.setattr(batch, "SCHEMA", SCHEMA - 1)
        assert hear(known, came, message(2, schema=SCHEMA - 1)) == ["quarantined", "journalled"]
        assert quarantine.replay(known, LATER) == {("quarantined", "quarantined"): 1}
    if by == "replay":
        assert quarantine.replay(known, LATER) == {("quarantined", "journalled"): 1}
    else:
        assert hear(known, came) == ["journalled"]
    assert [(row.seq, row.how) for row in sorted(_all(known, t.seen))] == [(1, "journalled"), (2, "journalled")]
    assert (_reasons(known), len(_all(known, t.batches))) == ([], 2)
    assert hear(known, came) == ["duplicate"]


def test_a_conflict_is_judged_again_by_its_id_alone_and_stays_one(known: Engine) -> None:
    hear(known, message(1, [radio(1)]), message(1, [radio(2)]))
    assert quarantine.replay(known, LATER) == {}
    assert quarantine.replay(known, LATER, reason="conflict") == {}
    (row,) = _all(known, t.quarantine)
    assert quarantine.replay(known, LATER, ids=[row.id, row.id]) == {("conflict", "conflict"): 1}
    assert _reasons(known) == ["conflict"]
    assert len(_all(known, t.batches)) == 1


def test_what_is_still_not_believed_stays_with_its_new_reason(known: Engine) -> None:
    early, late = (message(seq, probe="p2", secret=OTHER_SECRET, received_ms=NOW_MS + seq) for seq in (1, 2))
    taken = message(1, [radio(7)], probe="p2", secret=OTHER_SECRET)
    hear(known, early, late, message(3, probe="p2", secret=STRANGER), message(4, speaker="p9"), taken)
    with known.begin() as conn:
        register(conn, "p2", OTHER_SECRET)
        registry.revoke_key(conn, "p2", signature.public_of(OTHER_SECRET).hex()[:8], NOW_MS + 2)
    assert quarantine.replay(known, LATER) == {
        ("unknown_key", "journalled"): 1,
        ("unknown_key", "key_revoked"): 1,
        ("unknown_key", "bad_signature"): 1,
        ("unknown_key", "conflict"): 1,
        ("wrong_topic", "wrong_topic"): 1,
    }
    with db.reading(known) as conn:
        assert {reason: n for reason, n in quarantine.counts(conn).items() if n} == {
            "key_revoked": 1,
            "bad_signature": 1,
            "conflict": 1,
            "wrong_topic": 1,
        }
        details = {row.reason: row.detail for row in quarantine.listed(conn)}
    assert details["bad_signature"] == "made with none of the probe's 1 keys"
    assert details["conflict"] == "seq 1 of this stream is taken by another batch"


def test_a_retired_key_is_believed_once_an_anchor_dates_its_boot(known: Engine) -> None:
    from tests.collector.speech import anchor

    retired_ms = at("2026-03-10")
    with known.begin() as conn:
        registry.retire_key(conn, "p1", signature.public_of(SECRET).hex()[:8], retired_ms)
    assert hear(known, message(1, [radio(5)], received_ms=retired_ms + 5)) == ["key_retired"]
    assert hear(known, message(2, [anchor(9, retired_ms - 1000)], received_ms=retired_ms + 6)) == ["journalled"]
    assert quarantine.replay(known, LATER) == {("key_retired", "journalled"): 1}


def test_lists_are_by_reason_and_name_and_what_is_not_there_is_said(known: Engine) -> None:
    hear(known, message(1, probe="p2", secret=STRANGER), message(1, secret=STRANGER))
    with db.reading(known) as conn:
        assert [row.probe_name for row in quarantine.listed(conn)] == ["p1", "p2"]
        assert [row.probe_name for row in quarantine.listed(conn, reason="unknown_key")] == ["p2"]
        assert [row.reason for row in quarantine.listed(conn, probe="p1")] == ["bad_signature"]
        assert set(quarantine.counts(conn)) == set(quarantine.WAYS_OUT)
    with pytest.raises(RegistryError, match=r"there is no message 9 in quarantine"):
        quarantine.replay(known, LATER, ids=[9])


def test_refused_points_are_sent_again_with_their_batches_unless_these_are_moved_out(known: Engine) -> None:
    hear(known, message(1), message(2), message(3))
    ids = [row.id for row in _all(known, t.batches)]
    with known.begin() as conn:
        conn.execute(t.todo.delete())
        for batch_id in (ids[0], ids[0], ids[1], 999):
            point = {"line": "radio x=1 1", "reason": "too old", "noticed_ms": 1}
            conn.execute(insert(t.refused).values(projection="influx", probe_id=1, batch_id=batch_id, **point))
        assert quarantine.write_refused_again(conn, [], LATER) == (2, 1)
        assert set(conn.execute(select(t.todo.c.batch_id)).scalars()) == {ids[0], ids[1]}
        first = quarantine.refusals(conn, 1)[-1].id
        assert quarantine.write_refused_again(conn, [first], LATER) == (1, 0)
        assert quarantine.refusals(conn, 2) == []
        with pytest.raises(RegistryError, match=r"there is no refused point 99"):
            quarantine.write_refused_again(conn, [99], LATER)


def test_what_is_replayed_of_a_held_boot_is_held(known: Engine) -> None:
    hear(known, message(1, secret=OTHER_SECRET))
    with known.begin() as conn:
        conn.execute(insert(t.boots).values(probe_id=1, boot_id=A, first_seen_ms=1, standing="held"))
        registry.add_key(conn, "p1", signature.public_of(OTHER_SECRET), now_ms=LATER)
    quarantine.replay(known, LATER)
    assert [row.standing for row in _all(known, t.boots)] == ["held"]
    with known.begin() as conn:
        assert journal.moved_out_of_boot(conn, 1, A) == {}
