"""Make the golden batches of the newest schema: bytes that every later collector must read as exactly these rows.

Append-only: a file that exists is never written again. A new schema gets a folder of its own.

usage: python tests/wire/make_golden.py
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from banua_wire import batch, signature
from banua_wire.envelope import Envelope, unpack
from banua_wire.fields import KINDS, SCHEMA, Field, Type, Value
from banua_wire.rows import MAX_BOOTTIME_MS, Row

if TYPE_CHECKING:
    from collections.abc import Iterator

GOLDEN = Path(__file__).parent / "golden"
FOLDER = GOLDEN / f"schema-{SCHEMA}"
SECRET = hashlib.sha256(b"the golden probe; a key that protects nothing").digest()
STREAM = bytes.fromhex("676f6c64656e2e31")
BOOT = bytes.fromhex("00112233445566778899aabbccddeeff")


def dictionary() -> dict[str, Any]:
    """Return what a published dictionary may never change; meanings and sources may be worded better."""
    return {
        kind.name: {
            "id": kind.id,
            "key": list(kind.key),
            "sink": kind.sink,
            "since": kind.since,
            "fields": {
                field.name: {
                    "id": field.id, "type": field.type.value, "unit": field.unit, "steps": field.steps,
                    "lo": field.lo, "hi": field.hi, "since": field.since,
                }
                for field in kind.fields
            },
        }
        for kind in KINDS
    }  # fmt: skip


def _value(field: Field, rng: random.Random, pick: str) -> Value:
    lo, hi = math.ceil(field.lo * field.steps), math.floor(field.hi * field.steps)

    def number() -> int | float:
        steps = {"lo": lo, "hi": hi}.get(pick, rng.randint(lo, hi))
        return steps if field.steps == 1 else steps / field.steps

    match field.type:
        case Type.NUMBER:
            return number()
        case Type.TEXT:
            return {"lo": "x", "hi": "ç" * 200}.get(pick, f"{field.name} {rng.randint(0, 2)}")
        case Type.ARRAY:
            return [number() if rng.random() < 0.8 else None for _ in range({"lo": 0, "hi": 256}.get(pick, 10))]


def cases() -> Iterator[tuple[str, list[Row]]]:
    """Yield each golden batch's name and rows, the same ones every time."""
    yield "empty", []
    rng = random.Random(1)
    for kind in KINDS:
        yield (
            kind.name,
            [
                Row(kind.name, 60_000 * n + rng.randint(0, 999), {
                    field.name: _value(field, rng, "any") for field in kind.fields if rng.random() < 0.8
                })
                for n in range(12)
            ],
        )  # fmt: skip
    yield (
        "limits",
        [
            Row(kind.name, time, {field.name: _value(field, rng, pick) for field in kind.fields})
            for kind in KINDS
            for pick, time in (("lo", 0), ("hi", MAX_BOOTTIME_MS))
        ],
    )
    yield "nothing-measured", [Row(kind.name, 5, {}) for kind in KINDS]
    yield (
        "all-kinds",
        [
            Row(kind.name, 1000 * n, {field.name: _value(field, rng, "any") for field in kind.fields})
            for kind in KINDS
            for n in range(1, 4)
        ],
    )


def as_json(message: bytes) -> dict[str, Any]:
    """Return what a golden batch says, ready for JSON."""
    envelope, _ = unpack(message)
    return {
        "probe": envelope.probe,
        "stream": envelope.stream.hex(),
        "seq": envelope.seq,
        "boot_id": envelope.boot_id.hex(),
        "schema": envelope.schema,
        "codec": envelope.codec,
        "public_key": signature.public_of(SECRET).hex(),
        "rows": [[row.kind, row.boottime_ms, row.values] for row in batch.open_rows(message)],
    }


def main() -> None:
    """Add the files that are missing."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    sums = GOLDEN / "SHA256SUMS"
    listed = sums.read_text() if sums.exists() else ""
    for seq, (name, rows) in enumerate(cases(), start=1):
        file = FOLDER / f"{name}.bin"
        if file.exists():
            continue
        message = batch.seal(SECRET, Envelope("golden-0001", STREAM, seq, BOOT, SCHEMA), rows)
        file.write_bytes(message)
        file.with_suffix(".json").write_text(json.dumps(as_json(message), ensure_ascii=False, indent=1) + "\n")
        listed += f"{hashlib.sha256(message).hexdigest()}  {file.relative_to(GOLDEN)}\n"
    sums.write_text(listed)
    table = FOLDER / "dictionary.json"
    if not table.exists():
        table.write_text(json.dumps(dictionary(), ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
