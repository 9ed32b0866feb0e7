"""Which interface a packet leaves by, and its carrier, as files and netlink messages say."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banua_probe.sensors.carrier import carrier_state, parse_route, route_interface

if TYPE_CHECKING:
    from pathlib import Path


def route_answer(*attributes: tuple[int, bytes], kind: int = 24) -> bytes:
    """What the kernel answers to RTM_GETROUTE, with these attributes."""
    body = bytes(12)
    for number, data in attributes:
        body += struct.pack("=HH", 4 + len(data), number) + data + bytes(-len(data) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


@pytest.mark.parametrize(("carrier", "changes", "state"), [
    ("1\n", "4\n", (True, "4")),
    ("0\n", "5\n", (False, "5")),
    (None, "2\n", (True, "2")),
    (None, None, (True, "")),
])  # fmt: skip
def test_only_a_carrier_that_is_said_to_be_missing_is(
    tmp_path: Path, carrier: str | None, changes: str | None, state: tuple[bool, str]
) -> None:
    """An interface that is down has no carrier to read (EINVAL); it refuses to send by itself."""
    (tmp_path / "wwan0").mkdir()
    for name, text in (("carrier", carrier), ("carrier_changes", changes)):
        if text is not None:
            (tmp_path / "wwan0" / name).write_text(text)
    assert carrier_state("wwan0", tmp_path) == state


def test_the_kernel_names_the_interface_of_a_route() -> None:
    assert route_interface("127.0.0.1") == "lo"
    assert route_interface("fe80::1%wwan0") == "wwan0"


def test_the_interface_is_found_among_other_attributes() -> None:
    answer = route_answer((15, b"\xfe\0\0\0"), (1, b"\x7f\0\0\1"), (9, b"odd"), (4, struct.pack("=I", 7)))
    assert parse_route(answer) == 7
    assert parse_route(route_answer((1, b"\x7f\0\0\1"))) == 0
    assert parse_route(route_answer((4, struct.pack("=I", 7)), kind=2)) == 0, "an error has another type"


@given(st.binary(max_size=80), st.booleans())
def test_any_bytes_are_an_interface_or_none(message: bytes, route: bool) -> None:
    assert parse_route(route_answer()[:28] + message if route else message) >= 0
