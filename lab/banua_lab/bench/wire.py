"""What a record costs on the wire: bytes in a batch beside JSON of the same rows, and CPU to encode and decode it.

The records have 27 fields, and batches of equal length are sealed from them. A record's bytes are those of the body;
envelope and signature, which a batch has once, are told apart. The goals are for records of which no field is constant:
each changes within any 60 rows. Beside them stand those of two modems as they are, where some fields seldom change, and
records made to change in every field within any 5 rows.
"""

import argparse
import itertools
import json
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from banua_lab.bench.figures import Figure
from banua_lab.bench.radio import RADIO_FIELDS, radio_rows
from banua_wire import batch, codec, signature
from banua_wire.envelope import BOOT_BYTES, SIGNATURE_BYTES, STREAM_BYTES, Envelope, unpack
from banua_wire.fields import SCHEMA
from banua_wire.rows import Row

SEED: Final = 6301
ROWS: Final = 6000
LONGEST_RUNS: Final = {"none constant": 59, "as they are": None, "each changes within 5 rows": 4}
"""Records that are measured, by name: most rows for which a field of theirs may keep its value."""
GOALS_BYTES: Final = {60: 25.0, 5: 55.0}
"""Rows in a batch, and the most bytes that a record's share of the body may be on average."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of batches of equal length, a record: in the body, as JSON, and as compressed JSON; and of one envelope."""

    body: float
    json: float
    json_zlib: float
    envelope: int


def add_arguments(_: argparse.ArgumentParser) -> None:
    """Add nothing: it has no settings."""


def run(_: argparse.Namespace) -> list[Figure]:
    """Return the figures."""
    records = {name: [*itertools.islice(radio_rows(SEED, longest_run=run), ROWS)] for name, run in LONGEST_RUNS.items()}
    counted, *others = records
    figures: list[Figure] = []
    for length, goal in GOALS_BYTES.items():
        groups = batches(records[counted], length)
        told = sizes(groups)
        encode_us, decode_us = cpu_us(groups)
        figures += [
            Figure(f"{length} rows a batch: body, {len(RADIO_FIELDS)} fields, {counted}", told.body, "B/row", goal),
            Figure(f"{length} rows a batch: the same as JSON, zlib", told.json_zlib, "B/row"),
            Figure(f"{length} rows a batch: the same as JSON", told.json, "B/row"),
            *(
                Figure(f"{length} rows a batch: body, {name}", sizes(batches(records[name], length)).body, "B/row")
                for name in others
            ),
            Figure(f"{length} rows a batch: envelope", told.envelope, "B"),
            Figure(f"{length} rows a batch: signature", SIGNATURE_BYTES, "B"),
            Figure(f"{length} rows a batch: CPU to encode", encode_us, "µs/row"),
            Figure(f"{length} rows a batch: CPU to decode", decode_us, "µs/row"),
        ]
    return figures


def batches(rows: Sequence[Row], length: int) -> list[list[Row]]:
    """Return `rows` in slices of `length`; what is left over at the end goes."""
    return [list(rows[start : start + length]) for start in range(0, len(rows) - length + 1, length)]


def sizes(groups: Sequence[Sequence[Row]]) -> Sizes:
    """Return what `groups` of rows take, on average over all of them."""
    secret = signature.new_secret()
    body = plain = compressed = envelope = 0
    for seq, rows in enumerate(groups, start=1):
        head = Envelope("kalsel-0001", bytes(STREAM_BYTES), seq, bytes(BOOT_BYTES), SCHEMA)
        message = batch.seal(secret, head, rows)
        text = json.dumps([{"kind": row.kind, "boottime_ms": row.boottime_ms, **row.values} for row in rows]).encode()
        in_body = len(unpack(message)[1])
        body, plain, compressed = body + in_body, plain + len(text), compressed + len(zlib.compress(text, 9))
        envelope = len(message) - in_body - SIGNATURE_BYTES
    count = sum(map(len, groups))
    return Sizes(body / count, plain / count, compressed / count, envelope)


def cpu_us(groups: Sequence[Sequence[Row]]) -> tuple[float, float]:
    """Return CPU time in µs a row to encode and to decode the bodies of `groups`."""
    count = sum(map(len, groups))
    began = time.process_time_ns()
    bodies = [codec.encode(rows) for rows in groups]
    encoded = time.process_time_ns()
    for body in bodies:
        codec.decode(body)
    decoded = time.process_time_ns()
    return (encoded - began) / 1000 / count, (decoded - encoded) / 1000 / count
