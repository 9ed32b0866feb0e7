"""What a rebuild of the journal needs beside its months: who may speak, where they stood, which boots count.

One JSON file, without ids and without secrets (keys are public ones). The same registry makes the same bytes.
"""

from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import Connection, insert, select

from banua_collector.db import insert_or
from banua_collector.errors import ArchiveError
from banua_collector.tables import boots, deployments, keys, places, probes, streams, villages

FORMAT: Final = "banua-registry"
VERSION: Final = 1
_P = TypeVar("_P", bound="_Part")


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every part of the file has in common: a field it does not know is an error, never dropped."""


class Key(_Part, frozen=True):
    """A public key, hex."""

    public_key: str
    valid_from_ms: int
    retired_ms: int | None
    revoked_ms: int | None


class Deployment(_Part, frozen=True):
    """Where a probe stood."""

    place: str
    from_ms: int
    to_ms: int | None
    power_source: str | None
    supply_hours: str | None
    antenna: str | None
    connectivity: str


class Stream(_Part, frozen=True):
    """A stream, hex: a loss can be declared in a batch that comes before any of the stream's own."""

    stream: str
    first_seen_ms: int


class Boot(_Part, frozen=True):
    """A boot: when it was first heard of, which no batch tells, and its standing, which a person may have decided."""

    boot_id: str
    stream: str | None
    first_seq: int | None
    first_seen_ms: int
    first_birth_ms: int | None
    standing: str


class Probe(_Part, frozen=True):
    """A probe with all that is its own."""

    name: str
    simulated: bool
    added_ms: int
    keys: list[Key]
    deployments: list[Deployment]
    streams: list[Stream]
    boots: list[Boot]


class Place(_Part, frozen=True):
    """A place."""

    name: str
    village_code: str
    title: str
    latitude: float | None
    longitude: float | None


class Village(_Part, frozen=True):
    """A village that a place lies in."""

    code: str
    name: str
    district_code: str
    district: str
    regency_code: str
    regency: str
    latitude: float | None
    longitude: float | None
    edition: str


class Registry(_Part, frozen=True):
    """The whole file."""

    format: str
    version: int
    villages: list[Village]
    places: list[Place]
    probes: list[Probe]


# --- write -----------------------------------------------------------------------------------------------------------


def dump(conn: Connection) -> bytes:
    """Return the registry as the bytes of its file."""
    used = villages.c.code.in_(select(places.c.village_code))
    found = Registry(
        FORMAT,
        VERSION,
        [Village(**row) for row in conn.execute(select(villages).where(used).order_by(villages.c.code)).mappings()],
        [_of(Place, row) for row in conn.execute(select(places).order_by(places.c.name)).mappings()],
        [_probe(conn, row) for row in conn.execute(select(probes).order_by(probes.c.id))],
    )
    return msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n"


def _probe(conn: Connection, probe: Any) -> Probe:
    def mine(table: Any) -> Any:
        return select(table).where(table.c.probe_id == probe.id).order_by(table.c.id)

    stood = select(deployments, places.c.name.label("place")).join(places).where(deployments.c.probe_id == probe.id)
    ran = select(boots, streams.c.stream).outerjoin(streams, streams.c.id == boots.c.stream_id)
    ran = ran.where(boots.c.probe_id == probe.id).order_by(boots.c.id)
    return Probe(
        probe.name,
        probe.simulated,
        probe.added_ms,
        [_of(Key, row) for row in conn.execute(mine(keys)).mappings()],
        [_of(Deployment, row) for row in conn.execute(stood.order_by(deployments.c.from_ms)).mappings()],
        [_of(Stream, row) for row in conn.execute(mine(streams)).mappings()],
        [_of(Boot, row) for row in conn.execute(ran).mappings()],
    )


def _of(part: type[_P], row: Any) -> _P:
    values = {name: row[name] for name in part.__struct_fields__}
    return part(**{name: value.hex() if isinstance(value, bytes) else value for name, value in values.items()})


# --- restore ---------------------------------------------------------------------------------------------------------


def restore(conn: Connection, content: bytes) -> int:
    """Write a registry into an empty journal and return how many probes it names; again, it changes nothing.

    ArchiveError when it is none, or when the journal knows a probe that it does not: then it is not empty.
    """
    try:
        registry = msgspec.json.decode(content, type=Registry)
        if (registry.format, registry.version) != (FORMAT, VERSION):
            raise ArchiveError(f"registry: {registry.format} version {registry.version}, not {FORMAT} {VERSION}")
        _refuse_others(conn, registry)
        for village in registry.villages:
            _absent(conn, villages, msgspec.structs.asdict(village))
        for place in registry.places:
            _absent(conn, places, msgspec.structs.asdict(place))
        ids = {row.name: row.id for row in conn.execute(select(places.c.name, places.c.id))}
        for probe in registry.probes:
            _restore_probe(conn, probe, ids)
    except (msgspec.MsgspecError, ValueError, KeyError) as error:
        raise ArchiveError(f"registry: not one: {error!s:.200}") from None
    return len(registry.probes)


def _refuse_others(conn: Connection, registry: Registry) -> None:
    named = [probe.name for probe in registry.probes]
    other = conn.execute(select(probes.c.name).where(probes.c.name.not_in(named)).limit(1)).scalar()
    if other is not None:
        raise ArchiveError(f"registry: this journal is not empty: it knows probe {other}, which the file does not")


def _restore_probe(conn: Connection, probe: Probe, place_ids: dict[str, int]) -> None:
    _absent(conn, probes, {"name": probe.name, "simulated": probe.simulated, "added_ms": probe.added_ms})
    probe_id = conn.execute(select(probes.c.id).where(probes.c.name == probe.name)).scalar_one()
    for key in probe.keys:
        values = msgspec.structs.asdict(key) | {"public_key": bytes.fromhex(key.public_key)}
        _absent(conn, keys, {"probe_id": probe_id} | values)
    for one in probe.streams:
        values = {"probe_id": probe_id, "stream": bytes.fromhex(one.stream), "first_seen_ms": one.first_seen_ms}
        _absent(conn, streams, values | {"stored_to": 0})
    known = {row.stream: row.id for row in conn.execute(select(streams).where(streams.c.probe_id == probe_id))}
    for boot in probe.boots:
        values = msgspec.structs.asdict(boot) | {"probe_id": probe_id, "boot_id": bytes.fromhex(boot.boot_id)}
        stream = values.pop("stream")
        _absent(conn, boots, values | {"stream_id": None if stream is None else known[bytes.fromhex(stream)]})
    if conn.execute(select(deployments.c.id).where(deployments.c.probe_id == probe_id)).first() is None:
        for stood in probe.deployments:
            values = msgspec.structs.asdict(stood)
            values["place_id"] = place_ids[values.pop("place")]
            conn.execute(insert(deployments).values(probe_id=probe_id, **values))


def _absent(conn: Connection, table: Any, values: dict[str, Any]) -> None:
    """Insert a row unless one with its natural key is there."""
    conn.execute(insert_or(conn, table).values(values).on_conflict_do_nothing())
