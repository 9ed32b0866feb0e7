"""`dns`: one question for an A record to one resolver (RFC 1035), asked anew each time.

No cache of ours answers: each try has a random id and a source port of its own, and hears its resolver only. An answer,
whatever its code, is measured; silence is a failure; a question that never left this machine, or went unanswered while
its interface lost its carrier, was not measured.
"""

import ipaddress
import re
import secrets
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from banua_probe.config import DnsQuery
from banua_probe.sensors.bound import NeverLeftError, bind_to, carrier_of, connect_within, who
from banua_probe.sensors.within import within_dictionary
from banua_wire.fields import Value
from banua_wire.rows import Row

TIMEOUT_S: Final = 3.0
"""T_max of one try, TCP included: what takes longer is lost."""
TRIES: Final = 2

_HEADER: Final = struct.Struct("!6H")
_TYPE_CLASS: Final = struct.Struct("!2H")
_RECORD: Final = struct.Struct("!2HIH")
_RESPONSE, _OPCODE, _TRUNCATED, _RECURSION_DESIRED, _RCODE = 0x8000, 0x7800, 0x0200, 0x0100, 0x000F
_A, _AAAA, _IN = 1, 28, 1
_ADDRESSES: Final = {_A: ipaddress.IPv4Address, _AAAA: ipaddress.IPv6Address}
_POINTER: Final = 0xC0
_MAX_LABEL: Final = 63
_MAX_NAME: Final = 255
_MAX_POINTERS: Final = 127  # one before each label of the longest name
_RCODES: Final = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}
_LABEL: Final = re.compile(rb"[!-\-/-~]{1,63}")  # printable, and no dot

Name = tuple[bytes, ...]
"""The labels of a name, in small letters."""


class DnsError(Exception):
    """Not a name that can be asked for, or not a message that answers; one line says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a response says. `addresses` are those of its A and AAAA records; a truncated response tells none."""

    number: int
    rcode: str
    truncated: bool
    name: Name
    addresses: list[str]


def labels_of(name: str) -> Name:
    """Return the labels of `name`, a dot at its end or not; DnsError when DNS cannot ask for it."""
    try:
        labels = tuple(name.lower().removesuffix(".").encode("ascii").split(b"."))
    except UnicodeEncodeError:
        raise DnsError("not a DNS name: only ASCII is") from None
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise DnsError("not a DNS name: a label is 1 to 63 printable characters")
    if sum(len(label) + 1 for label in labels) + 1 > _MAX_NAME:
        raise DnsError(f"not a DNS name: over {_MAX_NAME} bytes")
    return labels


def question(name: Name, number: int) -> bytes:
    """Return the message with id `number` that asks for the A records of `name`, recursion desired."""
    encoded = b"".join(bytes([len(label)]) + label for label in name) + b"\0"
    return _HEADER.pack(number, _RECURSION_DESIRED, 1, 0, 0, 0) + encoded + _TYPE_CLASS.pack(_A, _IN)


def parse_answer(message: bytes) -> Answer:
    """Return what `message` answers to a question for A records; DnsError when it is no such response."""
    reader = _Reader(message)
    number, flags, questions, records, _, _ = reader.numbers(_HEADER)
    if not flags & _RESPONSE or flags & _OPCODE:
        raise DnsError("not the response to a query")
    if questions != 1:
        raise DnsError("it repeats no question")
    name = reader.name()
    if reader.numbers(_TYPE_CLASS) != (_A, _IN):
        raise DnsError("it answers another question")
    rcode = _RCODES.get(flags & _RCODE, f"RCODE{flags & _RCODE}")
    if flags & _TRUNCATED:
        return Answer(number, rcode, truncated=True, name=name, addresses=[])
    addresses = [address for _ in range(records) if (address := reader.address())]
    return Answer(number, rcode, truncated=False, name=name, addresses=addresses)


