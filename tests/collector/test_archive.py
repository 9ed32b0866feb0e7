"""A file of a month: it proves itself, and whatever is changed in it or missing from it is one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from banua_collector import archive
from banua_collector.archive import Batch, Kept
from banua_collector.errors import ArchiveError
from banua_wire import batch
from banua_wire.envelope import Envelope
from banua_wire.fields import SCHEMA
from tests.collector.fleet import path as train
from tests.collector.fleet import radio
from tests.collector.history import at
from tests.collector.speech import SECRET, STREAM, A

_MS = at("2026-03-10")


def _batch(seq: int, received_ms: int = _MS, name: str = "p1") -> Batch:
    message = batch.seal(SECRET, Envelope("p1", STREAM, seq, A, SCHEMA), [radio(1000 * seq), train(seq, [1000, None])])
    return Batch(name, STREAM, seq, received_ms, "banua/v1/p1/batch", message, 7 + seq)


_KEPT = Kept("p1", "banua/v1/p1/batch", "bad_signature", "made with none", _MS, _batch(9).message)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return archive.write(tmp_path, "2026-03", b"j" * 8, [*map(_batch, range(1, 6)), _KEPT], b"{}\n")[0]


def test_what_was_written_is_read_and_verified(file: Path) -> None:
    assert list(archive.read(file)) == [*map(_batch, range(1, 6)), _KEPT]
    manifest = archive.verify(file)
    assert (manifest.batches, manifest.rows, manifest.quarantined) == (5, 10, 1)
    assert archive.sha256_of(file.parent / manifest.registry) == manifest.registry_sha256


def test_the_format_is_the_documented_one(file: Path) -> None:
    """Read by hand, as docs/archive.md says, with nothing of this package."""
    import msgspec

    with file.open("rb") as raw:
        assert json.loads(raw.readline()) == {
            "format": "banua-journal",
            "version": 1,
            "month": "2026-03",
            "journal_id": "6a" * 8,
        }
        record = msgspec.msgpack.decode(raw.read(int.from_bytes(raw.read(4), "big")))
    first = _batch(1)
    assert record == ["b", "p1", STREAM, 1, _MS, first.topic, first.message, 8]


def test_the_canonical_sum_is_the_documented_one_and_knows_no_order() -> None:
    import hashlib

    import msgspec

    said = [
        ["p1", A, row.kind, list(row.key), row.boottime_ms, sorted(row.values.items())]
        for row in batch.open_rows(_batch(1).message)
    ]
    digests = [int.from_bytes(hashlib.sha256(msgspec.msgpack.encode(each)).digest(), "big") for each in said]
    assert archive.canonical(_batch(1).message) == (2, sum(digests) % 2**256)
    assert _sum_of(1, 2, 3) == _sum_of(3, 1, 2)
    assert len({_sum_of(), _sum_of(1), _sum_of(1, 2), _sum_of(1, 2, 2), _sum_of(1, 2, 3)}) == 5


def _sum_of(*seqs: int) -> str:
    tally = archive.Tally()
    for seq in seqs:
        tally.add(_batch(seq))
    return tally.rows_sha256


def _change(file: Path, change: Callable[[bytes], bytes], *, fit: bool = False) -> None:
    """Change a file; with `fit`, its manifest gets the new hash, as one who wants to hide it would do."""
    file.write_bytes(change(file.read_bytes()))
    if fit:
        _say(file, sha256=archive.sha256_of(file))


def _say(path: Path, /, **said: object) -> None:
    manifest = path.with_suffix(".json")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | said))


def _without_the_second(content: bytes) -> bytes:
    start = content.index(b"\n") + 1
    second = start + 4 + int.from_bytes(content[start : start + 4], "big")
    third = second + 4 + int.from_bytes(content[second : second + 4], "big")
    return content[:second] + content[third:]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda file: _change(file, lambda old: old[:-9] + b"?" + old[-8:]), "its SHA-256 is not that of its manifest"),
        (lambda file: _change(file, lambda old: old[:-1]), "its SHA-256 is not that of its manifest"),
        (lambda file: _change(file, lambda old: old[:-1], fit=True), "cut short, or not a file of records"),
        (lambda file: _change(file, lambda old: old + b"\xff\xff\xff\xff", fit=True), "cut short, or not a file"),
        (lambda file: _change(file, lambda old: old + b"\0\0\0\1\xc0", fit=True), "a record is none"),
        (lambda file: _change(file, _without_the_second), "its SHA-256 is not that of its manifest"),
        (lambda file: _change(file, _without_the_second, fit=True), "batches is 4, its manifest says 5"),
        (lambda file: _change(file, lambda old: b"hello\n" + old, fit=True), "not a month of a journal"),
        (
            lambda file: _change(file, lambda old: old.replace(b'"version":1', b'"version":2'), fit=True),
            "banua-journal version 2; this version reads banua-journal 1",
        ),
        (lambda file: _say(file, rows=11), "rows is 10, its manifest says 11"),
        (lambda file: _say(file, rows_sha256="0" * 64), "its manifest says 0000"),
        (lambda file: _say(file, last_received_ms=None), "last_received_ms is"),
        (lambda file: _say(file, month="2026-04"), "the manifest of another file"),
        (lambda file: _say(file, file="banua-2026-03-00000000.journal"), "the manifest of another file"),
        (lambda file: _say(file, extra=1), "not a manifest"),
        (lambda file: file.with_suffix(".json").write_text("{"), "not a manifest"),
        (lambda file: file.with_suffix(".json").unlink(), "No such file or directory"),
        (lambda file: file.unlink(), "No such file or directory"),
    ],
)
def test_what_is_not_what_it_says_is_refused_in_one_line(
    file: Path, damage: Callable[[Path], object], told: str
) -> None:
    damage(file)
    with pytest.raises(ArchiveError) as caught:
        archive.verify(file)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (_batch(1, at("2026-04-01")), "a message of 2026-04 among those of 2026-03"),
        (_batch(1, name="p2"), "batch 1 of p2 is another one by its own envelope"),
    ],
)
def test_a_record_that_belongs_elsewhere_is_refused(tmp_path: Path, record: Batch, told: str) -> None:
    file, _ = archive.write(tmp_path, "2026-03", b"j" * 8, [record], b"{}\n")
    with pytest.raises(ArchiveError, match=told):
        archive.verify(file)


def test_another_name_is_no_month(file: Path) -> None:
    with pytest.raises(ArchiveError, match=r"is not called banua-MONTH-DIGITS.journal"):
        archive.verify(file.rename(file.with_suffix(".txt")))


def test_a_failed_export_leaves_nothing_behind(tmp_path: Path) -> None:
    def broken() -> object:
        yield _batch(1)
        raise RuntimeError("the database is gone")

    with pytest.raises(RuntimeError):
        archive.write(tmp_path / "out", "2026-03", b"j" * 8, broken(), b"{}\n")  # type: ignore[arg-type]
    assert list((tmp_path / "out").iterdir()) == []


def test_two_exports_of_a_month_do_not_mix(tmp_path: Path) -> None:
    def meanwhile() -> object:
        yield _batch(1)
        with pytest.raises(ArchiveError, match=r"is being written by another process"):
            archive.write(tmp_path, "2026-03", b"j" * 8, [_batch(2)], b"{}\n")
        yield _batch(3)

    file, manifest = archive.write(tmp_path, "2026-03", b"j" * 8, meanwhile(), b"{}\n")  # type: ignore[arg-type]
    assert archive.verify(file) == manifest
    assert manifest.batches == 2


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchiveError, match=r"file/out: cannot be written to: Not a directory"):
        archive.write(tmp_path / "file" / "out", "2026-03", b"j" * 8, [], b"{}\n")
