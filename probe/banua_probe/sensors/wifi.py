"""`wifi`: the networks that one Wi-Fi interface hears, by ``iw dev <interface> scan``.

A scan needs CAP_NET_ADMIN. What ``iw`` prints is text for people: what is not understood of it is left out, and it
never costs more than that. `not_measured`: no scan took place (no ``iw``, no such interface, not permitted, busy);
`failed`: it began and gave no list; `measured`: it gave one, an empty one too.
"""

import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from banua_probe.config import Wifi
from banua_probe.sensors.within import printable, within_dictionary
from banua_wire.fields import MAX_TEXT, Value
from banua_wire.rows import Row

TIMEOUT_S: Final = 20.0
"""How long a scan may take; both bands need about five seconds."""
MAX_OUTPUT: Final = 1024 * 1024
"""Most bytes that are read of a scan; a network takes about 4,000."""

_BSS: Final = re.compile(r"BSS ([0-9a-f]{2}(?::[0-9a-f]{2}){5}) ?\(on ")
_HEADER: Final = re.compile(r"([^:]+):(.*)")
_NUMBER: Final = re.compile(r"(-?[0-9]{1,9}(?:\.[0-9]{1,3})?)\b")
_LAST_SEEN: Final = re.compile(r"([0-9]{1,9}) ms ago")
_STATIONS: Final = re.compile(r"\* station count: ([0-9]{1,5})")
_UTILISATION: Final = re.compile(r"\* channel utilisation: ([0-9]{1,3})/255")
_SUITES: Final = re.compile(r"\* Authentication suites: (.*)")
# An iw that does not know a suite prints its number in IEEE 802.11 §9.4.2.24.3.
_SAE: Final = re.compile(r"\bSAE\b|00-0f-ac:(?:8|9|24|25)\b")
_OWE: Final = re.compile(r"\bOWE\b|00-0f-ac:18\b")
_ESCAPE: Final = re.compile(rb"\\x([0-9a-f]{2})")
_HEADER_INDENT: Final = 8
_SAID: Final = 100
_BLANKS: Final = " \t\r"  # and no more: other white space of Latin-1 may be a byte of a name in UTF-8
_FAILURE: Final = re.compile(r"command failed: .*\(-([0-9]{1,4})\)")
_ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
# Errors of Linux with which no scan began.
_NOT_BEGUN: Final[Mapping[int, str]] = {
    1: "not permitted: it needs CAP_NET_ADMIN",
    16: "the interface is busy",
    19: "no such interface",
    100: "the interface is down",
    132: "the radio is switched off (rfkill)",
}


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command left: its exit status and everything it printed."""

    status: int
    output: bytes


Run = Callable[[Sequence[str]], Ran]
"""Runs a command; raises OSError if it cannot be run, `NoList` if it came to no end."""


class NoList(Exception):  # noqa: N818 (a condition of the scan, named as one)
    """A scan that ran and was given up; the message is one line."""


@dataclass(slots=True)
class Network:
    """One access point; what it or ``iw`` does not tell is None."""

    bssid: str
    ssid: str | None = None
    frequency_mhz: float | None = None
    signal_dbm: float | None = None
    last_seen_ms: int | None = None
    stations: int | None = None
    utilisation_pct: float | None = None
    capabilities: str | None = None
    suites: dict[str, str] = field(default_factory=dict)
    """Ways to log in by element, ``RSN`` or ``WPA``."""

    @property
    def security(self) -> str | None:
        """The best it offers: open, wep, wpa, wpa2 or wpa3; None if unknown, or encrypted without a password."""
        rsn = self.suites.get("RSN")
        if rsn is not None:
            return "wpa3" if _SAE.search(rsn) else None if _OWE.search(rsn) else "wpa2"
        if "WPA" in self.suites:
            return "wpa"
        if self.capabilities is None:
            return None
        return "wep" if "Privacy" in self.capabilities.split() else "open"


def scan_command(interface: str) -> list[str]:
    """Return the command that scans with `interface`."""
    return ["iw", "dev", interface, "scan"]


def parse_scan(output: bytes) -> list[Network]:
    """Return the networks in what ``iw dev … scan`` printed, each address once, the strongest first; never raises."""
    found: dict[str, Network] = {}
    for network in _networks(output.decode("latin-1").split("\n")):
        known = found.get(network.bssid)
        if known is None or _strength(network) > _strength(known):
            found[network.bssid] = network
    return sorted(found.values(), key=lambda network: (-_strength(network), network.bssid))


def _strength(network: Network) -> float:
    weakest = -1000.0
    return weakest if network.signal_dbm is None else network.signal_dbm


def _networks(lines: Iterable[str]) -> Iterable[Network]:
    network: Network | None = None
    section = ""
    for line in lines:
        begins = _BSS.match(line)
        if begins is not None:
            if network is not None:
                yield network
            network, section = Network(begins[1]), ""
        elif network is not None:
            section = _take(network, section, line)
    if network is not None:
        yield network


def _take(network: Network, section: str, line: str) -> str:
    """Note what `line` says of `network`; return the element that the lines after it belong to."""
    text = line.strip(_BLANKS)
    indent = len(line.expandtabs(8)) - len(line.expandtabs(8).lstrip(_BLANKS))
    header = None if text.startswith("*") or indent > _HEADER_INDENT else _HEADER.fullmatch(text)
    if header is None:
        _take_detail(network, section, text)
        return section
    name, value = header[1], header[2].strip(_BLANKS)
    if name in {"RSN", "WPA"}:
        network.suites.setdefault(name, "")
    elif name == "SSID" and network.ssid is None:
        network.ssid = _ssid(value)
    elif name == "capability" and network.capabilities is None:
        network.capabilities = value
    elif name == "freq":
        network.frequency_mhz = _number(_NUMBER, value)
    elif name == "signal" and value.endswith("dBm"):
        network.signal_dbm = _number(_NUMBER, value)
    elif name == "last seen" and (age := _number(_LAST_SEEN, value)) is not None:
        network.last_seen_ms = int(age)
    return name


def _take_detail(network: Network, section: str, text: str) -> None:
    suites = _SUITES.fullmatch(text)
    if suites is not None and section in network.suites:
        network.suites[section] = suites[1]
    elif section == "BSS Load":
        stations, used = _number(_STATIONS, text), _number(_UTILISATION, text)
        network.stations = network.stations if stations is None else int(stations)
        network.utilisation_pct = network.utilisation_pct if used is None else round(100 * used / 255, 1)


def _number(pattern: re.Pattern[str], text: str) -> float | None:
    match = pattern.match(text)
    return None if match is None else float(match[1])


def _ssid(text: str) -> str | None:
    """Return the printable part of a name in which ``iw`` wrote others in hexadecimal; None if there is none."""
    raw = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), text.encode("latin-1"))
    kept = "".join(char for char in raw.decode("utf-8", "ignore") if char.isprintable())
    return kept[:MAX_TEXT] or None


def wifi_rows(settings: Wifi, boottime_ms: Callable[[], int], run: Run | None = None) -> list[Row]:
    """Scan once with `run` (`run_bounded` by default); return a row for each of the strongest, and the summary."""
    summary: dict[str, Value] = {"interface": settings.interface}
    networks: list[Network] = []
    try:
        ran = (run or run_bounded)(scan_command(settings.interface))
    except FileNotFoundError:
        summary |= {"outcome": "not_measured", "reason": "iw is not installed"}
    except OSError as error:
        summary |= {"outcome": "not_measured", "reason": f"iw cannot be run: {error.strerror}"}
    except NoList as error:
        summary |= {"outcome": "failed", "reason": str(error)}
    else:
        if ran.status == 0:
            networks = parse_scan(ran.output)
            summary |= {"outcome": "measured", "count": len(networks)}
        else:
            summary |= _failure(ran)
    at = boottime_ms()
    rows = [_row(settings.interface, network, at) for network in networks[: settings.strongest]]
    return [*rows, Row("wifi", at, within_dictionary("wifi", summary))]


def _failure(ran: Ran) -> dict[str, Value]:
    text = ran.output.decode("latin-1")
    told = _FAILURE.search(text)
    reason = _NOT_BEGUN.get(int(told[1])) if told is not None else None
    if reason is not None:
        return {"outcome": "not_measured", "reason": reason}
    said = printable(text.strip())[:_SAID] or "nothing"
    return {"outcome": "failed", "reason": f"iw exited with {ran.status} and said {said}"}


def _row(interface: str, network: Network, at: int) -> Row:
    values: dict[str, Value | None] = {
        "bssid": network.bssid,
        "outcome": "measured",
        "interface": interface,
        "ssid": network.ssid,
        "frequency_mhz": network.frequency_mhz,
        "signal_dbm": network.signal_dbm,
        "security": network.security,
        "last_seen_ms": network.last_seen_ms,
        "stations": network.stations,
        "utilisation_pct": network.utilisation_pct,
    }
    known = {name: value for name, value in values.items() if value is not None}
    return Row("wifi", at, within_dictionary("wifi", known))


def run_bounded(command: Sequence[str], timeout_s: float = TIMEOUT_S, max_output: int = MAX_OUTPUT) -> Ran:
    """Run `command` and return what it printed on either output; raises OSError and `NoList`."""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=_ENVIRONMENT
    ) as process:
        timer = threading.Timer(timeout_s, process.kill)
        timer.start()
        output = process.stdout.read(max_output + 1) if process.stdout is not None else b""
        if len(output) > max_output:
            process.kill()
        status = process.wait()
        timer.cancel()
    if len(output) > max_output:
        raise NoList(f"over {max_output} bytes of output")
    if status == -signal.SIGKILL:
        raise NoList(f"no list within {timeout_s:g} s")
    return Ran(status, output)
