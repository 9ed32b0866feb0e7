"""Who may speak, and where they stand: probes and their keys, villages, places, deployments.

A key gets here by a person's command only; none is ever learnt from what arrives. Whoever changes a deployment gets
back the probe's time range that now reads differently (`Affected`), for the projections to rewrite.
"""

import csv
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final, TypedDict, Unpack

from sqlalchemy import Connection, RowMapping, Select, insert, or_, select, update

from banua_collector.clock import iso
from banua_collector.db import insert_or, lock_probes
from banua_collector.errors import RegistryError
from banua_collector.tables import deployments, keys, places, probes, villages
from banua_wire.signature import KEY_BYTES
from banua_wire.topics import is_name

_MOST_CHARACTERS: Final = {"power_source": 32, "supply_hours": 64, "antenna": 100}
CONNECTIVITY: Final = ("online", "sometimes", "by_hand")
_DATA: Final = files("banua_collector") / "data"
_RESERVED: Final = frozenset({"collector"})
"""Names that the broker's access rules know already: the collector's own, allowed to write every receipt."""
_PLACE_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe that may speak."""

    id: int
    name: str
    simulated: bool
    added_ms: int


@dataclass(frozen=True, slots=True)
class Key:
    """A probe's public key and since, until when it is believed."""

    id: int
    probe_id: int
    public_key: bytes
    valid_from_ms: int
    retired_ms: int | None
    revoked_ms: int | None


@dataclass(frozen=True, slots=True)
class Village:
    """A desa or kelurahan of the official list."""

    code: str
    name: str
    district_code: str
    district: str
    regency_code: str
    regency: str
    latitude: float | None
    longitude: float | None
    edition: str


@dataclass(frozen=True, slots=True)
class Place:
    """A titik ukur: the point in a village where measurements are made, whichever device makes them."""

    id: int
    name: str
    title: str
    latitude: float | None
    longitude: float | None
    village: Village


@dataclass(frozen=True, slots=True)
class Deployment:
    """Which probe stood where, from when until when (None: still)."""

    id: int
    probe_id: int
    probe: str
    place: Place
    from_ms: int
    to_ms: int | None
    power_source: str | None
    supply_hours: str | None
    antenna: str | None
    connectivity: str

    def covers(self, ms: int) -> bool:
        """Say whether the probe stood there at `ms`."""
        return self.from_ms <= ms and (self.to_ms is None or ms < self.to_ms)


@dataclass(frozen=True, slots=True)
class Affected:
    """The time range of a probe whose place reads differently now; `to_ms` None: without end."""

    probe_id: int
    from_ms: int
    to_ms: int | None


class Details(TypedDict, total=False):
    """What is published beside a deployment's measurements."""

    power_source: str | None
    supply_hours: str | None
    antenna: str | None
    connectivity: str


class Corrections(Details, total=False):
    """What `correct_deployment` may change; what is not named stays."""

    place: str
    from_ms: int
    to_ms: int | None


# --- probes and keys -------------------------------------------------------------------------------------------------


def add_probe(conn: Connection, name: str, public_key: bytes, *, now_ms: int, simulated: bool = False) -> int:
    """Register a new probe with its first key and return its id."""
    if not is_name(name):
        raise RegistryError(f"{name!r:.60} is not a probe name: 1 to 32 of a–z, 0–9 and '-', no '-' at either end")
    if name in _RESERVED:
        raise RegistryError(f"{name} cannot name a probe: the broker would take it for the collector")
    if conn.execute(select(probes.c.id).where(probes.c.name == name)).first():
        raise RegistryError(f"probe {name} is registered already")
    probe_id = _inserted(conn.execute(insert(probes).values(name=name, simulated=simulated, added_ms=now_ms)))
    add_key(conn, name, public_key, now_ms=now_ms)
    return probe_id


def add_key(conn: Connection, name: str, public_key: bytes, *, now_ms: int) -> int:
    """Give the probe a further key, valid from now on, and return the key's id; the others stay as they are."""
    probe = probe_named(conn, name)
    if len(public_key) != KEY_BYTES:
        raise RegistryError(f"public key of {len(public_key)} bytes; it has {KEY_BYTES}")
    owner = conn.execute(
        select(probes.c.name).join(keys, keys.c.probe_id == probes.c.id).where(keys.c.public_key == public_key)
    ).scalar()
    if owner is not None:
        raise RegistryError(f"key {public_key.hex()[:16]}… belongs to probe {owner} already")
    return _inserted(conn.execute(insert(keys).values(probe_id=probe.id, public_key=public_key, valid_from_ms=now_ms)))


