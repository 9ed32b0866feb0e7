"""Rows to InfluxDB points: names and tags from the dictionary, every number a float, arrays only as derived fields.

Two identities never share a series and a timestamp: where two fall on one millisecond, the later of them in the order
of boot and boottime stands a nanosecond behind. Twins of one identity count once: that of the batch with the smaller
hash.

A province makes tens of thousands of these a minute, so values become text column by column, and a text is remembered.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final, NamedTuple

from banua_collector.dating import Dated
from banua_collector.registry import Deployment
from banua_wire.codec import Block
from banua_wire.fields import BY_KIND, Type, Value
from banua_wire.summary import summarise

NS_PER_MS: Final = 1_000_000
_TAG_ESCAPES: Final = str.maketrans({",": r"\,", "=": r"\=", " ": r"\ ", "\\": "/"})
"""Line protocol cannot say a backslash before a comma in a tag; only a hostile probe would, and gets a slash."""
_TEXT_ESCAPES: Final = str.maketrans({'"': r"\"", "\\": "\\\\"})


@dataclass(frozen=True, slots=True)
class Speaker:
    """Whose rows they are: probe name, simulated or not, and where it stood at a wall time in ms."""

    probe: str
    simulated: bool
    deployments: tuple[Deployment, ...]

    def place_at(self, unix_ms: int) -> Deployment | None:
        """Return the deployment that covers `unix_ms`."""
        return next((deployment for deployment in self.deployments if deployment.covers(unix_ms)), None)


class Candidate(NamedTuple):
    """A dated row and where it comes from; a tuple, because there is one for every row."""

    batch_id: int
    batch_hash: bytes
    boot_id: bytes
    kind: str
    key: tuple[Value | None, ...]
    boottime_ms: int
    fields: str
    """Its fields as line protocol says them, each with a comma after it; the error of the time left out."""
    simulated: bool
    unix_ms: int
    error_ms: int

    @property
    def identity(self) -> tuple[Any, ...]:
        """Boot, kind, key and boottime: with the probe, what makes a row this row."""
        return self[2:6]


class Point(NamedTuple):
    """One line of line protocol, and the batch that it counts for."""

    batch_id: int
    unix_ms: int
    line: str


@dataclass(frozen=True, slots=True)
class Twins:
    """Two rows of one identity that differ in what is written of them, each from its batch."""

    counted: Candidate
    dropped: Candidate


def candidates_of(
    block: Block, dated: Sequence[Dated | None], batch_id: int, batch_hash: bytes, boot_id: bytes
) -> list[Candidate]:
    """Return the rows of `block` that have a date in `dated`."""
    kind, n = block.kind.name, len(block.boottimes_ms)
    keys = zip(*block.keys(), strict=True) if block.kind.key else [()] * n
    simulated = block.columns.get("simulated") or [None] * n
    rows = zip(keys, block.boottimes_ms, fields_of(block), simulated, dated, strict=True)
    return [
        Candidate(batch_id, batch_hash, boot_id, kind, key, boottime_ms, fields, bool(is_simulated), *date)
        for key, boottime_ms, fields, is_simulated, date in rows
        if date is not None
    ]


def points(candidates: Iterable[Candidate], speaker: Speaker) -> tuple[list[Point], list[Twins]]:
    """Return the points of `candidates`, in order of series and time, and the twins that differ."""
    chosen, twins = _once(list(candidates))
    by_series: dict[str, list[Candidate]] = {}
    names: dict[Any, str] = {}
    place = None
    for candidate in chosen:
        if place is None or not place.covers(candidate.unix_ms):
            place = speaker.place_at(candidate.unix_ms)
        alike = (candidate.kind, candidate.key, candidate.simulated, None if place is None else place.id)
        series = names.get(alike)
        if series is None:
            series = names[alike] = series_of(candidate, speaker, place)
        by_series.setdefault(series, []).append(candidate)
    made: list[Point] = []
    for series in sorted(by_series):
        before, rank = -1, 0
        for candidate in sorted(by_series[series], key=_IN_ORDER):
            rank = rank + 1 if candidate.unix_ms == before else 0
            before = candidate.unix_ms
            error = f"time_error_ms={float(candidate.error_ms)!r}"
            line = f"{series} {candidate.fields}{error} {before * NS_PER_MS + rank}"
            made.append(Point(candidate.batch_id, before, line))
    return made, twins


_IN_ORDER: Final = attrgetter("unix_ms", "boot_id", "boottime_ms")


def _once(candidates: list[Candidate]) -> tuple[list[Candidate], list[Twins]]:
    if len({candidate[2:6] for candidate in candidates}) == len(candidates):
        return candidates, []
    counted: dict[tuple[Any, ...], Candidate] = {}
    twins: list[Twins] = []
    for candidate in sorted(candidates, key=attrgetter("batch_hash")):
        first = counted.setdefault(candidate.identity, candidate)
        if first is not candidate and (first.fields, first.simulated) != (candidate.fields, candidate.simulated):
            twins.append(Twins(first, candidate))
    return list(counted.values()), twins


def series_of(candidate: Candidate, speaker: Speaker, deployment: Deployment | None) -> str:
    """Return measurement and tags; a tag that is not known is not there."""
    tags: dict[str, str] = {"probe": speaker.probe}
    for name, value in zip(BY_KIND[candidate.kind].key, candidate.key, strict=True):
        if value is not None:
            tags[name] = str(value)
    if deployment is not None:
        village = deployment.place.village
        tags |= {
            "place": deployment.place.name,
            "village": village.code,
            "district": village.district_code,
            "regency": village.regency_code,
        }
    if speaker.simulated or candidate.simulated:
        tags["simulated"] = "true"
    told = (f"{name}={value.translate(_TAG_ESCAPES)}" for name, value in sorted(tags.items()))
    return ",".join([candidate.kind, *told])


def fields_of(block: Block) -> list[str]:
    """Return for each row its fields: values that are no tags, and figures derived from arrays, by name."""
    kind = block.kind
    columns: list[list[str]] = []
    for name in sorted(block.columns):
        field = kind.field(name)
        if field is None or name in kind.key or name == "simulated":
            continue
        values = block.columns[name]
        if field.type is Type.ARRAY:
            derive = DERIVED[name]
            columns.append(["" if value is None else _figures(derive(value)) for value in values])  # type: ignore[arg-type]
        else:
            texts = _TEXTS.get(name) or _TEXTS.setdefault(name, _Texts(name))
            columns.append([texts[value] for value in values])  # type: ignore[index]
    return list(map("".join, zip(*columns, strict=True))) if columns else [""] * len(block.boottimes_ms)


class _Texts(dict[int | float | str | None, str]):
    """What is written of a field, by its value; values repeat, so most are written once."""

    def __init__(self, name: str) -> None:
        super().__init__({None: ""})
        self._name = name

    def __missing__(self, value: float | str) -> str:
        text = f"{self._name}={_literal(value)},"
        if len(self) < _MOST_TEXTS:
            self[value] = text
        return text


_MOST_TEXTS: Final = 2000
"""Most values remembered of one field: levels and counts repeat, totals do not."""
_TEXTS: Final[dict[str, _Texts]] = {}


def _figures(figures: Mapping[str, float]) -> str:
    return "".join(f"{name}={_literal(value)}," for name, value in sorted(figures.items()))


def _literal(value: float | str) -> str:
    return f'"{value.translate(_TEXT_ESCAPES)}"' if isinstance(value, str) else repr(float(value))


DERIVED: Final[Mapping[str, Callable[[list[int | float | None]], dict[str, float]]]] = {"rtt_us": summarise}
"""What stands for an array in InfluxDB, by the array's field name."""
