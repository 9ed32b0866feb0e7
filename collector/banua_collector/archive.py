"""A month of the journal as a file that proves itself: written, read and verified without a database.

``banua-2026-08-<8 hex>.journal`` (the digits begin its SHA-256) is a line of JSON, the `Header`, and then records, each
a big-endian u32 length and a MessagePack array: `Batch` ``["b", probe, stream, seq, received_ms, topic, message, id]``
or `Kept` ``["q", …]``. The same month in the same state makes the same bytes. Beside it, ``….json`` is its `Manifest`,
written last: where that stands, all of it stands. ``registry-<8 hex>.json`` is what else a rebuild needs.

**Canonical rows.** ``rows_sha256`` is the sum, modulo 2**256, of SHA-256 over the MessagePack of ``[probe, boot_id,
kind, key, boottime_ms, [[name, value], …]]`` for each row of each batch, values sorted by name; in hex. A batch has an
identity (kind, key, boottime) once, which the codec enforces; twins in two batches are two rows. A sum needs no memory
and no order, so two journals can be compared whatever ids and order their batches have; XOR would take two equal rows
for none. It is no defence against a forger, who could search for a sum: that is each batch's own signature.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

import msgspec

from banua_collector.clock import month_of
from banua_collector.errors import ArchiveError
from banua_wire.batch import open_rows
from banua_wire.envelope import unpack
from banua_wire.errors import WireError

FORMAT: Final = "banua-journal"
VERSION: Final = 1
SUFFIX: Final = ".journal"
_NAME_DIGITS: Final = 8
_LENGTH_BYTES: Final = 4
_MOST_BYTES: Final = 1 << 17
"""Most bytes of a header or a record: a whole batch has at most half of it."""
_MODULUS: Final = 1 << 256


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line: what this is, and which journal it comes from."""

    format: str
    version: int
    month: str
    journal_id: str


class Batch(msgspec.Struct, frozen=True, array_like=True, tag="b", forbid_unknown_fields=True):
    """A batch as received; `id` is its number in the journal that it was moved out of."""

    probe: str
    stream: bytes
    seq: int
    received_ms: int
    topic: str
    message: bytes
    id: int


class Kept(msgspec.Struct, frozen=True, array_like=True, tag="q", forbid_unknown_fields=True):
    """A message in quarantine, with its reason."""

    probe_name: str
    topic: str
    reason: str
    detail: str
    received_ms: int
    message: bytes


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file holds; `registry` is the name of the file beside it that a rebuild needs."""

    format: str
    version: int
    month: str
    journal_id: str
    file: str
    sha256: str
    batches: int
    rows: int
    quarantined: int
    first_received_ms: int | None
    last_received_ms: int | None
    rows_sha256: str
    registry: str
    registry_sha256: str


@dataclass(slots=True)
class Tally:
    """What has been counted of a file's records."""

    batches: int = 0
    rows: int = 0
    quarantined: int = 0
    first_received_ms: int | None = None
    last_received_ms: int | None = None
    _sum: int = 0

    def add(self, record: Batch | Kept) -> None:
        """Count a record in; WireError when a batch cannot be read."""
        if isinstance(record, Kept):
            self.quarantined += 1
            return
        self.batches += 1
        came = record.received_ms
        self.first_received_ms = came if self.first_received_ms is None else min(self.first_received_ms, came)
        self.last_received_ms = came if self.last_received_ms is None else max(self.last_received_ms, came)
        count, total = canonical(record.message)
        self.rows += count
        self._sum = (self._sum + total) % _MODULUS

    @property
    def rows_sha256(self) -> str:
        """The sum over the canonical rows so far, in hex."""
        return f"{self._sum:064x}"


def canonical(message: bytes) -> tuple[int, int]:
    """Return how many rows a batch has, and the sum of their canonical digests; WireError when it cannot be read."""
    envelope, _ = unpack(message)
    rows = open_rows(message)
    total = 0
    for row in rows:
        values = sorted(row.values.items())
        said = [envelope.probe, envelope.boot_id, row.kind, row.key, row.boottime_ms, values]
        total += int.from_bytes(hashlib.sha256(msgspec.msgpack.encode(said)).digest(), "big")
    return len(rows), total % _MODULUS


# --- write -----------------------------------------------------------------------------------------------------------


