"""In whatever order things happen, wherever the power is cut: a committed row is held, settled or declared lost."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from banua_probe.errors import OutboxError
from banua_probe.outbox_file import EVICTABLE, REFUSED, SET_ASIDE, WAITING
from banua_wire.rows import Row
from tests.probe.outboxes import Bench, Crash, receipt, stored, tick

if TYPE_CHECKING:
    from collections.abc import Callable


def _lost(row: Row) -> tuple[str, int]:
    return str(row.values["stream"]), int(str(row.values["from_seq"]))


class OutboxMachine(RuleBasedStateMachine):
    """Rows are ticks with a number each; the model is the set of numbers that were committed."""

    @initialize()
    def start(self) -> None:
        self.temporary = tempfile.TemporaryDirectory(prefix="outbox-")
        self.root = Path(self.temporary.name)
        self.copies = 0
        self.boots = 0
        self.number = 0
        self.memory: set[int] = set()
        self.committed: set[int] = set()
        self.sealed_in: dict[int, set[tuple[str, int]]] = {}  # where each tick was ever sealed
        self.settled: set[tuple[str, int]] = set()  # receipted batches: the collector has them
        self.told: set[tuple[str, int]] = set()  # declarations that the collector has
        self.bench = Bench(self.root / "0")
        self.outbox = self.bench.open()
        self.streams = [self.outbox.stream]  # all there ever were, in order

    def teardown(self) -> None:
        if hasattr(self, "bench"):
            self.bench.close()
            self.temporary.cleanup()

    # --- what happens ---------------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 5))
    def add(self, count: int) -> None:
        for _ in range(count):
            self.number += 1
            self.outbox.add(tick(self.number))
            self.memory.add(self.number)

    @rule()
    def commit(self) -> None:
        self.outbox.commit()
        self._written()

    @rule()
    def seal(self) -> None:
        self.outbox.seal()
        self._written()

    @rule()
    def seal_cut_short(self) -> None:
        self.bench.crash_at = "mid_seal"
        with contextlib.suppress(Crash):
            self.outbox.seal()
            self._written()  # there was nothing to seal
        self.bench.crash_at = ""
        self._cut()

    @rule(same_boot=st.booleans())
    def power_cut(self, same_boot: bool) -> None:
        self._cut(same_boot=same_boot)

    @rule(state=st.sampled_from([EVICTABLE, EVICTABLE, REFUSED, SET_ASIDE, WAITING]), newest=st.booleans())
    def answer(self, state: str, newest: bool) -> None:
        for ref in (self.outbox.newest if newest else self.outbox.oldest)(2, without=()):
            if state == EVICTABLE:
                self.settled.add((ref.stream.hex(), ref.seq))
            self.outbox.mark(ref, state, tries=ref.tries + 1)

    @rule()
    def conflict(self) -> None:
        for ref in self.outbox.oldest(1, without=()):
            self.outbox.reseal(ref)
        if self.outbox.stream != self.streams[-1]:
            self.streams.append(self.outbox.stream)

    @rule()
    def fork(self) -> None:
        self.outbox.fork()
        self.streams.append(self.outbox.stream)

    @rule(stored_to=st.integers(0, 5), journal=st.sampled_from([b"journal1", b"journal2"]))
    def restored_collector(self, stored_to: int, journal: bytes) -> None:
        """A journal from a backup has this stream to `stored_to`, and nothing of others if it is another journal."""
        message = receipt(self.outbox, stored_to, journal_id=journal)
        another = self.outbox._journal_id() != journal
        self.outbox.commit()
        held = {(stream.hex(), seq) for stream, seq, *_ in stored(self.bench.path)[1].get(EVICTABLE, [])}
        self.outbox.unsettle(message)
        self._written()
        stream = self.outbox.stream.hex()
        forgotten = {(of, seq) for of, seq in held if (seq > stored_to if of == stream else another)}
        self.settled -= forgotten
        assert forgotten <= {(ref.stream.hex(), ref.seq) for ref in self.outbox.oldest(10_000, without=())}

    @rule()
    def space_runs_out(self) -> None:
        self.outbox._max_bytes = self.outbox.bytes_used - 1
        if self.outbox.states():
            self.outbox._make_room()
        self.outbox._max_bytes = 64_000_000

    @rule()
    def disk_full(self) -> None:
        db = self.outbox._db
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages}")
        with contextlib.suppress(OutboxError):
            self.outbox.seal()
            self._written()
        db.execute("PRAGMA max_page_count = 1000000")

    def _written(self) -> None:
        self.committed |= self.memory
        self.memory.clear()

    def _cut(self, *, same_boot: bool = True) -> None:
        self.copies += 1
        copy = self.bench.cut_power(self.root / str(self.copies))
        self.bench.close()
        if not same_boot:
            self.boots += 1
            copy.boot = f"boot {self.boots:11}".encode()
        self.bench, self.memory = copy, set()
        self.outbox = self.bench.open()

    # --- what must hold -------------------------------------------------------------------------------------------

    @invariant()
    def nothing_committed_is_missing(self) -> None:
        if not hasattr(self, "bench"):
            return
        opened, batches = stored(self.bench.path)
        held = {int(str(row.values["n"])) for _, row in opened if row.values.get("name") == "tick"}
        declared = {_lost(row) for _, row in opened if row.kind == "lost"}
        for state in batches.values():
            for stream, seq, _, rows in state:
                for row in rows:
                    if row.kind == "lost":
                        declared.add(_lost(row))
                        if (stream.hex(), seq) in self.settled:
                            self.told.add(_lost(row))
                    elif row.values["name"] == "tick":
                        held.add(int(str(row.values["n"])))
                        self.sealed_in.setdefault(int(str(row.values["n"])), set()).add((stream.hex(), seq))
        accounted = declared | self.settled | self.told
        for number in self.committed - held:
            assert self.sealed_in[number] & accounted, f"tick {number} is gone without a word"

    @invariant()
    def counters_agree_with_the_file(self) -> None:
        if not hasattr(self, "bench"):
            return
        opened, batches = stored(self.bench.path)
        assert self.outbox.open_rows == len(opened)
        seqs = [(stream, seq) for state in batches.values() for stream, seq, *_ in state]
        assert len(seqs) == len(set(seqs))
        ours = [seq for stream, seq in seqs if stream == self.outbox.stream]
        assert all(seq < self.outbox.next_seq for seq in ours)
        assert self.outbox.waiting == len(self.outbox.oldest(10_000, without=())) + self._about_to_wait()

    def _about_to_wait(self) -> int:
        """Count the batches marked waiting of which the file does not yet say so."""
        changes = self.outbox._changes.items()
        db = self.outbox._db
        states = dict(db.execute("SELECT id, state FROM batches").fetchall())
        return sum(state == WAITING != states[batch_id] for batch_id, (state, _) in changes)

    @invariant()
    def a_new_stream_names_the_one_before(self) -> None:
        """Seq 1 names it; who goes out again takes along what it told of earlier forks, each once and by its number."""
        if not hasattr(self, "bench"):
            return
        everywhere: list[int] = []
        for state in stored(self.bench.path)[1].values():
            for stream, seq, _, rows in state:
                told = {
                    int(str(row.values["n"])): row.values["detail"]
                    for row in rows
                    if row.values.get("name") == "previous_stream"
                }
                everywhere += told
                assert all(detail == self.streams[n - 1].hex() for n, detail in told.items())
                if seq == 1 and stream != self.streams[0]:
                    assert self.streams[max(told)] == stream
        assert len(everywhere) == len(set(everywhere))


TestOutbox = OutboxMachine.TestCase
TestOutbox.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_batch_in_conflict_twice_and_once_more_takes_along_what_it_told_of_forks() -> None:
    """The steps that chance found: a batch at seq 2 tells of two forks before, and of neither for a second time."""
    machine = OutboxMachine()

    def do(*steps: Callable[[], object]) -> None:
        for step in steps:
            step()
            machine.nothing_committed_is_missing()
            machine.counters_agree_with_the_file()
            machine.a_new_stream_names_the_one_before()

    def add() -> None:
        machine.add(count=1)

    do(machine.start, add, machine.disk_full, machine.conflict, machine.conflict)
    do(machine.fork, add, machine.disk_full, machine.conflict)
    first, second, third, fourth = (stream.hex() for stream in machine.streams)
    assert [
        (stream.hex(), seq, [row.values.get("detail", row.values["n"]) for row in rows])
        for stream, seq, _, rows in stored(machine.bench.path)[1]["waiting"]
    ] == [(fourth, 1, [third, 2]), (fourth, 2, [first, second, 1])]
    machine.teardown()
