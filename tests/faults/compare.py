"""What must be true after any fault: truth files, outboxes, receipts, journal and InfluxDB side by side.

Pure: `Evidence` goes in, a line for each thing that is not as it must be comes out. Who gathers it (`harness.py`) reads
files, SQL and HTTP; of the product only the wire codec is used, to open the batches of the journal.

Which rows had to survive is not asked of the probe: after each end of the load process, whoever killed it looks into
the outboxes. What stands there was committed. Rows are committed in the order in which they are made, so everything a
probe made up to the newest row found was committed too, and only rows after it may be gone, none of them older than the
commit interval.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Identity = tuple[str, str, str, int]
"""Probe, boot, modem and boottime in ms: what makes a row of the load this row."""

ROUNDING_MS = 2
"""Boottime and wall time are each cut to whole milliseconds."""


@dataclass(frozen=True, slots=True)
class Made:
    """A row as the truth file has it, and the wall time at which it was made."""

    identity: Identity
    wall_ms: int
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Name:
    """What a receipt calls a batch by, and who speaks."""

    probe: str
    stream: bytes
    seq: int
    hash8: bytes


@dataclass(frozen=True, slots=True)
class Look:
    """What stood in the outboxes when the load process had ended: rows not yet sealed, and all batches ever seen."""

    began_ms: int
    ended_ms: int
    open_rows: frozenset[Identity]
    sealed: frozenset[Name]


@dataclass(frozen=True, slots=True)
class Stored:
    """A batch of the journal: its name, its boot, and its rows as (kind, boottime in ms, values)."""

    name: Name
    boot: str
    rows: list[tuple[str, int, dict[str, Any]]]

    def radio(self) -> Iterator[tuple[Identity, dict[str, Any]]]:
        for kind, boottime_ms, values in self.rows:
            if kind == "radio":
                yield (self.name.probe, self.boot, str(values["modem"]), boottime_ms), values


@dataclass(slots=True)
class Evidence:
    """Everything that was seen from outside. `window_ms`: how old a row may be that dies with the process's memory.

    `excused` rows were destroyed on purpose; `unwritable` ones InfluxDB refuses for good; `claims` are other wall times
    at which a row may stand, since the probe's clock claimed so. Probes in `rolled_back` lost the end of their outbox:
    they may have sealed a row again that had been receipted, as it was. `early` were receipted, and not in the journal
    when the collector was dead: probes send such a batch again, so that it is there in the end.
    """

    made: list[Made]
    looks: list[Look]
    receipts: set[Name]
    stored_to: dict[tuple[str, bytes], int]
    journal: list[Stored]
    points: list[dict[str, Any]]
    window_ms: int
    excused: frozenset[Identity] = frozenset()
    excused_batches: frozenset[Name] = frozenset()
    unwritable: frozenset[Identity] = frozenset()
    claims: tuple[int, ...] = (0,)
    rolled_back: frozenset[str] = frozenset()
    early: frozenset[Name] = frozenset()
    figures: dict[str, int] = field(default_factory=dict)


def differences(evidence: Evidence) -> list[str]:
    """Return one line for each thing that is lost, doubled or changed; an empty list is the proof."""
    truth = {made.identity: made for made in evidence.made}
    journalled = dict(row for stored in evidence.journal for row in stored.radio())
    found = [
        *_truth_is_usable(evidence.made),
        *_batches(evidence),
        *_rows(evidence, truth),
        *_losses(evidence, truth, journalled),
        *_receipts(evidence),
        *_points(evidence, truth, journalled),
        *_anchors(evidence),
    ]
    evidence.figures |= {
        "rows made": len(truth),
        "rows journalled": len(journalled),
        "rows that died in memory": len(truth.keys() - journalled.keys()),
        "batches": len(evidence.journal),
        "receipts seen": len(evidence.receipts),
        "points": len(evidence.points),
    }
    return found


def _truth_is_usable(made: Iterable[Made]) -> Iterator[str]:
    for identity, count in Counter(row.identity for row in made).items():
        if count > 1:
            yield f"truth: {identity} was made {count} times"


def _batches(evidence: Evidence) -> Iterator[str]:
    """Each sealed batch is once in the journal, and no seq of a stream is taken twice."""
    for (probe, stream, seq), count in Counter(
        (stored.name.probe, stored.name.stream, stored.name.seq) for stored in evidence.journal
    ).items():
        if count > 1:
            yield f"journal: seq {seq} of {probe} {stream.hex()} stands there {count} times"
    stored = Counter(stored.name for stored in evidence.journal)
    sealed = {name for look in evidence.looks for name in look.sealed} - evidence.excused_batches
    for name in sorted(sealed - stored.keys(), key=repr):
        yield f"journal: {name} was sealed and is missing"


def _rows(evidence: Evidence, truth: dict[Identity, Made]) -> Iterator[str]:
    """Each row of the journal is there once, and as it was made."""
    seen: set[Identity] = set()
    for stored in evidence.journal:
        for identity, values in stored.radio():
            if identity in seen and stored.name.probe not in evidence.rolled_back:
                yield f"journal: {identity} stands in two batches"
            seen.add(identity)
            if identity not in truth:
                yield f"journal: {identity} was never made"
            elif truth[identity].values != values:
                yield f"journal: {identity} was {truth[identity].values} and became {values}"


def _losses(
    evidence: Evidence, truth: dict[Identity, Made], journalled: dict[Identity, dict[str, Any]]
) -> Iterator[str]:
    """What was committed is in the journal; what is not there was younger than the commit interval at the end."""
    newest = _newest_committed(evidence)
    for look in evidence.looks:
        for identity in sorted(look.open_rows - journalled.keys() - evidence.excused):
            yield f"journal: {identity} was committed to the outbox and is missing"
    oldest = 0
    for identity in sorted(truth.keys() - journalled.keys() - evidence.excused):
        probe, *_, boottime_ms = identity
        ended_ms = next(
            (look.ended_ms for look in evidence.looks if look.began_ms <= boottime_ms <= look.ended_ms), None
        )
        if ended_ms is None:
            yield f"journal: {identity} is missing, though its process was not killed"
            continue
        age_ms = ended_ms - boottime_ms
        oldest = max(oldest, age_ms)
        committed = newest.get((probe, ended_ms), 0)
        if boottime_ms <= committed:
            yield f"journal: {identity} is missing, though a row made at {committed} was committed"
        elif age_ms > evidence.window_ms:
            yield f"journal: {identity} is missing, made {age_ms} ms before the process's end"
    evidence.figures["oldest row that died in memory, ms"] = oldest


def _newest_committed(evidence: Evidence) -> dict[tuple[str, int], int]:
    """Return boottime of the newest row that stood in a probe's outbox at each look, by probe and end of the look."""
    in_batch: dict[Name, int] = {}
    for stored in evidence.journal:
        in_batch[stored.name] = max((identity[3] for identity, _ in stored.radio()), default=0)
    newest: dict[tuple[str, int], int] = {}
    for look in evidence.looks:
        found = [(probe, boottime_ms) for probe, _, _, boottime_ms in look.open_rows]
        found += [(name.probe, in_batch.get(name, 0)) for name in look.sealed]
        for probe, boottime_ms in found:
            key = (probe, look.ended_ms)
            newest[key] = max(newest.get(key, 0), boottime_ms)
    return newest


