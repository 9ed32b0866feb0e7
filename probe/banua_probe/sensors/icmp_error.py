"""What the kernel tells of an ICMP error: ``sock_extended_err`` from a socket's error queue (ip(7), IP_RECVERR)."""

import ipaddress
import socket
import struct
from dataclasses import dataclass
from typing import Final

ORIGIN_LOCAL: Final = 1
ORIGIN_ICMP: Final = 2
ORIGIN_ICMP6: Final = 3
ORIGIN_TIMESTAMPING: Final = 4

RECVERR: Final = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
"""Level and number of the options IP_RECVERR and IPV6_RECVERR, which Python does not name."""

_FIXED: Final = struct.Struct("=IBBBBII")
"""ee_errno, ee_origin, ee_type, ee_code, ee_pad, ee_info, ee_data; the offender's sockaddr follows."""
_FAMILY: Final = struct.Struct("=H")
_ADDRESS_AT: Final = {int(socket.AF_INET): (4, 4), int(socket.AF_INET6): (8, 16)}
"""Where the address stands in a sockaddr, and its length."""

TIME_EXCEEDED: Final = "time_exceeded"
TOO_BIG: Final = "fragmentation_needed"

_ICMP: Final = {
    (11, 0): TIME_EXCEEDED,
    (3, 0): "net_unreachable",
    (3, 1): "host_unreachable",
    (3, 2): "protocol_unreachable",
    (3, 3): "port_unreachable",
    (3, 4): TOO_BIG,
    (3, 9): "net_prohibited",
    (3, 10): "host_prohibited",
    (3, 13): "prohibited",
}
_ICMP6: Final = {
    (3, 0): TIME_EXCEEDED,
    (1, 0): "net_unreachable",
    (1, 1): "prohibited",
    (1, 3): "host_unreachable",
    (1, 4): "port_unreachable",
    (2, 0): TOO_BIG,
}


@dataclass(frozen=True, slots=True)
class ExtendedError:
    """One entry of the error queue; `info` is the next hop's MTU in bytes where the error is `TOO_BIG`."""

    errno: int
    origin: int
    type: int
    code: int
    info: int
    offender: str | None
    """Address of who sent the ICMP message."""
    data: int = 0
    """Number of the packet, where the entry is a time stamp."""


def parse_extended_error(data: bytes) -> ExtendedError | None:
    """Return the error that the ancillary data of IP_RECVERR or IPV6_RECVERR holds, None if it is too short for one."""
    if len(data) < _FIXED.size:
        return None
    errno, origin, kind, code, _, info, number = _FIXED.unpack_from(data)
    return ExtendedError(errno, origin, kind, code, info, _offender(data[_FIXED.size :]), number)


def _offender(sockaddr: bytes) -> str | None:
    if len(sockaddr) < _FAMILY.size:
        return None
    at, length = _ADDRESS_AT.get(_FAMILY.unpack_from(sockaddr)[0], (0, 0))
    raw = sockaddr[at : at + length]
    return str(ipaddress.ip_address(raw)) if length and len(raw) == length else None


def answer_name(kind: int, code: int, *, ipv6: bool = False) -> str:
    """Return the dictionary's word for an ICMP message, ``icmp_TYPE_CODE`` where it has none."""
    return (_ICMP6 if ipv6 else _ICMP).get((kind, code), f"icmp_{kind}_{code}")
