"""Which interface packets leave by, and whether it has a carrier: without one the kernel takes and drops them."""

import ipaddress
import socket
import struct
from pathlib import Path
from typing import Final

_SYSFS: Final = Path("/sys/class/net")

_HEADER: Final = struct.Struct("=IHHII")
_ROUTE: Final = struct.Struct("=8BI")
_ATTRIBUTE: Final = struct.Struct("=HH")
_INDEX: Final = struct.Struct("=I")
_NEW_ROUTE, _GET_ROUTE, _REQUEST = 24, 26, 1
_DESTINATION, _OUT_INTERFACE = 1, 4
_ALIGNED: Final = 4
_LARGEST: Final = 4096


def carrier_state(interface: str, sysfs: Path = _SYSFS) -> tuple[bool, str]:
    """Return whether packets that `interface` takes can leave, and how often that changed so far, "" if not known.

    Only a plain 0 says that there is no carrier. One that is down or gone has none to read, and refuses to send.
    """
    changes = _read(sysfs / interface / "carrier_changes")
    return _read(sysfs / interface / "carrier") != "0", changes


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def route_interface(host: str) -> str:
    """Return the interface that the routes take to `host`, an IP address; "" when there is none or nobody tells."""
    address, _, zone = host.partition("%")
    if zone:
        return zone
    packed = ipaddress.ip_address(address).packed
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6  # noqa: PLR2004 (bytes of an IPv4 address)
    route = _ROUTE.pack(family, len(packed) * 8, *[0] * 7)
    question = route + _ATTRIBUTE.pack(_ATTRIBUTE.size + len(packed), _DESTINATION) + packed
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
            sock.send(_HEADER.pack(_HEADER.size + len(question), _GET_ROUTE, _REQUEST, 0, 0) + question)
            index = parse_route(sock.recv(_LARGEST))
        return socket.if_indextoname(index) if index else ""
    except OSError:
        return ""


def parse_route(answer: bytes) -> int:
    """Return the index of the interface in the kernel's answer to RTM_GETROUTE (rtnetlink), 0 if there is none."""
    if len(answer) < _HEADER.size or _HEADER.unpack_from(answer)[1] != _NEW_ROUTE:
        return 0
    at = _HEADER.size + _ROUTE.size
    while at + _ATTRIBUTE.size + _INDEX.size <= len(answer):
        size, kind = _ATTRIBUTE.unpack_from(answer, at)
        if kind == _OUT_INTERFACE:
            return int(_INDEX.unpack_from(answer, at + _ATTRIBUTE.size)[0])
        at += max(-(-size // _ALIGNED) * _ALIGNED, _ATTRIBUTE.size)
    return 0
