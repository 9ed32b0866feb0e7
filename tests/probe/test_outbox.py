"""Nothing that was committed is ever lost without being declared, whatever happens to the power or the disk."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

from banua_probe import outbox as module
from banua_probe import outbox_file
from banua_probe.errors import OutboxError
from banua_probe.outbox import Outbox, Owner
from banua_probe.outbox_file import EVICTABLE, REFUSED, SET_ASIDE, WAITING
from banua_wire import batch, signature
from banua_wire.errors import WireError
from banua_wire.rows import Row
from tests.probe.outboxes import BOOT, SECRET, Bench, Crash, receipt, stored, tick

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PUBLIC = signature.public_of(SECRET)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "state")
    yield made
    made.close()


def seal(outbox: Outbox, *ticks: int) -> None:
    for n in ticks:
        outbox.add(tick(n))
    assert outbox.seal() == 1


def events(rows: list[Row], name: str) -> list[Row]:
    return [row for row in rows if row.kind == "event" and row.values["name"] == name]


# --- rows -------------------------------------------------------------------------------------------------------------


def test_a_committed_row_survives_a_power_cut_and_one_in_memory_does_not(bench: Bench, tmp_path: Path) -> None:
    outbox = bench.open()
    outbox.add(tick(1))
    outbox.commit()
    outbox.add(tick(2))
    copy = bench.cut_power(tmp_path / "copy")
    assert copy.open().open_rows == 1
    copy.close()
    assert stored(copy.path)[0] == [(BOOT, tick(1))]


def test_sealing_makes_signed_batches_that_number_on(bench: Bench) -> None:
    outbox = bench.open()
    seal(outbox, 1, 2)
    seal(outbox, 3)
    opened, batches = stored(bench.path)
    assert opened == []
    assert batches == {"waiting": [(outbox.stream, 1, BOOT, [tick(1), tick(2)]), (outbox.stream, 2, BOOT, [tick(3)])]}
    first, second = outbox.oldest(9, without=())
    assert [outbox.message(ref) for ref in outbox.newest(9, without={first.id})] == [outbox.message(second)]
    message = outbox.message(first)
    assert message is not None
    assert batch.verifies(PUBLIC, message)
    assert first.hash8 == hashlib.sha256(message).digest()[:8]
    assert (outbox.waiting, outbox.rows_held, outbox.next_seq) == (2, 0, 3)


def test_with_no_rows_nothing_is_sealed(bench: Bench) -> None:
    outbox = bench.open()
    assert outbox.seal() == 0
    assert outbox.next_seq == 1


def test_a_row_outside_the_dictionary_is_refused_and_leaves_the_rest_alone(bench: Bench) -> None:
    outbox = bench.open()
    with pytest.raises(WireError):
        outbox.add(Row("radio", 1, {"rsrp_dbm": 0}))
    seal(outbox, 1)


def test_sealing_cut_short_by_a_crash_keeps_the_rows_and_the_number(bench: Bench, tmp_path: Path) -> None:
    outbox = bench.open()
    outbox.add(tick(1))
    outbox.commit()
    outbox.add(tick(2))
    bench.crash_at = "mid_seal"
    with pytest.raises(Crash):
        outbox.seal()
    copy = bench.cut_power(tmp_path / "copy")
    again = copy.open()
    assert (again.open_rows, again.next_seq, again.waiting) == (1, 1, 0)
    copy.close()
    bench.crash_at = ""
    assert outbox.seal() == 1  # had it not been a crash but an error, nothing would be missing either
    assert stored(bench.path)[1]["waiting"] == [(outbox.stream, 1, BOOT, [tick(1), tick(2)])]


def test_rows_of_an_older_boot_are_sealed_under_their_own_boot(bench: Bench) -> None:
    outbox = bench.open()
    outbox.add(tick(1))
    outbox.commit()
    bench.close()
    bench.boot = b"boot-two--------"
    outbox = bench.open()
    outbox.add(tick(1))  # the same moment of another boot is another moment
    assert outbox.seal(Row("clock", 5, {"unix_ms": 7, "error_ms": 1, "source": "ntp"})) == 2
    assert [(boot, len(rows)) for _, _, boot, rows in stored(bench.path)[1]["waiting"]] == [(BOOT, 1), (bench.boot, 2)]


def test_many_rows_become_batches_of_240_and_a_batch_too_large_is_halved(bench: Bench) -> None:
    outbox = bench.open()
    for n in range(1, 501):
        outbox.add(tick(n))
    assert outbox.seal() == 3
    assert [len(rows) for *_, rows in stored(bench.path)[1]["waiting"]] == [240, 240, 20]
    noise = os.urandom(240 * 256 * 3)
    for n in range(240):
        train = [int.from_bytes(noise[(n * 256 + k) * 3 :][:3]) for k in range(256)]
        outbox.add(Row("path", n, {"rtt_us": list(train)}))
    sealed = outbox.seal()
    sizes = [len(outbox.message(ref) or b"") for ref in outbox.newest(sealed, without=())]
    assert sealed >= 4
    assert max(sizes) <= 65536
    assert sum(len(rows) for *_, rows in stored(bench.path)[1]["waiting"]) == 740


def test_a_twin_of_an_open_row_is_dropped_and_does_not_stop_sealing(bench: Bench) -> None:
    outbox = bench.open()
    outbox.add(tick(1))
    outbox.commit()
    seal(outbox, 1, 2)
    assert stored(bench.path)[1]["waiting"][0][3] == [tick(1), tick(2)]


# --- the disk refuses -------------------------------------------------------------------------------------------------


def fill_up(outbox: Outbox) -> None:
    pages = outbox._db.execute("PRAGMA page_count").fetchone()[0]
    outbox._db.execute(f"PRAGMA max_page_count = {pages}")


def free_up(outbox: Outbox) -> None:
    outbox._db.execute("PRAGMA max_page_count = 1000000")


def test_a_full_disk_is_told_and_rows_stay_in_memory_until_there_is_room(bench: Bench) -> None:
    outbox = bench.open()
    seal(outbox, 1)
    fill_up(outbox)
    for n in range(2, 400):
        outbox.add(tick(n))
    for attempt in (outbox.commit, outbox.seal, outbox.commit):
        with pytest.raises(OutboxError, match="full"):
            attempt()
    assert (outbox.rows_held, outbox.next_seq, outbox.waiting) == (398, 2, 1)
    free_up(outbox)
    assert outbox.seal() == 2
    ticks = [row.values["n"] for *_, rows in stored(bench.path)[1]["waiting"] for row in rows]
    assert ticks == list(range(1, 400))


def test_a_file_that_another_has_locked_is_told_as_an_outbox_error(bench: Bench) -> None:
    bench.open()
    bench.close()
    other = sqlite3.connect(bench.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(OutboxError, match="locked"):
        bench.open()
    other.execute("ROLLBACK")
    other.close()
    outbox = bench.open()
    outbox.add(tick(1))
    outbox.commit()
    assert stored(bench.path)[0] == [(BOOT, tick(1))]


def test_the_daemon_alone_has_the_file_and_makes_no_index_of_the_log(bench: Bench) -> None:
    """The index is a shared memory file (-shm) that the kernel writes to the card again and again."""
    seal(bench.open(), 1)
    assert not bench.path.with_name("outbox.db-shm").exists()
    other = sqlite3.connect(bench.path, timeout=0.01)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("SELECT * FROM meta").fetchall()
    other.close()


def page_bytes(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[16:18])


def of_large_pages(path: Path, rows: int, ballast: int = 0) -> None:
    """Make the file what an older version left, with `rows` large open rows and `ballast` bytes set aside."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode=DELETE")
    db.execute("PRAGMA page_size=4096")
    db.execute("VACUUM")
    db.execute("PRAGMA journal_mode=WAL")
    row = msgspec.msgpack.encode(("event", 9, {"name": "tick", "n": 9, "detail": "x" * 200}))
    db.executemany("INSERT INTO open_rows (boot_id, row) VALUES (?, ?)", [(BOOT, row)] * rows)
    db.execute("INSERT INTO rows_aside (boot_id, row) VALUES (?, zeroblob(?))", (BOOT, ballast))
    db.close()
    assert page_bytes(path) == 4096


