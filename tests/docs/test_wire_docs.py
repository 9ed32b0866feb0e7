"""The wire's pages say what the code does: tables, limits and the worked example."""

from __future__ import annotations

import json
import re
import zlib
from typing import TYPE_CHECKING

from banua_wire import codec, envelope, receipt
from banua_wire.envelope import Envelope, pack
from banua_wire.fields import KINDS, MAX_ARRAY, MAX_TEXT
from banua_wire.rows import Row
from banua_wire.topics import LEAVES
from tests.real.parts import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

SPEC = (ROOT / "wire/README.md").read_text()
DICTIONARY = (ROOT / "docs/data-dictionary.md").read_text()


def block(name: str) -> str:
    found = re.search(rf"^```{name}\n(.*?)^```$", SPEC, re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return found[1]


def hexadecimal(name: str) -> bytes:
    return bytes.fromhex("".join(line.split("  ")[0] for line in block(name).splitlines()))


def example_rows() -> list[Row]:
    return [Row(kind, time, values) for kind, time, values in json.loads(block("json-rows"))]


def test_the_example_body_is_what_its_rows_make_and_is_read_as_them() -> None:
    packed = hexadecimal("hex-body")
    assert zlib.decompress(codec.encode(example_rows())) == packed
    assert codec.decode(zlib.compress(packed)) == example_rows()


def test_the_example_head_is_the_head_of_that_batch() -> None:
    body = codec.encode(example_rows())
    sealed = pack(Envelope("kalsel-0001", b"streamid", 7, bytes(range(16)), 1), body)
    head = hexadecimal("hex-head")
    assert sealed[:48] == head[:48]  # the body's length is that of one zlib's way to compress it
    assert len(head) + len(body) == len(sealed)


def test_the_reasons_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (settled|reseal|keep) \|", SPEC, re.MULTILINE)
    assert dict(rows) == receipt.REASONS


def test_the_receipts_parts_are_in_the_order_of_the_code() -> None:
    rows = re.findall(r"^\| (\d) \| (\w+) \|", SPEC, re.MULTILINE)
    assert [(int(n), name) for n, name in rows] == list(enumerate(receipt.Receipt.__struct_fields__))


def test_the_limits_are_those_of_the_code() -> None:
    for text in (
        f"{envelope.MAX_MESSAGE:,} bytes and {codec.MAX_ROWS} rows".replace(",", " "),
        f"{codec.MAX_BODY:,} bytes".replace(",", " "),
        f"1 to {MAX_TEXT} characters",
        f"most {MAX_ARRAY} entries",
    ):
        assert text in " ".join(SPEC.split()), text
    assert all(f"`{leaf}`" in SPEC for leaf in LEAVES)


def field_rows() -> Iterator[tuple[str, list[str]]]:
    kind = ""
    for line in DICTIONARY.splitlines():
        if line.startswith("## `"):
            kind = line.split("`")[1]
        elif re.match(r"\| \d", line):
            yield kind, [cell.strip() for cell in line.strip("|").split(" | ")]


def test_the_dictionarys_tables_are_those_of_the_code() -> None:
    """Compared cell by cell, not by running the generator: that may be wrong too."""
    shown = [
        (kind, cells[0], cells[1].strip("`"), cells[2], cells[3], cells[4], cells[8]) for kind, cells in field_rows()
    ]
    assert shown == [
        (kind.name, str(f.id), f.name, "key" if f.name in kind.key else "", f.type.value, f.unit, f.meaning)
        for kind in KINDS
        for f in kind.fields
    ]
    numbers = {(kind, c[1].strip("`")): (c[5], c[6]) for kind, c in field_rows() if c[3] != "text"}
    assert numbers["radio", "rsrp_dbm"] == ("1/10", "-156 … -44")
    for kind in KINDS:
        for field in kind.fields:
            if field.type.value != "text":
                step, span = numbers[kind.name, field.name]
                assert span.split(" … ") == [f"{field.lo:.15g}", f"{field.hi:.15g}"]
                assert step == ("1" if field.steps == 1 else f"1/{field.steps}")


def test_the_page_is_the_generators() -> None:
    from tools.make_dictionary import page

    assert page() == DICTIONARY, "run: python tools/make_dictionary.py"
