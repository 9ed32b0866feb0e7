"""Take one line of an AT dialogue apart (ITU-T V.250, 3GPP TS 27.007): pure text, no meaning yet."""

import re
from typing import Final

from banua_probe.modem.errors import ParseError

MAX_LINE: Final = 4096
"""Longest line that is read, in bytes; the longest reply known here has about 200."""

_INFORMATION: Final = re.compile(r"([+^$%][A-Z0-9]+) ?: ?(.*)", re.DOTALL)
# Two alternatives that never compete for a space: a hostile line costs time in proportion to its length.
_TOKEN: Final = re.compile(r'(?: *"(?P<quoted>[^"]*)" *|(?P<plain>[^",]*))(?P<comma>,|\Z)')
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,11}")  # NR's cell identity has 36 bits
_DECIMAL: Final = re.compile(r"[+-]?[0-9]{1,10}(?:\.[0-9]{1,3})?")
_HEXADECIMAL: Final = re.compile(r"(?:0[xX])?[0-9A-Fa-f]{1,16}")

# A final result code ends a reply (V.250 §5.7.1; TS 27.007 §9.1 and TS 27.005 §3.2.5 for the two long ones).
_FINAL: Final = re.compile(r"OK|ERROR|\+CM[ES] ERROR(:.*)?", re.DOTALL)
_ECHO: Final = re.compile(r"AT", re.IGNORECASE)
# What vendors send for "no value" in place of a number.
_NULL: Final = frozenset({"", "-"})
_MCC_DIGITS: Final = 3
_MNC_DIGITS: Final = (1, 2, 3)


def clean(text: str) -> str:
    """Return `text` without the white space and NULs that serial lines add around it."""
    return text.strip(" \t\r\n\0")


def is_final(line: str) -> bool:
    """Tell whether the clean `line` ends a reply."""
    return _FINAL.fullmatch(line) is not None


def is_echo(line: str) -> bool:
    """Tell whether the clean `line` is the modem repeating a command."""
    return _ECHO.match(line) is not None


def shown(text: str) -> str:
    """Return foreign `text` for a message: one line, quoted, ASCII, at most 40 characters of it."""
    limit = 40
    return ascii(text if len(text) <= limit else text[:limit] + "…")


def split(line: str) -> tuple[str, list[str]]:
    """Return the command's name and the values of a clean information line; quoted values keep their quotes.

    Raises `ParseError` where the line is no information line or a quote does not close.
    """
    match = _INFORMATION.fullmatch(line)
    if match is None:
        raise ParseError(f"not an information line: {shown(line)}")
    return match[1], _tokens(match[2])


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    at = 0
    while True:
        match = _TOKEN.match(text, at)
        if match is None:
            raise ParseError(f"value {len(tokens) + 1} is neither quoted nor plain: {shown(text[at:])}")
        tokens.append(match["plain"].strip() if match["quoted"] is None else f'"{match["quoted"]}"')
        if not match["comma"]:
            return tokens
        at = match.end()


def unquoted(token: str) -> str:
    """Return `token` without its quotes."""
    return token[1:-1] if token.startswith('"') else token


def integer(token: str) -> int | None:
    """Return the number in `token`, None for a null value; raises `ParseError`."""
    text = unquoted(token)
    if text in _NULL:
        return None
    if _INTEGER.fullmatch(text) is None:
        raise ParseError(f"not a whole number: {shown(token)}")
    return int(text)


def decimal(token: str) -> float | None:
    """Return the number in `token`, whole or with a fraction, None for a null value; raises `ParseError`."""
    text = unquoted(token)
    if text in _NULL:
        return None
    if _DECIMAL.fullmatch(text) is None:
        raise ParseError(f"not a number: {shown(token)}")
    return float(text) if "." in text else int(text)


def hexadecimal(token: str) -> int | None:
    """Return the hexadecimal number in `token`, None for a null value; raises `ParseError`."""
    text = unquoted(token)
    if text in _NULL:
        return None
    if _HEXADECIMAL.fullmatch(text) is None:
        raise ParseError(f"not a hexadecimal number: {shown(token)}")
    return int(text, 16)


def digits(token: str) -> str | None:
    """Return the decimal digits in `token` as sent, None for a null value; raises `ParseError`."""
    number = integer(token)
    text = unquoted(token)
    if number is None:
        return None
    if not text[0].isdigit():
        raise ParseError(f"not digits: {shown(token)}")
    return text


def plmn(mcc: str, mnc: str) -> str | None:
    """Return country and network code as one, the MNC padded to 2, None where either is null or no such code."""
    country, network = digits(mcc), digits(mnc)
    if country is None or network is None or len(country) != _MCC_DIGITS or len(network) not in _MNC_DIGITS:
        return None
    return country + network.zfill(2)