@pytest.mark.parametrize(("ballast", "expected"), [(0, 1024), (1_000_000, 1024), (4_000_000, 4096)])
def test_pages_are_small_in_a_new_file_and_in_an_old_one_that_is_cheaply_rewritten(
    bench: Bench, ballast: int, expected: int
) -> None:
    seal(bench.open(), 1)
    bench.close()
    assert page_bytes(bench.path) == 1024
    of_large_pages(bench.path, 100, ballast)
    outbox = bench.open()
    bench.close()
    assert page_bytes(bench.path) == expected
    opened, batches = stored(bench.path)
    assert (len(opened), len(batches["waiting"]), outbox.open_rows) == (100, 1, 100)
    assert sorted(file.name for file in bench.folder.iterdir()) == ["outbox.db", "outbox.db.lock"]


REPAGE = """
import os, resource, signal, sys
from pathlib import Path
from banua_probe import outbox_file
db = outbox_file.connect(Path(sys.argv[1]))
outbox_file.prepare(db)
db.execute("PRAGMA cache_size=2")  # pages reach the file before the commit does
left, largest = int(sys.argv[2]), int(sys.argv[3])
def step():
    global left
    left -= 1
    if left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
db.set_progress_handler(step, 20)
resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
outbox_file.repage(db)
assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
"""
ALL_THERE = {"waiting": 1, "evictable": 0, "refused": 0, "set_aside": 0, "open_rows": 300, "rows_aside": 1}