class _Reader:
    """Reads a message from its beginning; DnsError where it ends too early or is malformed."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._at = 0

    def numbers(self, form: struct.Struct) -> tuple[int, ...]:
        """Return the next numbers of that form."""
        return form.unpack(self._take(form.size))

    def address(self) -> str:
        """Read a record and return its address, "" for a record that has none (CNAME and others)."""
        self.name()
        kind, record_class, _, size = self.numbers(_RECORD)
        data = self._take(size)
        if record_class != _IN or kind not in _ADDRESSES:
            return ""
        try:
            return str(_ADDRESSES[kind](data))
        except ipaddress.AddressValueError:
            raise DnsError("an address of a wrong length") from None

    def name(self) -> Name:
        """Return the next name. Its pointers (RFC 1035 §4.1.4) are few and lead ever further back: none can loop."""
        labels: list[bytes] = []
        size, start, after, pointers = 1, self._at, 0, 0
        while length := self._take(1)[0]:
            if length >= _POINTER:
                target = (length - _POINTER) << 8 | self._take(1)[0]
                pointers += 1
                if target >= start or pointers > _MAX_POINTERS:
                    raise DnsError("a name whose pointers lead nowhere")
                after = after or self._at
                self._at = start = target
                continue
            if length > _MAX_LABEL:
                raise DnsError("a label of an unknown type")
            size += 1 + length
            if size > _MAX_NAME:
                raise DnsError(f"a name over {_MAX_NAME} bytes")
            labels.append(self._take(length).lower())
        self._at = after or self._at
        return tuple(labels)

    def _take(self, size: int) -> bytes:
        data = self._message[self._at : self._at + size]
        if len(data) < size:
            raise DnsError("cut short")
        self._at += size
        return data


def hijacked(query: DnsQuery, answer: Answer) -> int | None:
    """Return 1 when somebody answered in the place of the truth, 0 when not, None when there is nothing to compare.

    A name under ``.invalid`` exists nowhere (RFC 6761): any address is a lie. Otherwise each address has to lie in
    `query.expect`.
    """
    if labels_of(query.name)[-1] == b"invalid":
        return 1 if answer.addresses else 0 if answer.rcode == "NXDOMAIN" else None
    networks = [ipaddress.ip_network(network) for network in query.expect]
    versions = {network.version for network in networks}
    addresses = [ipaddress.ip_address(address) for address in answer.addresses]
    comparable = [address for address in addresses if address.version in versions]
    if not comparable:
        return None
    return int(not all(any(address in network for network in networks) for address in comparable))


class _Unanswered(Exception):  # noqa: N818 (an outcome of a try, not an error of ours)
    """A question was sent, and no answer to it came; the message says what came instead."""


@dataclass(frozen=True, slots=True)
class _Lookup:
    """An answer, how it came and how long it took from the question over UDP."""

    answer: Answer
    transport: str
    took_us: int


def ask(query: DnsQuery, boottime_ms: Callable[[], int], *, interface: str = "", timeout_s: float = TIMEOUT_S) -> Row:
    """Ask, bound to `interface` if one is given, at most TRIES times with `timeout_s` each, and return the row.

    Nothing raises: what goes wrong is in the row, with its reason.
    """
    started_ms = boottime_ms()
    values = who("dns", query, interface)
    try:
        values |= _ask(query, interface, timeout_s)
    except DnsError as error:
        values |= {"outcome": "not_measured", "reason": str(error)}
    except NeverLeftError as error:
        values |= {"outcome": "not_measured", "reason": f"not sent: {error.strerror}"}
    return Row("dns", started_ms, within_dictionary("dns", values))


def _ask(query: DnsQuery, interface: str, timeout_s: float) -> dict[str, Value]:
    """Return what the tries say; DnsError for a name that is none, NeverLeftError when no try left this machine."""
    name = labels_of(query.name)
    sent, reason = 0, ""
    while sent < TRIES:
        try:
            lookup = _try(name, query, interface, timeout_s)
        except _Unanswered as silence:
            sent, reason = sent + 1, str(silence)
        except NeverLeftError:
            if not sent:
                raise
            break
        else:
            return _measured(query, lookup) | {"tries": sent + 1}
    return {"outcome": "failed", "reason": reason, "tries": sent}


def _measured(query: DnsQuery, lookup: _Lookup) -> dict[str, Value]:
    answer = lookup.answer
    values: dict[str, Value] = {
        "outcome": "measured",
        "rcode": answer.rcode,
        "lookup_us": lookup.took_us,
        "answers": len(answer.addresses),
        "transport": lookup.transport,
    }
    values |= {"address": answer.addresses[0]} if answer.addresses else {}
    verdict = hijacked(query, answer)
    return values if verdict is None else values | {"hijacked": verdict}


def _try(name: Name, query: DnsQuery, interface: str, timeout_s: float) -> _Lookup:
    """Ask once, over TCP too if the answer is truncated; _Unanswered, or NeverLeftError when nothing was sent."""
    number = secrets.randbelow(2**16)
    message = question(name, number)
    family = socket.AF_INET6 if ":" in query.resolver else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM)
    except OSError as error:
        raise NeverLeftError(error.errno, error.strerror) from error
    with sock:
        try:
            bind_to(sock, interface)
            carrier = carrier_of(sock, query.resolver)
            sock.connect((query.resolver, query.port))
            sent_ns = time.monotonic_ns()
            sock.send(message)
        except OSError as error:
            raise NeverLeftError(error.errno, error.strerror) from error
        deadline_ns = sent_ns + round(timeout_s * 1e9)
        try:
            answer, at_ns = _hear(sock, (number, name), deadline_ns, timeout_s)
        except _Unanswered:
            carrier.check()
            raise
    if not answer.truncated:
        return _Lookup(answer, "udp", (at_ns - sent_ns) // 1000)
    try:
        with socket.socket(family, socket.SOCK_STREAM) as tcp:
            bind_to(tcp, interface)
            connect_within(tcp, (query.resolver, query.port), _left_s(deadline_ns))
            answer, at_ns = _over_tcp(tcp, message, deadline_ns)
    except NeverLeftError:
        raise
    except TimeoutError:
        carrier.check()
        raise _Unanswered(f"truncated, and over TCP no answer within {timeout_s:g} s") from None
    except OSError as error:
        raise _Unanswered(f"truncated, and over TCP {_plain(error)}") from None
    except DnsError as error:
        raise _Unanswered(f"truncated, and over TCP no answer: {error}") from None
    if (answer.number, answer.name) != (number, name) or answer.truncated:
        raise _Unanswered("truncated, and over TCP no full answer either")
    return _Lookup(answer, "tcp", (at_ns - sent_ns) // 1000)


def _hear(sock: socket.socket, asked: tuple[int, Name], deadline_ns: int, timeout_s: float) -> tuple[Answer, int]:
    """Return the answer to what was asked and when it came (CLOCK_MONOTONIC); anything else is ignored."""
    ignored = ""
    while True:
        try:
            sock.settimeout(_left_s(deadline_ns))
            message = sock.recv(2**16)
            at_ns = time.monotonic_ns()
            answer = parse_answer(message)
        except TimeoutError:
            raise _Unanswered(f"no answer within {timeout_s:g} s{ignored}") from None
        except OSError as error:
            raise _Unanswered(_plain(error)) from None
        except DnsError as error:
            ignored = f"; ignored: {error}"
            continue
        if (answer.number, answer.name) == asked:
            return answer, at_ns
        ignored = "; ignored: an answer to another question"


def _over_tcp(sock: socket.socket, message: bytes, deadline_ns: int) -> tuple[Answer, int]:
    """Return the answer over a connected socket and when it came; OSError, DnsError."""
    sock.settimeout(_left_s(deadline_ns))
    sock.sendall(len(message).to_bytes(2, "big") + message)
    size = int.from_bytes(_receive(sock, 2, deadline_ns), "big")
    answer = _receive(sock, size, deadline_ns)
    return parse_answer(answer), time.monotonic_ns()


def _receive(sock: socket.socket, size: int, deadline_ns: int) -> bytes:
    """Return exactly `size` bytes; DnsError when the other side closes before."""
    data = b""
    while len(data) < size:
        sock.settimeout(_left_s(deadline_ns))
        more = sock.recv(size - len(data))
        if not more:
            raise DnsError("closed")
        data += more
    return data


def _left_s(deadline_ns: int) -> float:
    """Return the time until the deadline in s; TimeoutError when it has passed."""
    left_ns = deadline_ns - time.monotonic_ns()
    if left_ns <= 0:
        raise TimeoutError
    return left_ns / 1e9


def _plain(error: OSError) -> str:
    return str(error.strerror or error).lower()
