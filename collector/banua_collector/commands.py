"""What each command does: open the database, ask or change, print.

One transaction a command; those that take several are in ``journal_commands``.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import SQLAlchemyError

from banua_collector import app, db, journal_commands, months, registry
from banua_collector import boots as standings
from banua_collector import journal as journalling
from banua_collector.clock import iso, wall_ms
from banua_collector.config import load
from banua_collector.errors import CollectorError, DatabaseError, RegistryError
from banua_collector.journal_commands import contents
from banua_collector.listing import Answer, Listing
from banua_collector.registry import Affected, Deployment, Key
from banua_collector.tables import batches, boots, journal, probes, quarantine, refused, seen, streams, todo
from banua_wire.errors import WireError
from banua_wire.signature import parse_public

_DAY_MS: Final = 86_400_000
_SHORT: Final = 16  # digits of a hash or a key in a table

Args = argparse.Namespace


def perform(args: Args) -> int:
    """Do what `args` ask for and return the exit status; CollectorError tells what prevents it."""
    try:
        if args.command == "run":
            return app.run(load(args.config))
        answer = _answer(args)
    except WireError as error:
        raise CollectorError(str(error)) from error
    except SQLAlchemyError as error:
        raise DatabaseError(f"database: {str(error).splitlines()[0]}") from error
    if isinstance(answer, Listing):
        sys.stdout.write(answer.json() if args.json else answer.text())
    else:
        print(answer)
    return 0


def _answer(args: Args) -> Answer:
    config = load(args.config)
    if args.command == "check-config":
        return f"{args.config}: ok"
    engine = app.engine_of(config.database)
    db.migrate(engine)
    try:
        if args.command in journal_commands.COMMANDS:
            return journal_commands.COMMANDS[args.command](engine, config, args)
        with engine.begin() as conn:
            return COMMANDS[args.command](conn, args)
    finally:
        engine.dispose()


# --- villages and places ---------------------------------------------------------------------------------------------


def _villages_find(conn: Connection, args: Args) -> Answer:
    registry.load_villages(conn)
    found = registry.find_villages(conn, args.text)
    columns = ("code", "name", "district", "regency")
    return Listing([{name: getattr(village, name) for name in columns} for village in found], "no such village")


def _villages_load(conn: Connection, _args: Args) -> Answer:
    changed = registry.load_villages(conn)
    shipped = registry.shipped_villages()
    return f"{len(shipped)} villages of {shipped[0].edition}; {changed} changed"


def _places_add(conn: Connection, args: Args) -> Answer:
    registry.load_villages(conn)
    registry.add_place(conn, args.village, args.name, args.title, args.lat, args.lon)
    return f"place {args.name} added"


def _places_list(conn: Connection, _args: Args) -> Answer:
    return Listing(
        [
            {
                "name": place.name,
                "title": place.title,
                "village": place.village.name,
                "code": place.village.code,
                "regency": place.village.regency,
                "latitude": place.latitude,
                "longitude": place.longitude,
            }
            for place in registry.list_places(conn)
        ],
        "no place yet",
    )


# --- deployments -----------------------------------------------------------------------------------------------------


def _deployments_add(conn: Connection, args: Args) -> Answer:
    deployment_id, affected = registry.deploy(
        conn, args.probe, args.place, args.from_ms, args.to_ms, end=args.end_open, **_details(args)
    )
    return f"deployment {deployment_id} added; {_due(conn, affected)}"


def _deployments_correct(conn: Connection, args: Args) -> Answer:
    changes: dict[str, Any] = {name: getattr(args, name) for name in ("place", "from_ms", "to_ms")}
    corrections: registry.Corrections = {
        **{name: value for name, value in changes.items() if value is not None},  # type: ignore[typeddict-item]
        **_details(args),
    }
    if args.open:
        corrections["to_ms"] = None
    return f"deployment {args.id} corrected; {_due(conn, registry.correct_deployment(conn, args.id, **corrections))}"


def _deployments_end(conn: Connection, args: Args) -> Answer:
    return f"deployment {args.id} ended; {_due(conn, registry.end_deployment(conn, args.id, args.to_ms))}"


def _deployments_list(conn: Connection, _args: Args) -> Answer:
    return Listing([_deployment(one) for one in registry.list_deployments(conn)], "no deployment yet")


def _deployment(one: Deployment) -> dict[str, Any]:
    return {
        "id": one.id,
        "probe": one.probe,
        "place": one.place.name,
        "village": one.place.village.name,
        "from": iso(one.from_ms),
        "to": _iso(one.to_ms),
        "power_source": one.power_source,
        "supply_hours": one.supply_hours,
        "antenna": one.antenna,
        "connectivity": one.connectivity,
    }


def _details(args: Args) -> registry.Details:
    named = {name: getattr(args, name) for name in registry.Details.__annotations__}
    details: registry.Details = {
        **{name: value for name, value in named.items() if value is not None}  # type: ignore[typeddict-item]
    }
    return details


def _due(conn: Connection, affected: Affected) -> str:
    due = journalling.mark_range(conn, affected, wall_ms())
    return f"{due} batches are written anew{months.told(journalling.moved_out(conn, affected))}"


# --- probes ----------------------------------------------------------------------------------------------------------


def _probes_add(conn: Connection, args: Args) -> Answer:
    key = parse_public(args.key)
    known = next((probe for probe in registry.list_probes(conn) if probe.name == args.name), None)
    if known is None:
        registry.add_probe(conn, args.name, key, now_ms=wall_ms(), simulated=args.simulated)
        return f"probe {args.name} added"
    if args.simulated and not known.simulated:
        raise RegistryError(f"probe {args.name} is registered already, and not as simulated")
    registry.add_key(conn, args.name, key, now_ms=wall_ms())
    return f"probe {args.name} has {len(registry.keys_of(conn, args.name))} keys now"


def _probes_key_retire(conn: Connection, args: Args) -> Answer:
    return _ended(args.name, registry.retire_key(conn, args.name, args.key, wall_ms()))


def _probes_key_revoke(conn: Connection, args: Args) -> Answer:
    return _ended(args.name, registry.revoke_key(conn, args.name, args.key, wall_ms()))


def _ended(name: str, key: Key) -> str:
    return f"key {key.public_key.hex()[:_SHORT]}… of probe {name} is {_standing_of(key)}"


def _standing_of(key: Key) -> str:
    if key.revoked_ms is not None:
        return "revoked"
    return "valid" if key.retired_ms is None else "retired"


def _probes_list(conn: Connection, _args: Args) -> Answer:
    return Listing(
        [
            {
                "name": probe.name,
                "simulated": probe.simulated,
                "added": iso(probe.added_ms),
                "keys": [
                    f"{key.public_key.hex()[:_SHORT]} {_standing_of(key)}" for key in registry.keys_of(conn, probe.name)
                ],
            }
            for probe in registry.list_probes(conn)
        ],
        "no probe yet",
    )


def _probes_boots(conn: Connection, args: Args) -> Answer:
    probe = registry.probe_named(conn, args.name)
    found = conn.execute(select(boots).where(boots.c.probe_id == probe.id).order_by(boots.c.id.desc()))
    return Listing(
        [
            {
                "boot": row.boot_id.hex(),
                "standing": row.standing,
                "first_seen": iso(row.first_seen_ms),
                "start": _iso(row.start_ms),
                "end": _iso(row.end_ms),
                "error_ms": row.error_ms,
            }
            for row in found
        ],
        f"probe {args.name} has no boots yet",
    )


def _probes_assign(conn: Connection, args: Args) -> Answer:
    probe = registry.probe_named(conn, args.name)
    known = conn.execute(select(boots.c.boot_id).where(boots.c.probe_id == probe.id)).scalars()
    found = [boot_id for boot_id in known if boot_id.hex().startswith(args.boot.lower())]
    if len(found) != 1:
        raise RegistryError(f"probe {args.name} has {len(found)} boots that begin with {args.boot!r:.40}")
    journalling.assign_boot(conn, probe.id, found[0], args.standing, wall_ms())
    moved = months.told(journalling.moved_out_of_boot(conn, probe.id, found[0]))
    return f"boot {found[0].hex()} of probe {args.name} is {args.standing}{moved}"


# --- journal ---------------------------------------------------------------------------------------------------------


def _journal_info(conn: Connection, _args: Args) -> Answer:
    row = conn.execute(select(journal)).one()
    held = select(func.count()).where(boots.c.standing == standings.HELD)
    counts = {
        table.name: conn.execute(select(func.count()).select_from(table)).scalar_one()
        for table in (probes, streams, batches, quarantine, refused, todo)
    }
    settled = conn.execute(select(func.count()).where(seen.c.how == "journalled")).scalar_one()
    counts["archived"] = settled - counts["batches"]
    entry = {"journal": row.journal_id.hex(), "minted": iso(row.minted_ms)}
    return Listing([entry | counts | {"held_boots": conn.execute(held).scalar_one()}])


def _journal_list(conn: Connection, args: Args) -> Answer:
    found = _batches().order_by(batches.c.id.desc()).limit(max(args.limit, 1))
    if args.probe is not None:
        found = found.where(batches.c.probe_id == registry.probe_named(conn, args.probe).id)
    return Listing([_batch(row) for row in conn.execute(found)], "no batch yet")


def _journal_show(conn: Connection, args: Args) -> Answer:
    row = conn.execute(_batches().where(batches.c.id == args.id)).first()
    if row is None:
        raise RegistryError(f"there is no batch {args.id}")
    return contents(row.message)


def _journal_restored(conn: Connection, args: Args) -> Answer:
    """Rename the journal; clear InfluxDB of what it has forgotten, and have the rest written anew."""
    due = journalling.restored(conn, wall_ms())
    influx = load(args.config).influx
    newest = conn.execute(select(func.max(batches.c.received_ms))).scalar() or 0
    if influx is not None:
        target = app.influx_target(influx)
        for probe in registry.list_probes(conn):
            target.delete(probe.name, max(newest - _DAY_MS, 0), wall_ms() + _DAY_MS)
        target.close()
    return f"the journal is {journalling.journal_id_of(conn).hex()} now; {due} batches are written anew"


def _batches() -> Any:
    return (
        select(batches, probes.c.name, streams.c.stream)
        .join_from(batches, probes, batches.c.probe_id == probes.c.id)
        .join(streams, batches.c.stream_id == streams.c.id)
    )


def _batch(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "probe": row.name,
        "stream": row.stream.hex(),
        "seq": row.seq,
        "boot": row.boot_id.hex(),
        "rows": row.rows,
        "received": iso(row.received_ms),
        "bytes": len(row.message),
        "hash": row.hash.hex()[:_SHORT],
    }


def _iso(ms: int | None) -> str | None:
    return None if ms is None else iso(ms)


COMMANDS: Final[Mapping[str, Callable[[Connection, Args], Answer]]] = {
    "villages find": _villages_find,
    "villages load": _villages_load,
    "places add": _places_add,
    "places list": _places_list,
    "deployments add": _deployments_add,
    "deployments correct": _deployments_correct,
    "deployments end": _deployments_end,
    "deployments list": _deployments_list,
    "probes add": _probes_add,
    "probes list": _probes_list,
    "probes key-retire": _probes_key_retire,
    "probes key-revoke": _probes_key_revoke,
    "probes boots": _probes_boots,
    "probes assign": _probes_assign,
    "journal info": _journal_info,
    "journal list": _journal_list,
    "journal show": _journal_show,
    "journal restored": _journal_restored,
}