def repage(path: Path, steps: int, largest: int) -> int:
    return subprocess.run([sys.executable, "-c", REPAGE, path, str(steps), str(largest)], check=False).returncode


def test_a_disk_without_room_for_other_pages_keeps_the_old_ones(bench: Bench) -> None:
    seal(bench.open(), 1)
    bench.close()
    of_large_pages(bench.path, 300)
    assert repage(bench.path, 100_000, 8192) == 0
    assert page_bytes(bench.path) == 4096
    with outbox_file.copied(bench.path) as db:
        assert outbox_file.counts(db) == ALL_THERE


def test_a_kill_while_the_pages_are_made_others_loses_nothing(bench: Bench) -> None:
    seal(bench.open(), 1)
    bench.close()
    of_large_pages(bench.path, 300)
    original, sizes = bench.path.read_bytes(), set()
    for steps in (1, 3, 10, 30, 60, 100, 200, 100_000):
        bench.path.write_bytes(original)
        repage(bench.path, steps, 10**9)
        with outbox_file.copied(bench.path) as db:
            assert outbox_file.counts(db) == ALL_THERE
        sizes.add(page_bytes(bench.path))
        outbox = bench.open()
        assert (outbox.open_rows, outbox.waiting) == (300, 1)
        bench.close()
        assert page_bytes(bench.path) == 1024
    assert sizes == {1024, 4096}


def test_an_outbox_has_one_process(bench: Bench) -> None:
    """A second daemon on the same state would seal the same numbers: it is told so and touches nothing."""
    owner = Owner("kalsel-0001", SECRET, BOOT, lambda: 1)
    with bench.open() as first:
        first.add(tick(1))
        with pytest.raises(OutboxError, match="in use by another process"):
            Outbox(bench.path, owner, max_bytes=10**6, checkpoint=lambda _: None)
        first.commit()
    bench.opened.clear()
    with Outbox(bench.path, owner, max_bytes=10**6, checkpoint=lambda _: None) as second:
        assert second.open_rows == 1


def test_memory_is_bounded_the_oldest_go_first_and_it_is_said(bench: Bench) -> None:
    outbox = bench.open()
    for n in range(1, module.MAX_MEMORY_ROWS + 2):
        outbox.add(tick(n))
    assert outbox.rows_held == 4502
    outbox.commit()
    rows = [row for _, row in stored(bench.path)[0]]
    assert [row.values["n"] for row in events(rows, "tick")] == list(range(501, 5002))
    assert [row.values["detail"] for row in events(rows, "rows_dropped_from_memory")] == [
        "500 oldest rows: the disk refuses writes"
    ]