def _receipts(evidence: Evidence) -> Iterator[str]:
    """Nothing receipted is missing: batch by batch, and by what a receipt counts as settled."""
    stored = {stored.name for stored in evidence.journal}
    for name in sorted(evidence.early, key=repr):
        yield f"journal: {name} was receipted before it was stored"
    for name in sorted(evidence.receipts - stored, key=repr):
        yield f"journal: {name} was receipted and is missing"
    seqs: dict[tuple[str, bytes], set[int]] = {}
    for name in stored:
        seqs.setdefault((name.probe, name.stream), set()).add(name.seq)
    excused = {(name.probe, name.stream, name.seq) for name in evidence.excused_batches}
    for (probe, stream), stored_to in sorted(evidence.stored_to.items()):
        missing = set(range(1, stored_to + 1)) - seqs.get((probe, stream), set())
        missing = {seq for seq in missing if (probe, stream, seq) not in excused}
        if missing:
            yield f"journal: {probe} {stream.hex()} was receipted to {stored_to}, without {sorted(missing)[:9]}"


def _points(
    evidence: Evidence, truth: dict[Identity, Made], journalled: dict[Identity, dict[str, Any]]
) -> Iterator[str]:
    """Each row is in InfluxDB once, with its values, at its time within the error it states; and nothing else is."""
    by_cell = {(identity[0], identity[2], made.values["cell_id"]): identity for identity, made in truth.items()}
    times: Counter[Identity] = Counter()
    worst = 0.0
    for point in evidence.points:
        if point["_measurement"] != "radio":
            continue
        told = {name: value for name, value in point.items() if value is not None}
        identity = by_cell.get((told["probe"], told["modem"], told["cell_id"]))
        if identity is None:
            yield f"influx: nobody made {told}"
            continue
        times[identity] += 1
        made = truth[identity]
        values = {name: told.get(name) for name in told.keys() - {"_measurement", "time", "probe", "time_error_ms"}}
        if values != made.values:
            yield f"influx: {identity} was {made.values} and became {values}"
        off_ms = min(abs(told["time"] // 1_000_000 - made.wall_ms - claim) for claim in evidence.claims)
        worst = max(worst, off_ms)
        if off_ms > told["time_error_ms"] + ROUNDING_MS:
            yield f"influx: {identity} is {off_ms} ms off and says {told['time_error_ms']}"
    evidence.figures["worst time, ms"] = round(worst)
    for identity in sorted(journalled.keys() | times.keys()):
        wanted = 0 if identity in evidence.unwritable else 1
        if times[identity] != wanted:
            yield f"influx: {identity} stands there {times[identity]} times, not {wanted}"


def _anchors(evidence: Evidence) -> Iterator[str]:
    """The journal's anchors are in InfluxDB, one point each, and no other measurement is."""
    anchors = {
        (stored.name.probe, stored.boot, boottime_ms)
        for stored in evidence.journal
        for kind, boottime_ms, _ in stored.rows
        if kind == "clock"
    }
    wanted = Counter(probe for probe, _, _ in anchors)
    found = Counter(point["probe"] for point in evidence.points if point["_measurement"] == "clock")
    for probe in sorted(wanted | found):
        if wanted[probe] != found[probe]:
            yield f"influx: {found[probe]} anchors of {probe} stand there, {wanted[probe]} are in the journal"
    for other in sorted({point["_measurement"] for point in evidence.points} - {"radio", "clock"}):
        yield f"influx: nobody made a measurement {other}"
