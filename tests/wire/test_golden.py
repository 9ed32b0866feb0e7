"""Every schema ever published is read for ever: golden batches and the dictionary they were sealed with."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from banua_wire import batch
from banua_wire.envelope import unpack
from tests.wire.make_golden import dictionary

GOLDEN = Path(__file__).parent / "golden"
SUMS = {
    name: digest
    for digest, name in (line.split("  ") for line in (GOLDEN / "SHA256SUMS").read_text().splitlines())
}  # fmt: skip


def test_every_golden_file_is_listed_and_every_listed_one_is_there() -> None:
    assert {str(file.relative_to(GOLDEN)) for file in GOLDEN.rglob("*.bin")} == set(SUMS)
    assert {"schema-1/radio.bin", "schema-1/path.bin", "schema-1/limits.bin", "schema-1/all-kinds.bin"} <= set(SUMS)


@pytest.mark.parametrize("name", SUMS)
def test_a_golden_batch_says_what_it_said_on_the_day_it_was_made(name: str) -> None:
    message = (GOLDEN / name).read_bytes()
    assert hashlib.sha256(message).hexdigest() == SUMS[name], "golden files are never written again"
    said = json.loads((GOLDEN / name).with_suffix(".json").read_text())
    envelope, _ = unpack(message)
    assert said["schema"] == int(name.removeprefix("schema-").partition("/")[0])
    assert {
        "probe": envelope.probe, "stream": envelope.stream.hex(), "seq": envelope.seq,
        "boot_id": envelope.boot_id.hex(),
        "schema": envelope.schema, "codec": envelope.codec,
    } == {key: said[key] for key in ("probe", "stream", "seq", "boot_id", "schema", "codec")}  # fmt: skip
    assert [[row.kind, row.boottime_ms, row.values] for row in batch.open_rows(message)] == said["rows"]
    assert batch.verifies(bytes.fromhex(said["public_key"]), message)


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("*/dictionary.json")), ids=lambda file: file.parent.name)
def test_a_published_dictionary_is_only_ever_added_to(file: Path) -> None:
    """Ids, names, types, units, steps, ranges and keys of a published schema are for ever."""
    published, today = json.loads(file.read_text()), dictionary()
    schema = int(file.parent.name.removeprefix("schema-"))
    for name, kind in published.items():
        fields = kind.pop("fields")
        of_today = today[name].pop("fields")
        assert today[name] == kind, name
        assert {field: of_today[field] for field in fields} == fields, name
        added = [field for field in of_today if field not in fields and of_today[field]["since"] <= schema]
        assert not added, f"{name}: fields new since schema {schema} need a higher `since`"
    assert not [kind for kind in today if kind not in published and today[kind]["since"] <= schema]


def test_ids_and_names_are_unique_and_keys_exist() -> None:
    table = dictionary()
    assert len({kind["id"] for kind in table.values()}) == len(table)
    for kind in table.values():
        ids = [field["id"] for field in kind["fields"].values()]
        assert len(set(ids)) == len(ids)
        assert set(kind["key"]) <= set(kind["fields"])
        assert all(kind["fields"][name]["type"] != "array" for name in kind["key"])
        numeric = [field for field in kind["fields"].values() if field["type"] != "text"]
        assert all(field["lo"] < field["hi"] or field["lo"] == field["hi"] == 1 for field in numeric)