@pytest.mark.parametrize("damage", ["garbage", "middle", "short"])
def test_a_damaged_file_is_moved_aside_whole_and_said_so(bench: Bench, damage: str) -> None:
    outbox = bench.open()
    for n in range(1, 500):
        outbox.add(tick(n))
        if not n % 50:
            outbox.seal()
    stream = outbox.stream
    bench.close()
    good = bench.path.read_bytes()
    bad = {
        "garbage": b"this is no database" * 1000,
        "middle": good[:4096] + os.urandom(len(good) // 2) + good[4096 + len(good) // 2 :],
        "short": good[: len(good) // 2 + 100],
    }[damage]
    bench.path.write_bytes(bad)
    outbox = bench.open()
    assert (bench.folder / "outbox.damaged-1").read_bytes() == bad
    assert outbox.stream != stream
    seal(outbox, 1)
    rows = stored(bench.path)[1]["waiting"][0][3]
    assert [row.values["detail"] for row in events(rows, "outbox_damaged")] == ["outbox.damaged-1"]
    bench.close()
    bench.path.write_bytes(b"again")
    bench.open()
    assert (bench.folder / "outbox.damaged-2").read_bytes() == b"again"


def test_an_outbox_that_cannot_be_is_an_outbox_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutboxError, match="Not a directory"):
        Bench(tmp_path / "file" / "state").open()


def test_only_the_owner_may_read_the_files(bench: Bench) -> None:
    seal(bench.open(), 1)
    assert {file.stat().st_mode & 0o077 for file in bench.folder.iterdir()} == {0}


# --- receipts ---------------------------------------------------------------------------------------------------------


def test_only_seq_and_hash_together_find_a_batch(bench: Bench) -> None:
    outbox = bench.open()
    seal(outbox, 1)
    (ref,) = outbox.oldest(1, without=())
    assert outbox.find(outbox.stream, 1, ref.hash8) == ref
    assert outbox.find(outbox.stream, 1, bytes(8)) is None
    assert outbox.find(outbox.stream, 2, ref.hash8) is None
    assert outbox.find(bytes(8), 1, ref.hash8) is None


def test_a_settled_batch_is_not_offered_again_and_is_written_with_the_next_commit(bench: Bench, tmp_path: Path) -> None:
    outbox = bench.open()
    seal(outbox, 1)
    seal(outbox, 2)
    first, second = outbox.oldest(9, without=())
    outbox.mark(first, EVICTABLE)
    assert outbox.oldest(9, without=()) == [second]
    assert outbox.waiting == 1
    before = bench.cut_power(tmp_path / "before")
    assert before.open().waiting == 2  # it goes out again, and is receipted again
    before.close()
    outbox.commit()
    after = bench.cut_power(tmp_path / "after")
    assert after.open().waiting == 1
    after.close()


@pytest.mark.parametrize("state", [REFUSED, SET_ASIDE])
def test_a_refused_or_set_aside_batch_is_kept_but_not_offered(bench: Bench, state: str) -> None:
    outbox = bench.open()
    seal(outbox, 1)
    outbox.mark(outbox.oldest(1, without=())[0], state)
    outbox.commit()
    assert (outbox.oldest(1, without=()), outbox.waiting, outbox.states()) == ([], 0, {state: 1})


def test_what_was_refused_can_be_offered_again_and_what_was_set_aside_not(bench: Bench) -> None:
    outbox = bench.open()
    seal(outbox, 1)
    seal(outbox, 2)
    first, second = outbox.oldest(9, without=())
    outbox.mark(first, REFUSED)
    outbox.mark(second, SET_ASIDE)
    assert outbox.retry_refused(9) == [first]
    outbox.commit()
    assert (outbox.oldest(9, without=()), outbox.waiting) == ([first], 1)


def test_tries_count_before_they_are_written_too(bench: Bench) -> None:
    outbox = bench.open()
    seal(outbox, 1)
    for tries in (1, 2, 3):
        (ref,) = outbox.oldest(1, without=())
        outbox.mark(ref, WAITING, tries=ref.tries + 1)
        assert outbox.oldest(1, without=())[0].tries == tries
    outbox.commit()
    assert outbox.oldest(1, without=())[0].tries == 3
    assert outbox.waiting == 1


def test_the_ask_counts_on_over_a_power_cut(bench: Bench, tmp_path: Path) -> None:
    outbox = bench.open()
    assert [outbox.next_ask(), outbox.next_ask()] == [1, 2]
    copy = bench.cut_power(tmp_path / "copy")
    assert copy.open().next_ask() == 3
    copy.close()


def settle_all(outbox: Outbox) -> None:
    for ref in outbox.oldest(99, without=()):
        outbox.mark(ref, EVICTABLE)
    outbox.commit()


def test_what_a_restored_collector_forgot_goes_out_again(bench: Bench) -> None:
    outbox = bench.open()
    for n in range(1, 6):
        seal(outbox, n)
    settle_all(outbox)
    assert outbox.unsettle(receipt(outbox, 5)) == 0
    assert outbox.unsettle(receipt(outbox, 2, also=[(4, 4)])) == 2
    assert [ref.seq for ref in outbox.oldest(9, without=())] == [3, 5]
    assert outbox.waiting == 2


def test_a_new_journal_is_sent_the_other_streams_too_even_after_a_crash(bench: Bench, tmp_path: Path) -> None:
    """The receipt speaks of one stream only; of what it does not speak the probe sends everything that it still has."""
    outbox = bench.open()
    seal(outbox, 1)
    old = outbox.stream
    outbox.fork()
    seal(outbox, 2)
    settle_all(outbox)
    outbox.unsettle(receipt(outbox, 1))
    settle_all(outbox)
    assert outbox.unsettle(receipt(outbox, 1)) == 0
    assert outbox.unsettle(receipt(outbox, 1, journal_id=b"journal2")) == 1
    copy = bench.cut_power(tmp_path / "copy")
    again = copy.open()
    assert [(ref.stream, ref.seq) for ref in again.oldest(9, without=())] == [(old, 1)]
    copy.close()


# --- streams ----------------------------------------------------------------------------------------------------------


def test_a_fork_begins_at_one_and_names_the_stream_before(bench: Bench) -> None:
    outbox = bench.open()
    seal(outbox, 1)
    before = outbox.stream
    outbox.fork()
    bench.close()
    outbox = bench.open()  # durable
    seal(outbox, 2)
    seal(outbox, 3)
    (_, first, second) = stored(bench.path)[1]["waiting"]
    assert first[:2] == (outbox.stream, 1) != (before, 1)
    assert [row.values for row in events(first[3], "previous_stream")] == [
        {"name": "previous_stream", "n": 1, "detail": before.hex()}
    ]
    assert tick(2) in first[3]
    assert second == (outbox.stream, 2, BOOT, [tick(3)])


def test_a_fork_whose_first_rows_need_two_batches_is_told_once(bench: Bench) -> None:
    outbox = bench.open()
    outbox.fork()
    noise = os.urandom(240 * 256 * 3)
    for n in range(240):
        outbox.add(
            Row(
                "path",
                5,
                {"target": f"t{n}", "rtt_us": [int.from_bytes(noise[(n * 256 + k) * 3 :][:3]) for k in range(256)]},
            )
        )
    assert outbox.seal() >= 4
    batches = stored(bench.path)[1]["waiting"]
    assert [len(events(rows, "previous_stream")) for *_, rows in batches] == [1] + [0] * (len(batches) - 1)
    assert sum(len(rows) for *_, rows in batches) == 241


def test_a_conflict_is_sealed_again_under_a_new_stream_with_its_boot_and_rows(bench: Bench) -> None:
    outbox = bench.open()
    seal(outbox, 1)
    seal(outbox, 2)
    bench.close()
    bench.boot = b"boot-two--------"
    outbox = bench.open()
    before = outbox.stream
    first, second = outbox.oldest(9, without=())
    outbox.reseal(first)
    assert outbox.stream != before
    outbox.reseal(second)  # in conflict too: the new stream goes on
    assert (outbox.waiting, outbox.next_seq) == (2, 3)
    one, two = stored(bench.path)[1]["waiting"]
    assert (one[:3], two[:3]) == ((outbox.stream, 1, BOOT), (outbox.stream, 2, BOOT))
    assert [row for row in one[3] if row.values["name"] == "tick"] == [tick(1)]
    assert [row.values["detail"] for row in events(one[3], "previous_stream")] == [before.hex()]
    assert two[3] == [tick(2)]
    assert outbox.message(first) is None
    outbox.reseal(first)  # the same reject twice
    assert outbox.waiting == 2


# --- space ------------------------------------------------------------------------------------------------------------


def shrink(outbox: Outbox, bytes_less: int = 1) -> None:
    outbox._max_bytes = outbox.bytes_used - bytes_less
    outbox._make_room()
    outbox._max_bytes = 64_000_000


def fill(outbox: Outbox, batches: int) -> None:
    """Seal batches of about 4 kB each, so that each is worth a page or more."""
    for n in range(1, batches + 1):
        outbox.add(Row("path", n, {"rtt_us": [int.from_bytes(os.urandom(3)) for _ in range(256)]}))
        outbox.add(Row("path", n, {"target": "u", "rtt_us": [int.from_bytes(os.urandom(3)) for _ in range(256)]}))
        assert outbox.seal() == 1


def lost(path: Path) -> list[tuple[object, object, object, object]]:
    opened, batches = stored(path)
    rows = [row for _, row in opened] + [row for state in batches.values() for *_, part in state for row in part]
    keys = ("stream", "from_seq", "to_seq", "reason")
    return [tuple(row.values[key] for key in keys) for row in rows if row.kind == "lost"]  # type: ignore[misc]


def test_the_oldest_settled_batches_go_first_and_silently(bench: Bench) -> None:
    outbox = bench.open()
    fill(outbox, 40)
    for ref in outbox.newest(20, without=()):
        outbox.mark(ref, EVICTABLE)
    outbox.commit()
    shrink(outbox)
    states = stored(bench.path)[1]
    assert [seq for _, seq, *_ in states["waiting"]] == list(range(1, 21))
    assert [seq for _, seq, *_ in states["evictable"]] == list(range(37, 41))
    assert lost(bench.path) == []


def test_an_unsettled_batch_goes_last_and_is_declared(bench: Bench, tmp_path: Path) -> None:
    outbox = bench.open()
    fill(outbox, 5)
    shrink(outbox)
    (first, *_) = lost(bench.path)
    assert first == (outbox.stream.hex(), 1, 1, "evicted")
    assert outbox.waiting == len(stored(bench.path)[1]["waiting"]) < 5
    copy = bench.cut_power(tmp_path / "copy")
    copy.open()
    copy.close()
    assert lost(copy.path) == lost(bench.path)  # gone and declared in one transaction


def test_a_declaration_that_is_itself_lost_is_declared_again(bench: Bench) -> None:
    outbox = bench.open()
    fill(outbox, 3)
    shrink(outbox)
    gone = {declared[1] for declared in lost(bench.path)}
    assert 1 in gone
    outbox.seal()
    for _ in range(6):
        shrink(outbox)
        outbox.seal()
    assert gone <= {declared[1] for declared in lost(bench.path)}


def test_a_mark_on_a_batch_that_was_evicted_meanwhile_changes_nothing(bench: Bench) -> None:
    outbox = bench.open()
    fill(outbox, 5)
    (oldest,) = outbox.oldest(1, without=())
    shrink(outbox)
    waiting = outbox.waiting
    outbox.mark(oldest, WAITING, tries=1)
    outbox.mark(oldest, EVICTABLE)
    assert outbox.waiting == waiting
    assert outbox.message(oldest) is None


def test_its_size_stays_bounded_while_nobody_answers(bench: Bench) -> None:
    bench.max_bytes = 200_000
    outbox = bench.open()
    fill(outbox, 120)
    assert outbox.bytes_used <= 200_000 + 20_000
    held = {seq for _, seq, *_ in stored(bench.path)[1]["waiting"]}
    assert held | {declared[1] for declared in lost(bench.path)} >= set(range(1, 121))
    assert outbox.waiting == len(held)
