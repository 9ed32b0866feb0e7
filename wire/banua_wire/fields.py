"""The data dictionary: every kind of row, every field, its unit, step, range and source.

One literal table. Encoding, validation, InfluxDB tags and field names, the published dictionary and the console's
labels derive from it. It is append-only: ids and meanings never change, new fields and kinds carry a higher ``since``;
a collector therefore reads every schema ever published.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final, Literal

SCHEMA: Final = 2
"""The newest schema in this table; a batch states the schema it was sealed with."""

MAX_TEXT: Final = 200
"""Longest text value, in characters."""
MAX_ARRAY: Final = 256
"""Longest array value, in entries."""

Scalar = int | float | str
Value = Scalar | list[int | float | None]


class Type(Enum):
    """How a field's values travel."""

    NUMBER = "number"  # an integer count of steps; `steps` of them make one unit
    TEXT = "text"
    ARRAY = "array"  # of numbers, in order, None where an entry is absent


@dataclass(frozen=True, slots=True)
class Field:
    """One column: a value in ``unit`` is a whole number of ``1/steps``, within ``lo``…``hi`` inclusive."""

    id: int
    name: str
    type: Type
    unit: str
    meaning: str
    source: str
    lo: float = 0
    hi: float = 0
    steps: int = 1
    since: int = 1


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of row; ``key`` names the fields that tell two rows of one moment apart."""

    id: int
    name: str
    meaning: str
    key: tuple[str, ...]
    fields: tuple[Field, ...]
    sink: Literal["influx", "sql"] = "influx"
    since: int = 1

    def field(self, name: str) -> Field | None:
        """Return the field called `name`, or None."""
        return _BY_NAME[self.name].get(name)

    def field_by_id(self, number: int) -> Field | None:
        """Return the field with the wire id `number`, or None."""
        return _BY_ID[self.name].get(number)


def _number(
    number: int, name: str, unit: str, lo: float, hi: float, meaning: str, source: str, steps: int = 1, since: int = 1
) -> Field:
    return Field(number, name, Type.NUMBER, unit, meaning, source, lo, hi, steps, since)


def _text(number: int, name: str, meaning: str, source: str, since: int = 1) -> Field:
    return Field(number, name, Type.TEXT, "", meaning, source, since=since)


def _train(number: int, meaning: str, since: int = 1) -> Field:
    return Field(number, "rtt_us", Type.ARRAY, "µs", meaning, "RFC 2681", 0, 60_000_000, since=since)


def _outcome(number: int, since: int = 1) -> Field:
    return _text(number, "outcome", "measured, failed (tried, nothing came back) or not_measured", _OURS, since)


def _reason(number: int, since: int = 1) -> Field:
    return _text(number, "reason", "why not measured or failed", _OURS, since)


_OURS: Final = "Sinyal Banua"
_EUTRA: Final = "3GPP TS 36.133"
_NR: Final = "3GPP TS 38.133"
_AT: Final = "3GPP TS 27.007"
_VENDOR: Final = "vendor AT manual"
_DNS: Final = "RFC 1035"
_HTTP: Final = "RFC 9110"
_IW: Final = "nl80211, as iw prints it"
_U32: Final = 2**32 - 1
_MAX_US: Final = 60_000_000
_BOUND: Final = "network interface that the packets were bound to; absent: the routes decided"
_BY_MODEM: Final = "modem that the packets were bound to; absent: any interface"
_SIMULATED: Final = "1: not a radio but a simulation of one"
_MAX_MS: Final = 2**43  # the year 2248 as unix time; 278 years as an uptime

KINDS: Final[tuple[Kind, ...]] = (
    Kind(
        1,
        "radio",
        "What a modem said of its network during one minute of polls",
        ("modem",),
        (
            _text(1, "modem", "name of the modem in the probe's configuration", _OURS),
            _number(2, "polls", "polls", 0, 600, "polls attempted in the row's interval", _OURS),
            _number(3, "polls_registered", "polls", 0, 600, "answered: registered", _AT),
            _number(
                4, "polls_limited", "polls", 0, 600, "answered: camped without registration (limited service)", _AT
            ),
            _number(5, "polls_no_service", "polls", 0, 600, "answered: no suitable cell found", _AT),
            _number(6, "polls_denied", "polls", 0, 600, "answered: registration denied", _AT),
            _number(7, "polls_unknown", "polls", 0, 600, "answered, but the reply does not tell the state", _AT),
            _number(8, "polls_failed", "polls", 0, 600, "not answered: the modem was silent or gone", _OURS),
            _text(9, "state", "commonest answered state: registered, limited, no_service, denied or unknown", _AT),
            _text(10, "rat", "radio access technology: gsm, umts, lte, nr_sa or nr_nsa", _AT),
            _text(11, "sim_plmn", "PLMN of the SIM's home network, digits, MNC padded to 2", "3GPP TS 31.102"),
            _text(12, "plmn", "PLMN of the serving network, digits, MNC padded to 2", _AT),
            _number(13, "cell_id", "", 0, 2**36 - 1, "cell identity of the serving cell", _AT),
            _number(14, "tac", "", 0, 2**24 - 1, "tracking area code (16 bit in LTE, 24 bit in NR)", _AT),
            _number(15, "pci", "", 0, 1007, "physical cell identity", _EUTRA),
            _number(16, "earfcn", "", 0, 3_279_165, "downlink channel number (EARFCN or NR-ARFCN)", _EUTRA),
            _number(17, "band", "", 0, 1024, "operating band number", _EUTRA),
            _number(18, "rsrp_dbm", "dBm", -156, -44, "LTE RSRP, median over the polls", _EUTRA, steps=10),
            _number(19, "rsrq_db", "dB", -34, 2.5, "LTE RSRQ, median over the polls", _EUTRA, steps=10),
            _number(20, "rssi_dbm", "dBm", -140, 0, "received wide-band power, median over the polls", _AT, steps=10),
            _number(
                21,
                "sinr_raw",
                "",
                -4000,
                4000,
                "SINR as the modem sent it, last poll; see sinr_formula",
                _VENDOR,
                steps=10,
            ),
            _text(22, "sinr_formula", "how sinr_raw converts to dB", _VENDOR),
            _number(23, "nr_rsrp_dbm", "dBm", -156, -31, "NR SS-RSRP, median over the polls", _NR, steps=10),
            _number(24, "nr_rsrq_db", "dB", -43, 20, "NR SS-RSRQ, median over the polls", _NR, steps=10),
            _number(
                25, "nr_sinr_raw", "", -4000, 4000, "NR SS-SINR as the modem sent it, last poll", _VENDOR, steps=10
            ),
            _number(26, "rscp_dbm", "dBm", -121, -24, "UMTS RSCP, median over the polls", _AT, steps=10),
            _number(27, "rxlev_dbm", "dBm", -111, -47, "GSM RXLEV, median over the polls", _AT, steps=10),
            _number(28, "value_age_ms", "ms", 0, 3_600_000, "age of the newest signal value at the row's time", _OURS),
            _text(29, "censored", "fields whose value is only a bound, comma separated", _AT),
            _number(30, "simulated", "", 1, 1, _SIMULATED, _OURS),
            _number(31, "polls_skipped", "polls", 0, 600, "not attempted: the modem was busy scanning", _OURS, since=2),
            _text(32, "nr_sinr_formula", "how nr_sinr_raw converts to dB", _VENDOR, since=2),
        ),
    ),
    Kind(
        2,
        "path",
        "Round trips to one target by one method",
        ("target", "modem", "method"),
        (
            _text(1, "target", "name of the target in the probe's configuration", _OURS),
            _text(2, "modem", _BY_MODEM, _OURS),
            _text(3, "method", "icmp: echo request and reply; tcp: time of a TCP connect", "RFC 2681"),
            _outcome(4),
            _train(5, "round-trip times in send order, absent where lost"),
            _number(
                6, "wake_rtt_us", "µs", 0, 60_000_000, "the first round trip, kept apart: it may wake the radio", _OURS
            ),
            _text(7, "timestamp_source", "user: taken by the program; kernel: by the network stack", _OURS),
            _reason(8),
            _text(9, "interface", _BOUND, _OURS, since=2),
            _text(10, "address", "address that the target's name stood for", _OURS, since=2),
            _number(11, "payload_bytes", "B", 0, 1472, "payload of each packet", "RFC 792", since=2),
            _number(12, "interval_ms", "ms", 0, 60_000, "time between two sends", "RFC 3432", since=2),
            _number(13, "reply_ttl", "", 0, 255, "time to live of the newest reply as it arrived", "RFC 791", since=2),
            _number(14, "duplicates", "packets", 0, 10_000, "further replies to an answered request", _OURS, since=2),
            _number(
                15, "late", "packets", 0, 10_000, "replies that came after 3 s: they count as lost", _OURS, since=2
            ),
        ),
    ),
    Kind(
        3,
        "board",
        "The state of the probe's own board",
        (),
        (
            _number(1, "uptime_s", "s", 0, _U32, "seconds since boot", "Linux proc(5)"),
            _number(2, "load1", "", 0, 1000, "run-queue length averaged over 1 minute", "Linux proc(5)", steps=100),
            _number(
                3, "memory_available_mb", "MB", 0, 1e7, "memory available to programs (10^6 bytes)", "Linux proc(5)"
            ),
            _number(4, "disk_free_mb", "MB", 0, 1e9, "free space where the outbox lives (10^6 bytes)", "statvfs(3)"),
            _number(5, "temperature_c", "°C", -60, 150, "hottest thermal zone", "Linux thermal sysfs", steps=10),
            _number(6, "undervoltage", "", 0, 1, "1: supply voltage below the board's alarm", "hwmon in0_lcrit_alarm"),
            _number(7, "mains", "", 0, 1, "1: a mains power supply is online", "Linux power_supply sysfs"),
            _number(8, "battery_pct", "%", 0, 100, "battery charge", "Linux power_supply sysfs"),
            _number(9, "outbox_waiting", "batches", 0, _U32, "sealed batches without a receipt", _OURS),
            _number(10, "outbox_kb", "kB", 0, 1e9, "size of the outbox on disk (10^3 bytes)", _OURS),
        ),
    ),
    Kind(
        4,
        "clock",
        "An anchor: this boottime was that wall time, give or take",
        (),
        (
            _number(1, "unix_ms", "ms", 0, _MAX_MS, "wall time, milliseconds since 1970-01-01 UTC", _OURS),
            _number(2, "error_ms", "ms", 0, 86_400_000, "the wall time is within ± this", _OURS),
            _text(3, "source", "ntp, gnss or collector", _OURS),
        ),
    ),
    Kind(
        5,
        "event",
        "Something that happened once at the probe",
        ("name", "n"),
        (
            _text(1, "name", "what happened", _OURS),
            _number(2, "n", "", 0, _U32, "running number or amount, told by the name", _OURS),
            _text(3, "detail", "more words", _OURS),
        ),
        sink="sql",
    ),
    Kind(
        6,
        "lost",
        "Batches the probe had to give up: declared, so that the gap is known",
        ("stream", "from_seq", "to_seq", "reason"),
        (
            _text(1, "stream", "stream of the lost batches, hexadecimal", _OURS),
            _number(2, "from_seq", "", 1, _U32, "first lost sequence number", _OURS),
            _number(3, "to_seq", "", 1, _U32, "last lost sequence number", _OURS),
            _text(4, "reason", "evicted, torn or set_aside", _OURS),
        ),
        sink="sql",
    ),
    Kind(
        7,
        "dns",
        "One question to one resolver, answered from no cache of ours",
        ("name", "resolver", "modem"),
        (
            _text(1, "name", "the name asked for", _DNS, since=2),
            _text(2, "resolver", "address of the resolver", _OURS, since=2),
            _text(3, "modem", _BY_MODEM, _OURS, since=2),
            _outcome(4, since=2),
            _reason(5, since=2),
            _text(6, "interface", _BOUND, _OURS, since=2),
            _text(7, "rcode", "answer's code: NOERROR, NXDOMAIN, SERVFAIL, …", _DNS, since=2),
            _number(8, "lookup_us", "µs", 0, _MAX_US, "from sending the question to its answer", _OURS, since=2),
            _number(9, "tries", "", 0, 10, "questions sent until one was answered", _OURS, since=2),
            _number(10, "answers", "", 0, 1000, "addresses in the answer", _DNS, since=2),
            _text(11, "address", "first address in the answer", _DNS, since=2),
            _text(12, "transport", "udp, or tcp after a truncated answer", _DNS, since=2),
            _number(
                13,
                "hijacked",
                "",
                0,
                1,
                "1: an address for a name that does not exist, or another than expected; absent: nothing to compare",
                _OURS,
                since=2,
            ),
        ),
        since=2,
    ),
    Kind(
        8,
        "web",
        "One request for one small page, in phases",
        ("target", "modem"),
        (
            _text(1, "target", "name of the target in the probe's configuration", _OURS, since=2),
            _text(2, "modem", _BY_MODEM, _OURS, since=2),
            _outcome(3, since=2),
            _text(4, "reason", "why not measured or failed, or what is wrong with the answer", _OURS, since=2),
            _text(5, "interface", _BOUND, _OURS, since=2),
            _text(6, "phase", "where it failed: dns, connect, tls, first_byte or body", _OURS, since=2),
            _number(7, "status", "", 100, 599, "status of the answer", _HTTP, since=2),
            _number(8, "ok", "", 0, 1, "1: the answer is the expected one; 0: it is another", _OURS, since=2),
            _number(9, "portal", "", 0, 1, "1: a captive portal answered in the target's place", "RFC 8952", since=2),
            _text(10, "location", "host that the answer sends the reader to", _HTTP, since=2),
            _text(11, "address", "address that was connected to", _OURS, since=2),
            _number(12, "dns_us", "µs", 0, _MAX_US, "from the question to the address", _OURS, since=2),
            _number(13, "connect_us", "µs", 0, _MAX_US, "duration of the TCP connect", _OURS, since=2),
            _number(14, "tls_us", "µs", 0, _MAX_US, "duration of the TLS handshake", "RFC 8446", since=2),
            _number(15, "first_byte_us", "µs", 0, _MAX_US, "from the request to the first byte", _OURS, since=2),
            _number(16, "total_us", "µs", 0, 600_000_000, "from the beginning to the last byte", _OURS, since=2),
            _number(17, "body_bytes", "B", 0, 1e9, "bytes of the answer's body that were read", _HTTP, since=2),
        ),
        since=2,
    ),
    Kind(
        9,
        "hops",
        "One router on the way to a target; the row without ttl sums the trace up",
        ("target", "modem", "ttl"),
        (
            _text(1, "target", "name of the target in the probe's configuration", _OURS, since=2),
            _text(2, "modem", _BY_MODEM, _OURS, since=2),
            _number(3, "ttl", "", 1, 64, "time to live that the packets were sent with", "RFC 791", since=2),
            _outcome(4, since=2),
            _reason(5, since=2),
            _text(6, "interface", _BOUND, _OURS, since=2),
            _text(7, "address", "address that answered; in the summary, the target's", "RFC 792", since=2),
            _train(8, "round-trip times in send order, absent where nothing answered", since=2),
            _text(9, "answer", "time_exceeded, echo_reply, port_unreachable, host_unreachable, …", "RFC 792", since=2),
            _number(10, "count", "", 0, 64, "summary: routers that answered", _OURS, since=2),
            _number(11, "reached", "", 0, 1, "summary: 1 when the target itself answered", _OURS, since=2),
            _number(
                12, "pmtu_bytes", "B", 68, 65_535, "summary: largest packet that fits the path", "RFC 1191", since=2
            ),
            _text(13, "trigger", "summary: why it was traced: failed, changed or demand", _OURS, since=2),
        ),
        since=2,
    ),
    Kind(
        10,
        "wifi",
        "One Wi-Fi network in sight; the row without bssid sums the scan up",
        ("interface", "bssid"),
        (
            _text(1, "bssid", "hardware address of the access point", "IEEE 802.11", since=2),
            _outcome(2, since=2),
            _reason(3, since=2),
            _text(4, "interface", "network interface that scanned", _OURS, since=2),
            _number(5, "count", "", 0, 1000, "summary: networks in sight", _OURS, since=2),
            _text(6, "ssid", "its name, printable part; absent when hidden", "IEEE 802.11", since=2),
            _number(7, "frequency_mhz", "MHz", 2000, 7200, "centre frequency of its primary channel", _IW, since=2),
            _number(8, "signal_dbm", "dBm", -120, 20, "received power of its beacon", _IW, steps=100, since=2),
            _text(9, "security", "open, wep, wpa, wpa2 or wpa3", "IEEE 802.11", since=2),
            _number(10, "last_seen_ms", "ms", 0, 3_600_000, "age of its newest beacon", _IW, since=2),
            _number(11, "stations", "", 0, 65_535, "stations that it says are associated", "IEEE 802.11", since=2),
            _number(
                12, "utilisation_pct", "%", 0, 100, "channel use that it reports", "IEEE 802.11", steps=10, since=2
            ),
        ),
        since=2,
    ),
    Kind(
        11,
        "operators",
        "One network that a modem's scan received; the row without plmn sums the scan up",
        ("modem", "plmn", "rat"),
        (
            _text(1, "modem", "name of the modem in the probe's configuration", _OURS, since=2),
            _text(2, "plmn", "PLMN of the network, digits, MNC padded to 2", _AT, since=2),
            _text(3, "rat", "radio access technology: gsm, umts, lte, nr_sa or nr_nsa", _AT, since=2),
            _outcome(4, since=2),
            _reason(5, since=2),
            _number(6, "count", "", 0, 1000, "summary: networks received", _OURS, since=2),
            _text(7, "status", "unknown, available, current or forbidden", _AT, since=2),
            _text(8, "operator", "its name as the modem says it", _AT, since=2),
            _number(9, "took_ms", "ms", 0, 3_600_000, "summary: duration of the scan", _OURS, since=2),
            _number(10, "simulated", "", 1, 1, _SIMULATED, _OURS, since=2),
        ),
        since=2,
    ),
    Kind(
        12,
        "neighbours",
        "One cell beside the serving one; the row without earfcn sums them up",
        ("modem", "earfcn", "pci"),
        (
            _text(1, "modem", "name of the modem in the probe's configuration", _OURS, since=2),
            _number(2, "earfcn", "", 0, 3_279_165, "downlink channel number (EARFCN or NR-ARFCN)", _EUTRA, since=2),
            _number(3, "pci", "", 0, 1007, "physical cell identity", _EUTRA, since=2),
            _outcome(4, since=2),
            _reason(5, since=2),
            _number(6, "count", "", 0, 1000, "summary: cells in sight", _OURS, since=2),
            _text(7, "rat", "radio access technology: gsm, umts, lte, nr_sa or nr_nsa", _AT, since=2),
            _text(8, "relation", "intra: on the serving cell's channel; inter: on another", _VENDOR, since=2),
            _number(9, "rsrp_dbm", "dBm", -156, -44, "RSRP", _EUTRA, steps=10, since=2),
            _number(10, "rsrq_db", "dB", -34, 2.5, "RSRQ", _EUTRA, steps=10, since=2),
            _number(11, "rssi_dbm", "dBm", -140, 0, "received wide-band power", _AT, steps=10, since=2),
            _number(12, "simulated", "", 1, 1, _SIMULATED, _OURS, since=2),
        ),
        since=2,
    ),
)

BY_KIND: Final[Mapping[str, Kind]] = MappingProxyType({kind.name: kind for kind in KINDS})
BY_KIND_ID: Final[Mapping[int, Kind]] = MappingProxyType({kind.id: kind for kind in KINDS})
_BY_NAME: Final = {kind.name: {field.name: field for field in kind.fields} for kind in KINDS}
_BY_ID: Final = {kind.name: {field.id: field for field in kind.fields} for kind in KINDS}