def retire_key(conn: Connection, name: str, key_prefix: str, now_ms: int) -> Key:
    """End a key in good order: what was signed in boots begun before `now_ms` is still believed."""
    return _end_key(conn, name, key_prefix, "retired_ms", now_ms)


def revoke_key(conn: Connection, name: str, key_prefix: str, now_ms: int) -> Key:
    """End a stolen or lost key: nothing it signed is believed that arrives after `now_ms`."""
    return _end_key(conn, name, key_prefix, "revoked_ms", now_ms)


def keys_of(conn: Connection, name: str) -> list[Key]:
    """Return every key the probe ever had, oldest first; none when there is no such probe."""
    found = conn.execute(
        select(keys).join(probes, keys.c.probe_id == probes.c.id).where(probes.c.name == name).order_by(keys.c.id)
    )
    return [Key(**row) for row in found.mappings()]


def keys_by_probe(conn: Connection, probe_ids: Collection[int]) -> dict[int, list[Key]]:
    """Return every key that some probes ever had, oldest first."""
    found: dict[int, list[Key]] = {}
    for row in conn.execute(select(keys).where(keys.c.probe_id.in_(probe_ids)).order_by(keys.c.id)).mappings():
        found.setdefault(row["probe_id"], []).append(Key(**row))
    return found


def probe_named(conn: Connection, name: str) -> Probe:
    """Return the probe called `name`; RegistryError when there is none."""
    row = conn.execute(select(probes).where(probes.c.name == name)).mappings().first()
    if row is None:
        raise RegistryError(f"probe {name} is not registered")
    return Probe(**row)


def list_probes(conn: Connection) -> list[Probe]:
    """Return every probe by name."""
    return [Probe(**row) for row in conn.execute(select(probes).order_by(probes.c.name)).mappings()]


def _end_key(conn: Connection, name: str, key_prefix: str, column: str, now_ms: int) -> Key:
    probe = probe_named(conn, name)
    lock_probes(conn, [probe.id])
    prefix = key_prefix.lower()
    found = [key for key in keys_of(conn, probe.name) if key.public_key.hex().startswith(prefix)]
    if not prefix or not found:
        raise RegistryError(f"probe {name} has no key that begins with {key_prefix!r:.80}")
    if len(found) > 1:
        raise RegistryError(f"probe {name} has {len(found)} keys that begin with {key_prefix}: give more digits")
    key = found[0]
    if key.revoked_ms is not None:
        raise RegistryError(f"key {_short(key)} was revoked at {iso(key.revoked_ms)}")
    if column == "retired_ms" and key.retired_ms is not None:
        raise RegistryError(f"key {_short(key)} was retired at {iso(key.retired_ms)}")
    conn.execute(update(keys).where(keys.c.id == key.id).values({column: now_ms}))
    return next(ended for ended in keys_of(conn, name) if ended.id == key.id)


def _short(key: Key) -> str:
    return f"{key.public_key.hex()[:16]}…"


# --- villages and places ---------------------------------------------------------------------------------------------


def shipped_villages() -> list[Village]:
    """Return the official list that this version ships."""
    about = tomllib.loads((_DATA / "villages-63.toml").read_text(encoding="utf-8"))
    with (_DATA / "villages-63.csv").open(encoding="utf-8") as file:
        return [
            Village(
                **{name: row[name] for name in _VILLAGE_TEXTS},
                latitude=float(row["latitude"]) if row["latitude"] else None,
                longitude=float(row["longitude"]) if row["longitude"] else None,
                edition=about["edition"],
            )
            for row in csv.DictReader(file)
        ]


_VILLAGE_TEXTS: Final = ("code", "name", "district_code", "district", "regency_code", "regency")


def load_villages(conn: Connection) -> int:
    """Bring the villages to the shipped list and return how many rows that changed; a village is never removed."""
    known = {row["code"]: Village(**row) for row in conn.execute(select(villages)).mappings()}
    shipped = shipped_villages()
    new = [_columns(village) for village in shipped if village.code not in known]
    changed = [village for village in shipped if known.get(village.code, village) != village]
    if new:
        conn.execute(insert_or(conn, villages).on_conflict_do_nothing(), new)
    for village in changed:
        conn.execute(update(villages).where(villages.c.code == village.code).values(_columns(village)))
    return len(new) + len(changed)


def find_villages(conn: Connection, text: str) -> list[Village]:
    """Return the villages whose name contains `text`, or whose code begins with it, by code."""
    matches = or_(villages.c.name.icontains(text, autoescape=True), villages.c.code.startswith(text, autoescape=True))
    return [
        Village(**row) for row in conn.execute(select(villages).where(matches).order_by(villages.c.code)).mappings()
    ]


