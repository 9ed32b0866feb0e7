"""Wall time of a row, and how far off it may be: a pure function of the anchors of its boot.

Between two anchors linear, error = the larger anchor error + 20 ppm × the distance to the nearer (at most 12 h of it);
outside them the nearest anchor, + 100 ppm × distance. Where two neighbours disagree by more than their errors and drift
allow, the excess counts as error too: one is wrong, and nobody can tell which. Without anchors there is no date.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final, NamedTuple

INSIDE_PPM: Final = 20
OUTSIDE_PPM: Final = 100
_INSIDE_CAP_MS: Final = 12 * 3_600_000
_MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True, order=True)
class Anchor:
    """`boottime_ms` was `unix_ms` ± `error_ms`; anchors sort by boottime, at one boottime the more exact first."""

    boottime_ms: int
    error_ms: int
    unix_ms: int


class Dated(NamedTuple):
    """A wall time in ms and the bound on its error."""

    unix_ms: int
    error_ms: int


def in_order(anchors: Iterable[Anchor]) -> list[Anchor]:
    """Return the anchors of one boot that count, sorted.

    Of several at one boottime the most exact counts; one worse than what another tells of its boottime does not.
    """
    best: dict[int, Anchor] = {}
    for anchor in sorted(anchors):
        best.setdefault(anchor.boottime_ms, anchor)
    return _undominated(_undominated(list(best.values()))[::-1])[::-1]


def _undominated(anchors: Sequence[Anchor]) -> list[Anchor]:
    """Return `anchors` without those that the best one before them, carried on at OUTSIDE_PPM, betters."""
    kept: list[Anchor] = []
    for anchor in anchors:
        if kept:
            distance = abs(anchor.boottime_ms - kept[-1].boottime_ms)
            if kept[-1].error_ms + _parts(distance, OUTSIDE_PPM) < anchor.error_ms:
                continue
        kept.append(anchor)
    return kept


def date(boottime_ms: int, anchors: Sequence[Anchor]) -> Dated | None:
    """Return the wall time of `boottime_ms` by `anchors` (from `in_order`), None when there is none."""
    if not anchors:
        return None
    index = bisect_left(anchors, boottime_ms, key=_BOOTTIME)
    if index < len(anchors) and anchors[index].boottime_ms == boottime_ms:
        return Dated(anchors[index].unix_ms, anchors[index].error_ms)
    if index in {0, len(anchors)}:
        return _outside(boottime_ms, anchors[min(index, len(anchors) - 1)])
    return _between(boottime_ms, anchors[index - 1], anchors[index])


def dates(boottimes_ms: Iterable[int], anchors: Sequence[Anchor]) -> list[Dated | None]:
    """Return what `date` says of each, faster where they are in order: their anchors are looked up once."""
    made: list[Dated | None] = []
    low, high = 1, 0  # where the anchors `before` and `after` hold: nowhere yet
    before = after = None
    for boottime_ms in boottimes_ms:
        if not low < boottime_ms < high or before is None or after is None:
            made.append(date(boottime_ms, anchors))
            index = bisect_left(anchors, boottime_ms, key=_BOOTTIME)
            if 0 < index < len(anchors):
                before, after = anchors[index - 1], anchors[index]
                low, high = before.boottime_ms, after.boottime_ms
            continue
        made.append(_between(boottime_ms, before, after))
    return made


_BOOTTIME: Final = attrgetter("boottime_ms")


def _outside(boottime_ms: int, anchor: Anchor) -> Dated:
    distance = boottime_ms - anchor.boottime_ms
    return Dated(max(anchor.unix_ms + distance, 0), anchor.error_ms + _parts(abs(distance), OUTSIDE_PPM))


def _between(boottime_ms: int, before: Anchor, after: Anchor) -> Dated:
    span = after.boottime_ms - before.boottime_ms
    elapsed = after.unix_ms - before.unix_ms
    distance = boottime_ms - before.boottime_ms
    unix_ms = before.unix_ms + (2 * distance * elapsed + span) // (2 * span)
    nearer = min(distance, span - distance, _INSIDE_CAP_MS)
    allowed = before.error_ms + after.error_ms + _parts(span, OUTSIDE_PPM)
    excess = max(abs(elapsed - span) - allowed, 0)
    return Dated(unix_ms, max(before.error_ms, after.error_ms) + _parts(nearer, INSIDE_PPM) + excess)


def _parts(distance_ms: int, ppm: int) -> int:
    return -(-distance_ms * ppm // _MILLION)
