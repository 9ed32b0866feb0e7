"""Reader of the list of networks that a scan received: 3GPP TS 27.007 §7.3, ``AT+COPS=?``.

``+COPS: (<stat>,<long>,<short>,<numeric>[,<AcT>]),…[,,(<modes>),(<formats>)]``. Some modems send a line a network, some
break the list between two networks; Fibocom has one value more before ``<AcT>``.

A network that is missing from a scan is evidence, so a list is read whole or not at all: one network that cannot be
read makes all of it a `ParseError`, and so does a reply that has no list, not even an empty one.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from banua_probe.modem.errors import ParseError
from banua_probe.modem.gpp import ACCESS
from banua_probe.modem.line import clean, digits, integer, plmn, shown, split, unquoted
from banua_probe.modem.reading import Rat

Status = Literal["unknown", "available", "current", "forbidden"]

MAX_LIST: Final = 16 * 1024
"""Longest list that is read, in characters: the longest reply of a port."""

_STATUS: Final[Mapping[int, Status]] = {0: "unknown", 1: "available", 2: "current", 3: "forbidden"}
_BETTER: Final[Sequence[Status]] = ("unknown", "forbidden", "available", "current")
_PREFIX: Final = re.compile(r"\+COPS ?: ?")
_NETWORK: Final = re.compile(r' *\(((?:[^()"]|"[^"]*")*)\) *(,|\Z)')
_PLAIN_VALUES: Final = 4
_PLMN_DIGITS: Final = (5, 6)
_MCC_DIGITS: Final = 3


@dataclass(frozen=True, slots=True)
class Receivable:
    """One network that was received, on one technology; None is what the modem did not tell."""

    plmn: str
    rat: Rat | None
    status: Status
    name: str | None


def receivable(lines: Iterable[str]) -> list[Receivable]:
    """Return the networks in the reply `lines`, each technology of each once; raises `ParseError`.

    Echo, blank lines, final result codes and unsolicited lines are skipped.
    """
    found: dict[tuple[str, Rat | None], Receivable] = {}
    for network in _networks(_list(lines)):
        key = network.plmn, network.rat
        if key not in found or _BETTER.index(network.status) > _BETTER.index(found[key].status):
            found[key] = network
    return list(found.values())


def _list(lines: Iterable[str]) -> str:
    """Return the list as one text."""
    whole: str | None = None
    for line in lines:
        text = clean(line)
        prefix = _PREFIX.match(text)
        if prefix is not None:
            whole = _joined(whole or "", text[prefix.end() :])
        elif whole is not None and text.startswith(("(", ",")):
            whole = _joined(whole, text)
    if whole is None:
        raise ParseError("a scan without a list of networks")
    if len(whole) > MAX_LIST:
        raise ParseError(f"a list of networks of over {MAX_LIST} characters")
    return whole


def _joined(first: str, second: str) -> str:
    """Return two pieces of a list as one, with the comma between them that one, both or neither line has."""
    return f"{first},{second}" if first and first[-1] != "," and second[:1] != "," else first + second


def _networks(text: str) -> Iterable[Receivable]:
    at = 0
    while at < len(text) and not text.startswith(",", at):  # ",," begins what the modem supports
        match = _NETWORK.match(text, at)
        if match is None:
            raise ParseError(f"no network in {shown(text[at:])}")
        yield _network(match[1])
        at = match.end()


def _network(values: str) -> Receivable:
    _, tokens = split(f"+COPS: {values}")
    if len(tokens) < _PLAIN_VALUES:
        raise ParseError(f"{len(tokens)} values of a network where at least {_PLAIN_VALUES} belong")
    stat, long, short, numeric, *more = tokens
    status = integer(stat)
    access = integer(more[-1]) if more else None
    return Receivable(
        plmn=_plmn(numeric),
        rat=None if access is None else ACCESS.get(access),
        status="unknown" if status is None else _STATUS.get(status, "unknown"),
        name=unquoted(long) or unquoted(short) or None,
    )


def _plmn(token: str) -> str:
    text = digits(token) or ""
    code = plmn(text[:_MCC_DIGITS], text[_MCC_DIGITS:])
    if code is None or len(text) not in _PLMN_DIGITS:
        raise ParseError(f"not a numeric operator: {shown(unquoted(token))}")
    return code