def add_place(
    conn: Connection, village_code: str, name: str, title: str, lat: float | None = None, lon: float | None = None
) -> int:
    """Register a place and return its id; without coordinates it still counts, but no map shows it."""
    if not _PLACE_NAME.fullmatch(name):
        raise RegistryError(f"{name!r:.80} is not a place name: 1 to 64 of a–z, 0–9 and '-', no '-' at either end")
    if not title.strip() or len(title) > 100 or not title.isprintable():  # noqa: PLR2004 (the column's length)
        raise RegistryError("a place's title has 1 to 100 printable characters")
    _check_coordinates(lat, lon)
    if not conn.execute(select(villages.c.code).where(villages.c.code == village_code)).first():
        raise RegistryError(f"village {village_code!r:.20} is not in the list (find it with: villages find NAME)")
    if conn.execute(select(places.c.id).where(places.c.name == name)).first():
        raise RegistryError(f"place {name} exists already")
    return _inserted(
        conn.execute(
            insert(places).values(village_code=village_code, name=name, title=title, latitude=lat, longitude=lon)
        )
    )


def list_places(conn: Connection) -> list[Place]:
    """Return every place by name."""
    return [_place(row) for row in conn.execute(_places().order_by(places.c.name)).mappings()]


def _columns(village: Village) -> dict[str, Any]:
    return {column.name: getattr(village, column.name) for column in villages.columns}


def _check_coordinates(lat: float | None, lon: float | None) -> None:
    if (lat is None) != (lon is None):
        raise RegistryError("latitude and longitude go together")
    for name, value, most in (("latitude", lat, 90), ("longitude", lon, 180)):
        if value is not None and not -most <= value <= most:
            raise RegistryError(f"{name} {value:g} is outside -{most}…{most}")


# --- deployments -----------------------------------------------------------------------------------------------------


def deploy(
    conn: Connection,
    probe: str,
    place: str,
    from_ms: int,
    to_ms: int | None = None,
    *,
    end: bool = False,
    **details: Unpack[Details],
) -> tuple[int, Affected]:
    """Say that `probe` stands at `place` in a time; return the deployment's id and what that changes.

    A probe stands in at most one place at a time. With `end`, the deployment that is open at `from_ms` ends there.
    """
    probe_id = probe_named(conn, probe).id
    lock_probes(conn, [probe_id])
    place_id = _place_id(conn, place)
    _check_times(from_ms, to_ms)
    if end:
        _end_open(conn, probe, from_ms)
    _refuse_overlap(conn, probe_id, from_ms, to_ms, but=None)
    values = {"probe_id": probe_id, "place_id": place_id, "from_ms": from_ms, "to_ms": to_ms}
    done = conn.execute(insert(deployments).values(values | _checked({"connectivity": "online", **details})))
    return _inserted(done), Affected(probe_id, from_ms, None if end else to_ms)


def end_deployment(conn: Connection, deployment_id: int, to_ms: int) -> Affected:
    """End an open deployment at `to_ms`."""
    deployment = deployment_by_id(conn, deployment_id)
    if deployment.to_ms is not None:
        raise RegistryError(f"deployment {deployment_id} ended at {iso(deployment.to_ms)}; correct it instead")
    return correct_deployment(conn, deployment_id, to_ms=to_ms)


def correct_deployment(conn: Connection, deployment_id: int, **corrections: Unpack[Corrections]) -> Affected:
    """Change what was said of a deployment; `to_ms` None makes it open."""
    lock_probes(conn, [deployment_by_id(conn, deployment_id).probe_id])
    was = deployment_by_id(conn, deployment_id)
    from_ms = corrections.get("from_ms", was.from_ms)
    to_ms = corrections.get("to_ms", was.to_ms)
    place_id = _place_id(conn, corrections["place"]) if "place" in corrections else was.place.id
    _check_times(from_ms, to_ms)
    _refuse_overlap(conn, was.probe_id, from_ms, to_ms, but=deployment_id)
    details = {name: value for name, value in corrections.items() if name in Details.__annotations__}
    conn.execute(
        update(deployments)
        .where(deployments.c.id == deployment_id)
        .values({"place_id": place_id, "from_ms": from_ms, "to_ms": to_ms} | _checked(details))
    )
    return _difference(was, place_id, from_ms, to_ms)


def deployment_by_id(conn: Connection, deployment_id: int) -> Deployment:
    """Return one deployment; RegistryError when there is none."""
    row = conn.execute(_deployments().where(deployments.c.id == deployment_id)).mappings().first()
    if row is None:
        raise RegistryError(f"there is no deployment {deployment_id}")
    return _deployment(row)


