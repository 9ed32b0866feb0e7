"""``banua-probe decode``: AT replies in, one JSON object a reply out."""

import json
from collections.abc import Iterable, Iterator
from typing import BinaryIO, TextIO

from banua_probe.modem.dialects import DIALECTS, parse
from banua_probe.modem.line import MAX_LINE
from banua_probe.modem.reading import Unreadable


def bounded_lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of `stream`; of one longer than `MAX_LINE`, only its beginning, still too long to be read."""
    limit = MAX_LINE + 1
    while line := stream.readline(limit):
        yield line
        while not line.endswith(b"\n") and (line := stream.readline(limit)):
            pass


def decode_stream(dialect: str, lines: Iterable[bytes], out: TextIO) -> int:
    """Write what each reply among `lines` says to `out`, one JSON object a line; return the exit status.

    `dialect` is a name in `DIALECTS`. The status is 1 if any line was unreadable, after the rest was read, else 0.
    """
    status = 0
    for told in parse(DIALECTS[dialect], (line.rstrip(b"\r\n").decode("latin-1") for line in lines)):
        out.write(json.dumps(told.as_dict(), separators=(",", ":")) + "\n")
        if isinstance(told, Unreadable):
            status = 1
    return status
