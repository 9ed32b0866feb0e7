"""Rows to InfluxDB points: names and tags from the dictionary, every number a float, arrays only as derived fields.

Two identities never share a series and a timestamp: where two fall on one millisecond, the later of them in the order
of boot and boottime stands a nanosecond behind. Twins of one identity count once: that of the batch with the smaller
hash.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from banua_collector.dating import Dated
from banua_collector.registry import Deployment
from banua_wire.fields import BY_KIND, Type
from banua_wire.rows import Row
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


@dataclass(frozen=True, slots=True)
class Candidate:
    """A dated row and where it comes from."""

    batch_id: int
    batch_hash: bytes
    boot_id: bytes
    row: Row
    dated: Dated

    @property
    def identity(self) -> tuple[bytes, str, tuple[object, ...], int]:
        """Boot, kind, key and boottime: with the probe, what makes a row this row."""
        return (self.boot_id, self.row.kind, self.row.key, self.row.boottime_ms)


@dataclass(frozen=True, slots=True)
class Point:
    """One line of line protocol, and the batch that it counts for."""

    batch_id: int
    unix_ms: int
    line: str


@dataclass(frozen=True, slots=True)
class Twins:
    """Two rows of one identity that differ, each from its batch."""

    counted: Candidate
    dropped: Candidate


def points(candidates: Iterable[Candidate], speaker: Speaker) -> tuple[list[Point], list[Twins]]:
    """Return the points of `candidates`, in order of series and time, and the twins that differ."""
    chosen, twins = _once(candidates)
    by_moment: dict[tuple[str, int], list[Candidate]] = {}
    for candidate in chosen:
        series = series_of(candidate.row, speaker, candidate.dated.unix_ms)
        by_moment.setdefault((series, candidate.dated.unix_ms), []).append(candidate)
    made: list[Point] = []
    for (series, unix_ms), group in sorted(by_moment.items(), key=lambda item: item[0]):
        group.sort(key=lambda candidate: (candidate.boot_id, candidate.row.boottime_ms))
        for rank, candidate in enumerate(group):
            time_ns = unix_ms * NS_PER_MS + rank
            made.append(Point(candidate.batch_id, unix_ms, f"{series} {fields_of(candidate)} {time_ns}"))
    return made, twins


def _once(candidates: Iterable[Candidate]) -> tuple[list[Candidate], list[Twins]]:
    counted: dict[tuple[bytes, str, tuple[object, ...], int], Candidate] = {}
    twins: list[Twins] = []
    for candidate in sorted(candidates, key=lambda candidate: candidate.batch_hash):
        first = counted.setdefault(candidate.identity, candidate)
        if first is not candidate and first.row.values != candidate.row.values:
            twins.append(Twins(first, candidate))
    return list(counted.values()), twins


def series_of(row: Row, speaker: Speaker, unix_ms: int) -> str:
    """Return measurement and tags; a tag that is not known is not there."""
    tags: dict[str, str] = {"probe": speaker.probe}
    for name, value in zip(BY_KIND[row.kind].key, row.key, strict=True):
        if value is not None:
            tags[name] = str(value)
    deployment = speaker.place_at(unix_ms)
    if deployment is not None:
        village = deployment.place.village
        tags |= {
            "place": deployment.place.name,
            "village": village.code,
            "district": village.district_code,
            "regency": village.regency_code,
        }
    if speaker.simulated or row.values.get("simulated"):
        tags["simulated"] = "true"
    return ",".join([row.kind, *(f"{name}={value.translate(_TAG_ESCAPES)}" for name, value in sorted(tags.items()))])


def fields_of(candidate: Candidate) -> str:
    """Return the fields: values that are no tags, figures derived from arrays, and the error of the time."""
    kind = BY_KIND[candidate.row.kind]
    values: dict[str, float | str] = {"time_error_ms": candidate.dated.error_ms}
    for name, value in candidate.row.values.items():
        field = kind.field(name)
        if field is None or name in kind.key or name == "simulated":
            continue
        if isinstance(value, list):
            values |= DERIVED[field.name](value)
        else:
            values[name] = value if field.type is Type.TEXT else float(value)
    return ",".join(f"{name}={_literal(value)}" for name, value in sorted(values.items()))


def _literal(value: float | str) -> str:
    return f'"{value.translate(_TEXT_ESCAPES)}"' if isinstance(value, str) else repr(float(value))


DERIVED: Final[Mapping[str, Callable[[list[int | float | None]], dict[str, float]]]] = {"rtt_us": summarise}
"""What stands for an array in InfluxDB, by the array's field name."""