def deployments_by_probe(conn: Connection, probe_ids: Collection[int]) -> dict[int, list[Deployment]]:
    """Return where each of the probes stood, in order of time."""
    found = _deployments().where(deployments.c.probe_id.in_(probe_ids)).order_by(deployments.c.from_ms)
    stood: dict[int, list[Deployment]] = {}
    for row in conn.execute(found).mappings():
        deployment = _deployment(row)
        stood.setdefault(deployment.probe_id, []).append(deployment)
    return stood


def deployments_of(conn: Connection, probe_id: int) -> list[Deployment]:
    """Return where the probe stood, oldest first."""
    return deployments_by_probe(conn, [probe_id]).get(probe_id, [])


def list_deployments(conn: Connection) -> list[Deployment]:
    """Return every deployment, by probe and time."""
    found = _deployments().order_by(probes.c.name, deployments.c.from_ms)
    return [_deployment(row) for row in conn.execute(found).mappings()]


def _check_times(from_ms: int, to_ms: int | None) -> None:
    if to_ms is not None and to_ms <= from_ms:
        raise RegistryError(f"a deployment from {iso(from_ms)} cannot end at {iso(to_ms)}")


def _checked(details: Mapping[str, Any]) -> dict[str, Any]:
    if details.get("connectivity", "online") not in CONNECTIVITY:
        raise RegistryError(f"connectivity {details['connectivity']!r:.40} is not one of {', '.join(CONNECTIVITY)}")
    for name, most in _MOST_CHARACTERS.items():
        if len(details.get(name) or "") > most:
            raise RegistryError(f"{name} is longer than {most} characters")
    return dict(details)


def _refuse_overlap(conn: Connection, probe_id: int, from_ms: int, to_ms: int | None, *, but: int | None) -> None:
    for other in deployments_of(conn, probe_id):
        begins_after = to_ms is not None and to_ms <= other.from_ms
        ended_before = other.to_ms is not None and other.to_ms <= from_ms
        if other.id != but and not begins_after and not ended_before:
            until = "now on" if other.to_ms is None else iso(other.to_ms)
            raise RegistryError(
                f"probe {other.probe} stands at {other.place.name} from {iso(other.from_ms)} to {until}"
                f" (deployment {other.id}): a probe stands in one place at a time"
            )


def _end_open(conn: Connection, probe: str, to_ms: int) -> None:
    for deployment in deployments_of(conn, probe_named(conn, probe).id):
        if deployment.to_ms is None:
            end_deployment(conn, deployment.id, to_ms)
            return
    raise RegistryError(f"probe {probe} has no open deployment to end")


def _difference(was: Deployment, place_id: int, from_ms: int, to_ms: int | None) -> Affected:
    """Return the shortest single range outside which the probe's place reads as before."""
    if place_id == was.place.id and from_ms == was.from_ms:
        ends = [ms for ms in (was.to_ms, to_ms) if ms is not None]
        first = min(ends) if ends else from_ms
    else:
        first = min(from_ms, was.from_ms)
    last = None if was.to_ms is None or to_ms is None else max(was.to_ms, to_ms)
    return Affected(was.probe_id, first, last)


def _place_id(conn: Connection, name: str) -> int:
    place_id: int | None = conn.execute(select(places.c.id).where(places.c.name == name)).scalar()
    if place_id is None:
        raise RegistryError(f"there is no place {name}")
    return place_id


def _inserted(result: Any) -> int:
    return int(result.inserted_primary_key[0])


_VILLAGE_COLUMNS: Final = [column.label(f"village__{column.name}") for column in villages.columns]
_PLACE_COLUMNS: Final = [
    column.label(f"place__{column.name}")
    for column in (places.c.id, places.c.name, places.c.title, places.c.latitude, places.c.longitude)
]


def _places() -> Select[Any]:
    return select(*_PLACE_COLUMNS, *_VILLAGE_COLUMNS).join_from(places, villages)


def _deployments() -> Select[Any]:
    return (
        select(deployments, probes.c.name.label("probe"), *_PLACE_COLUMNS, *_VILLAGE_COLUMNS)
        .join_from(deployments, probes)
        .join(places, deployments.c.place_id == places.c.id)
        .join(villages, places.c.village_code == villages.c.code)
    )


def _place(found: RowMapping) -> Place:
    village = Village(**{column.name: found[f"village__{column.name}"] for column in villages.columns})
    own = ("id", "name", "title", "latitude", "longitude")
    return Place(**{name: found[f"place__{name}"] for name in own}, village=village)


def _deployment(found: RowMapping) -> Deployment:
    own = ("id", "probe_id", "probe", "from_ms", "to_ms", "power_source", "supply_hours", "antenna", "connectivity")
    return Deployment(**{name: found[name] for name in own}, place=_place(found))
