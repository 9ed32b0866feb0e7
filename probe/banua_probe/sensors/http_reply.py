"""An answer of HTTP/1.1 (RFC 9112) out of the bytes that came: its head, and its body in every framing. No I/O."""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from banua_wire.fields import MAX_TEXT

MAX_HEAD_BYTES: Final = 65_536
"""Longest head of an answer."""

_MAX_LINE: Final = 1024
_END_OF_HEAD: Final = re.compile(rb"\r?\n\r?\n")
_STATUS_LINE: Final = re.compile(r"HTTP/1\.[01] ([1-5][0-9]{2})(?: .*)?")
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?")
_LENGTH: Final = re.compile(r"[0-9]{1,15}")
_WITHOUT_BODY: Final = frozenset({204, 304})


class HttpError(Exception):
    """Bytes that are no HTTP answer; one line says why."""


@dataclass(frozen=True, slots=True)
class Head:
    """Status and headers of an answer, their names in small letters; of a repeated one, the first."""

    status: int
    headers: dict[str, str]

    @property
    def location(self) -> str:
        """The host of ``Location``, "" when it has none that can be told, as one that is a path only."""
        try:
            host = urlsplit(self.headers.get("location", "")).hostname or ""
        except ValueError:
            return ""
        return host if host.isprintable() and len(host) <= MAX_TEXT else ""


def split_head(received: bytes) -> tuple[Head, bytes] | None:
    """Return the head in `received` and what follows it, None while it has not come whole; HttpError if none can."""
    end = _END_OF_HEAD.search(received)
    if end is not None:
        return parse_head(received[: end.start()]), received[end.end() :]
    if len(received) > MAX_HEAD_BYTES:
        raise HttpError("head too long")
    return None


def parse_head(block: bytes) -> Head:
    """Return the head in `block`, the bytes before the empty line; HttpError when it is none of HTTP/1."""
    status_line, *lines = block.decode("latin-1").replace("\r\n", "\n").split("\n")
    status = _STATUS_LINE.fullmatch(status_line)
    if status is None:
        raise HttpError(f"not an HTTP answer: {status_line[:40]!a}")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name.lower(), value.strip())
    return Head(int(status[1]), headers)


class Body:
    """The body of an answer out of the bytes that follow its head (RFC 9112 §6.3), no more than `limit_bytes` of it.

    `content` is what came so far without chunk framing. `whole` says that the body has ended, `full` that the limit is
    reached: with either there is nothing more to read.
    """

    def __init__(self, head: Head, limit_bytes: int) -> None:
        self.content = bytearray()
        self._limit_bytes = limit_bytes
        self._chunked = head.headers.get("transfer-encoding", "").lower().endswith("chunked")
        length = None if self._chunked else _LENGTH.fullmatch(head.headers.get("content-length", ""))
        self._left = int(length[0]) if length else None  # of the body, or of the chunk
        self._until_closed = not self._chunked and length is None
        self._pending = bytearray()
        self.whole = head.status in _WITHOUT_BODY or self._left == 0

    @property
    def full(self) -> bool:
        """Whether as much was read as may be."""
        return len(self.content) >= self._limit_bytes

    def feed(self, data: bytes) -> None:
        """Take the next bytes; HttpError when chunks are malformed."""
        if self._chunked:
            self._feed_chunks(data)
        elif not self.whole:
            self._keep(data)
            self.whole = self._left == 0

    def close(self) -> None:
        """Take the end of the connection; HttpError when the body had not ended."""
        if not self._until_closed and not self.whole:
            raise HttpError("cut short: the connection was closed")
        self.whole = True

    def _keep(self, data: bytes | bytearray) -> None:
        """Keep what belongs to the body or the chunk and is within the limit."""
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        self.content += data[: self._limit_bytes - len(self.content)]

    def _feed_chunks(self, data: bytes) -> None:
        self._pending += data
        while self._pending and not self.whole and not self.full:
            if self._left:
                taken = min(self._left, len(self._pending))
                self._keep(self._pending[:taken])
                del self._pending[:taken]
            elif not self._next_chunk():
                return

    def _next_chunk(self) -> bool:
        """Read the line with the size of the next chunk; False when it has not come yet."""
        line, newline, _ = self._pending.partition(b"\n")
        if len(line) > _MAX_LINE:
            raise HttpError("malformed chunks")
        if not newline:
            return False
        del self._pending[: len(line) + 1]
        line = line.removesuffix(b"\r")
        if not line and self._left is not None:  # the end of the chunk before
            self._left = None
            return True
        size = _CHUNK_SIZE.fullmatch(line)
        if size is None:
            raise HttpError("malformed chunks")
        self._left = int(size[1], 16)
        self.whole = self._left == 0
        return True