def write(
    folder: Path, month: str, journal_id: bytes, records: Iterable[Batch | Kept], registry: bytes
) -> tuple[Path, Manifest]:
    """Write a month, its registry and its manifest, each whole or not at all; return the file's path and the manifest.

    ArchiveError when the folder cannot be written to, or another export of the month is at work there.
    """
    header = Header(FORMAT, VERSION, month, journal_id.hex())
    tally, digest = Tally(), hashlib.sha256()
    try:
        with _Emerging(folder / f"banua-{month}{SUFFIX}.part") as part:
            for piece in _pieces(header, records, tally):
                digest.update(piece)
                part.file.write(piece)
            sha256 = digest.hexdigest()
            path = folder / f"banua-{month}-{sha256[:_NAME_DIGITS]}{SUFFIX}"
            registry_sha256 = hashlib.sha256(registry).hexdigest()
            manifest = Manifest(
                format=FORMAT,
                version=VERSION,
                month=month,
                journal_id=header.journal_id,
                file=path.name,
                sha256=sha256,
                batches=tally.batches,
                rows=tally.rows,
                quarantined=tally.quarantined,
                first_received_ms=tally.first_received_ms,
                last_received_ms=tally.last_received_ms,
                rows_sha256=tally.rows_sha256,
                registry=f"registry-{registry_sha256[:_NAME_DIGITS]}.json",
                registry_sha256=registry_sha256,
            )
            part.becomes(path)
        _write_whole(folder / manifest.registry, registry)
        _write_whole(path.with_suffix(".json"), msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
    except OSError as error:
        raise ArchiveError(f"{folder}: cannot be written to: {error.strerror}") from None
    return path, manifest


def _pieces(header: Header, records: Iterable[Batch | Kept], tally: Tally) -> Iterator[bytes]:
    yield msgspec.json.encode(header) + b"\n"
    for record in records:
        tally.add(record)
        packed = msgspec.msgpack.encode(record)
        yield len(packed).to_bytes(_LENGTH_BYTES, "big") + packed


def _write_whole(path: Path, content: bytes) -> None:
    with _Emerging(path.with_name(f"{path.name}.part")) as part:
        part.file.write(content)
        part.becomes(path)


class _Emerging:
    """A file of mode 0600 under a temporary name, alone at it; it gets its own name once it is on the disk."""

    file: BinaryIO

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.file = os.fdopen(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600), "r+b")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.file.close()
            raise ArchiveError(f"{self._path} is being written by another process") from None
        os.fchmod(self.file.fileno(), 0o600)
        self.file.truncate()
        return self

    def becomes(self, path: Path) -> None:
        """Give it its name, its bytes being on the disk."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self._path.rename(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(FileNotFoundError):  # it has its name
            self._path.unlink()
        self.file.close()


# --- read and verify -------------------------------------------------------------------------------------------------


def read(path: Path) -> Iterator[Batch | Kept]:
    """Yield the records of a file one by one; ArchiveError at the first that is none."""
    decode = msgspec.msgpack.Decoder(Batch | Kept).decode
    try:
        with path.open("rb") as file:
            _header(path, file.readline(_MOST_BYTES))
            while prefix := file.read(_LENGTH_BYTES):
                length = int.from_bytes(prefix, "big")
                packed = file.read(length) if length <= _MOST_BYTES else b""
                if len(prefix) != _LENGTH_BYTES or not packed or len(packed) != length:
                    raise ArchiveError(f"{path}: cut short, or not a file of records")
                yield decode(packed)
    except OSError as error:
        raise ArchiveError(f"{path}: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise ArchiveError(f"{path}: a record is none: {error!s:.200}") from None


def verify(path: Path) -> Manifest:
    """Return the manifest of a file that holds exactly what it says; ArchiveError names the first thing that does not.

    Hash, counts, times, rows, and of each batch that it is the one it is called; signatures are not looked at here.
    """
    manifest = read_manifest(path)
    if sha256_of(path) != manifest.sha256:
        raise ArchiveError(f"{path}: its SHA-256 is not that of its manifest: it was changed or cut short")
    tally = Tally()
    for record in read(path):
        try:
            tally.add(record)
            _check_named(path, manifest.month, record)
        except WireError as error:
            raise ArchiveError(f"{path}: a batch cannot be read by this version: {error}") from None
    for name in ("batches", "rows", "quarantined", "first_received_ms", "last_received_ms", "rows_sha256"):
        said, found = getattr(manifest, name), getattr(tally, name)
        if said != found:
            raise ArchiveError(f"{path}: {name} is {found}, its manifest says {said}")
    return manifest


def read_manifest(path: Path) -> Manifest:
    """Return the manifest beside the file `path`; ArchiveError when it is not there, or of another file or version."""
    beside = path.with_suffix(".json")
    if path.suffix != SUFFIX:
        raise ArchiveError(f"{path} is not called banua-MONTH-DIGITS{SUFFIX}")
    try:
        manifest = msgspec.json.decode(beside.read_bytes(), type=Manifest)
        with path.open("rb") as file:
            header = _header(path, file.readline(_MOST_BYTES))
    except OSError as error:
        raise ArchiveError(f"{error.filename}: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise ArchiveError(f"{beside}: not a manifest: {error!s:.200}") from None
    told = Header(manifest.format, manifest.version, manifest.month, manifest.journal_id)
    if told != header or manifest.file != path.name:
        raise ArchiveError(f"{beside}: the manifest of another file than {path.name}")
    return manifest


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex; ArchiveError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ArchiveError(f"{path}: {error.strerror}") from None


def _header(path: Path, line: bytes) -> Header:
    try:
        header = msgspec.json.decode(line, type=Header)
    except msgspec.MsgspecError:
        raise ArchiveError(f"{path}: not a month of a journal") from None
    if (header.format, header.version) != (FORMAT, VERSION):
        raise ArchiveError(f"{path}: {header.format} version {header.version}; this version reads {FORMAT} {VERSION}")
    return header


def _check_named(path: Path, month: str, record: Batch | Kept) -> None:
    if month_of(record.received_ms) != month:
        raise ArchiveError(f"{path}: a message of {month_of(record.received_ms)} among those of {month}")
    if isinstance(record, Batch):
        envelope, _ = unpack(record.message)
        if (envelope.probe, envelope.stream, envelope.seq) != (record.probe, record.stream, record.seq):
            raise ArchiveError(f"{path}: batch {record.seq} of {record.probe} is another one by its own envelope")
