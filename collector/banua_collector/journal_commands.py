"""The commands on the journal that take several commits: months out and in, writing anew, judging again.

Each says what it did. What it could not do is its error, after the rest is done.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from sqlalchemy import Engine, select

from banua_collector import archive, journal, months, quarantine, registry
from banua_collector.app import crash_point
from banua_collector.clock import iso, wall_ms
from banua_collector.config import Config
from banua_collector.db import reading
from banua_collector.errors import ArchiveError
from banua_collector.listing import Answer, Listing
from banua_collector.registry import Affected
from banua_collector.tables import probes
from banua_wire.batch import open_rows
from banua_wire.envelope import unpack
from banua_wire.errors import WireError

Args = argparse.Namespace


# --- months ----------------------------------------------------------------------------------------------------------


def _export(engine: Engine, _config: Config, args: Args) -> Answer:
    if args.remove:
        done = months.export_and_remove(engine, args.month, args.to, now_ms=wall_ms(), checkpoint=crash_point())
    else:
        done = [months.export(engine, args.month, args.to)]
    return Listing([_exported(each.path.name, each.manifest) | {"removed": each.removed} for each in done])


def _verify(_engine: Engine, _config: Config, args: Args) -> Answer:
    return Listing([_exported(path.name, archive.verify(path)) for path in args.files])


def _exported(name: str, manifest: archive.Manifest) -> dict[str, Any]:
    return {
        "file": name,
        "month": manifest.month,
        "batches": manifest.batches,
        "rows": manifest.rows,
        "quarantined": manifest.quarantined,
        "first": None if manifest.first_received_ms is None else iso(manifest.first_received_ms),
        "last": None if manifest.last_received_ms is None else iso(manifest.last_received_ms),
        "rows_sha256": manifest.rows_sha256,
    }


def _import(engine: Engine, _config: Config, args: Args) -> Answer:
    outcomes = months.bring_in(
        engine, args.files, args.registry, now_ms=wall_ms(), tell=_progress, checkpoint=crash_point()
    )
    new, back, known = (outcomes.pop(name, 0) for name in ("journalled", "put_back", "duplicate"))
    kept = outcomes.pop("kept", 0)
    answer = f"{new} batches journalled, {back} put back, {known} were here already; {kept} put into quarantine"
    if outcomes.total():
        print(answer)
        raise ArchiveError(f"{outcomes.total()} batches are not taken: {_counted(outcomes)}")
    return answer


def _retain(engine: Engine, config: Config, args: Args) -> Answer:
    folder = args.to or config.state_dir / "archive"
    gone, stay = months.retain(engine, args.days, folder, now_ms=wall_ms(), tell=print, checkpoint=crash_point())
    answer = f"{gone} batches removed"
    if stay:
        print(answer)
        raise ArchiveError("\n".join(stay))
    return answer


def _progress(line: str) -> None:
    print(line, file=sys.stderr)


# --- write anew ------------------------------------------------------------------------------------------------------


def _replay(engine: Engine, _config: Config, args: Args) -> Answer:
    """Make batches due probe by probe, so that the collector can work between."""
    with reading(engine) as conn:
        chosen = [registry.probe_named(conn, args.probe).id] if args.probe else []
        chosen = chosen or list(conn.execute(select(probes.c.id).order_by(probes.c.id)).scalars())
    due, moved = 0, dict[str, int]()
    for probe_id in chosen:
        wanted = Affected(probe_id, args.from_ms or 0, args.to_ms)
        with engine.begin() as conn:
            due += journal.replay(conn, wanted, wall_ms())
            for month, count in journal.moved_out(conn, wanted).items():
                moved[month] = moved.get(month, 0) + count
    return f"{due} batches are written anew{months.told(moved)}"


# --- quarantine ------------------------------------------------------------------------------------------------------


def _quarantine_list(engine: Engine, _config: Config, args: Args) -> Answer:
    with reading(engine) as conn:
        rows = quarantine.listed(conn, args.reason, args.probe)
    return Listing([_kept(row) for row in rows], "nothing in quarantine")


def _quarantine_show(engine: Engine, _config: Config, args: Args) -> Answer:
    with reading(engine) as conn:
        row = quarantine.one(conn, args.id)
    way_out = quarantine.WAYS_OUT.get(row.reason, "none is known")
    note = f"{row.reason}: {row.detail}\nway out: {way_out}"
    try:
        return contents(row.message, {"reason": row.reason, "detail": row.detail, "way_out": way_out}, note)
    except WireError as error:
        told = {"way_out": way_out, "unreadable": str(error), "message": row.message.hex()}
        return Listing([_kept(row) | told])


def _quarantine_replay(engine: Engine, _config: Config, args: Args) -> Answer:
    done = quarantine.replay(engine, wall_ms(), ids=args.ids, reason=args.reason)
    return Listing(
        [{"was": was, "is": outcome, "messages": count} for (was, outcome), count in sorted(done.items())],
        "nothing in quarantine that could be judged again",
    )


def _kept(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "probe": row.probe_name,
        "reason": row.reason,
        "received": iso(row.received_ms),
        "topic": row.topic,
        "bytes": len(row.message),
        "detail": row.detail,
    }


def contents(message: bytes, head: Mapping[str, Any] | None = None, note: str = "") -> Listing:
    """Return the rows of a message, each with its envelope and with `head`; WireError when they cannot be read."""
    envelope, _ = unpack(message)
    said = {
        "probe": envelope.probe,
        "stream": envelope.stream.hex(),
        "seq": envelope.seq,
        "boot": envelope.boot_id.hex(),
        **(head or {}),
    }
    return Listing(
        [said | {"kind": row.kind, "boottime_ms": row.boottime_ms, "values": row.values} for row in open_rows(message)],
        "a batch without rows",
        ("kind", "boottime_ms", "values"),
        note,
    )


# --- refused points --------------------------------------------------------------------------------------------------


def _refused_list(engine: Engine, _config: Config, args: Args) -> Answer:
    with reading(engine) as conn:
        probe_id = registry.probe_named(conn, args.probe).id if args.probe else None
        names = {row.id: row.name for row in conn.execute(select(probes.c.id, probes.c.name))}
        rows = quarantine.refusals(conn, probe_id)
    return Listing([_point(row, names[row.probe_id]) for row in rows], "InfluxDB has refused nothing")


def _refused_show(engine: Engine, _config: Config, args: Args) -> Answer:
    with reading(engine) as conn:
        row = quarantine.refusal(conn, args.id)
        name = conn.execute(select(probes.c.name).where(probes.c.id == row.probe_id)).scalar_one()
    return Listing([_point(row, name) | {"line": row.line}])


def _refused_replay(engine: Engine, _config: Config, args: Args) -> Answer:
    with engine.begin() as conn:
        due, gone = quarantine.write_refused_again(conn, args.ids, wall_ms())
    moved = f"; {gone} are archived: import them first" if gone else ""
    return f"{due} batches are written anew{moved}"


def _point(row: Any, probe: str) -> dict[str, Any]:
    return {
        "id": row.id,
        "probe": probe,
        "batch": row.batch_id,
        "noticed": iso(row.noticed_ms),
        "reason": row.reason,
    }


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


COMMANDS: Final[Mapping[str, Callable[[Engine, Config, Args], Answer]]] = {
    "journal export": _export,
    "journal import": _import,
    "journal verify": _verify,
    "journal retain": _retain,
    "journal replay": _replay,
    "journal quarantine list": _quarantine_list,
    "journal quarantine show": _quarantine_show,
    "journal quarantine replay": _quarantine_replay,
    "journal refused list": _refused_list,
    "journal refused show": _refused_show,
    "journal refused replay": _refused_replay,
}
