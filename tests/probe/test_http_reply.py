"""The head and the body of an answer, and what only begins like one: whatever bytes come, in whatever pieces."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banua_probe.sensors.http_reply import MAX_HEAD_BYTES, Body, Head, HttpError, parse_head, split_head

OK = b"HTTP/1.1 200 OK\r\n"


def test_a_head_is_its_status_and_headers() -> None:
    head = parse_head(b"HTTP/1.1 302 Found\r\nLocation: http://a.test/ \r\nX:1\r\nx: 2\r\nno colon")
    assert head == Head(302, {"location": "http://a.test/", "x": "1"})
    assert head.location == "a.test"


def test_a_location_that_no_row_can_hold_is_left_out() -> None:
    assert Head(302, {"location": f"http://{'a' * 201}/"}).location == ""
    assert Head(302, {"location": "http://a\x7fb/"}).location == ""


@pytest.mark.parametrize(("received", "rest"), [
    (b"HTTP/1.1 200 OK\r\n\r\nhello", b"hello"),
    (b"HTTP/1.0 200\n\n", b""),
])  # fmt: skip
def test_a_head_ends_with_an_empty_line(received: bytes, rest: bytes) -> None:
    end = len(received) - len(rest)
    assert split_head(received) == (Head(200, {}), rest)
    assert all(split_head(received[:size]) is None for size in range(end))


def test_a_head_without_an_end_is_refused() -> None:
    assert split_head(OK + b"x" * (MAX_HEAD_BYTES - len(OK))) is None
    with pytest.raises(HttpError, match="head too long"):
        split_head(OK + b"x" * MAX_HEAD_BYTES)


HEADS = st.sampled_from([
    b"", b"Content-Length: 7\r\n", b"Content-Length: -7\r\n", b"Transfer-Encoding: chunked\r\n", b"Location: http://",
])  # fmt: skip


@given(st.binary(max_size=200), st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 302 \r\nLocation: http://"]))
def test_arbitrary_bytes_are_a_head_or_a_http_error(block: bytes, start: bytes) -> None:
    with contextlib.suppress(HttpError):
        head = parse_head(start + block)
        assert 100 <= head.status <= 599
        assert head.location.isprintable()


@given(HEADS, st.lists(st.binary(max_size=40), max_size=6), st.integers(1, 50))
def test_arbitrary_bytes_are_a_body_or_a_http_error(headers: bytes, pieces: list[bytes], limit: int) -> None:
    body = Body(parse_head(OK + headers), limit)
    with contextlib.suppress(HttpError):
        for piece in pieces:
            body.feed(piece)
            assert len(body.content) <= limit
        body.close()
        assert body.whole
    assert len(body.content) <= limit


@given(st.binary(max_size=300), st.lists(st.integers(1, 300), max_size=6), st.lists(st.integers(1, 400), max_size=6))
def test_chunks_are_put_together_however_they_arrive(content: bytes, sizes: list[int], cuts: list[int]) -> None:
    sent, left = b"", content
    for size in [*sizes, 300]:
        if chunk := left[:size]:
            sent += f"{len(chunk):X}\r\n".encode() + chunk + b"\r\n"
        left = left[size:]
    sent += b"0\r\n\r\n"
    body = Body(parse_head(OK + b"Transfer-Encoding: chunked"), 1000)
    edges = sorted({0, len(sent), *(cut for cut in cuts if cut < len(sent))})
    for begin, end in itertools.pairwise(edges):
        body.feed(sent[begin:end])
    assert (bytes(body.content), body.whole) == (content, True)
