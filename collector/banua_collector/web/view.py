"""A status in words: which values lead, how each is written. What is absent is not shown; nothing stands in for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from banua_collector.status import ProbeStatus, Reading, State, Value
from banua_collector.web.words import Language
from banua_wire.fields import BY_KIND

#: what the face of a card shows of a kind, after its outcome and reason; everything else folds away
HEADLINES: Final[dict[str, tuple[str, ...]]] = {
    "radio": ("state", "rat", "plmn", "rsrp_dbm", "nr_rsrp_dbm", "rscp_dbm", "rxlev_dbm", "rsrq_db"),
    "path": ("loss", "rtt_p50_ms", "rtt_p95_ms", "p50_lost", "p95_lost"),
    "board": ("mains", "battery_pct", "undervoltage", "temperature_c", "disk_free_mb"),
    "dns": ("rcode", "hijacked", "lookup_us"),
    "web": ("phase", "portal", "ok", "status", "total_us"),
    "hops": ("reached", "count", "pmtu_bytes"),
    "wifi": ("count",),
    "operators": ("count",),
    "neighbours": ("count",),
}
#: the texts that are words of the dictionary, and are translated; every other text is shown as it came
WORDS: Final[dict[str, tuple[str, ...]]] = {
    "state": ("registered", "limited", "no_service", "denied", "unknown"),
    "rat": ("gsm", "umts", "lte", "nr_sa", "nr_nsa"),
    "outcome": ("measured", "failed", "not_measured"),
    "source": ("ntp", "gnss", "collector"),
    "timestamp_source": ("user", "kernel"),
    "status": ("unknown", "available", "current", "forbidden"),
    "phase": ("dns", "connect", "tls", "first_byte", "body"),
    "relation": ("intra", "inter"),
    "trigger": ("failed", "changed", "demand"),
}
_LOST: Final = frozenset({"p50_lost", "p80_lost", "p95_lost"})
_SHARES: Final = frozenset({"loss", "loss_low", "loss_high"})
_ORDER: Final[tuple[State, ...]] = ("late", "online", "never")
_MINUTE_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class Line:
    """One value as a person reads it; `name` is the dictionary's."""

    name: str
    label: str
    text: str


def arranged(probes: Sequence[ProbeStatus]) -> list[ProbeStatus]:
    """Return the probes in the order of the page: who has fallen silent first, who never spoke last."""
    return sorted(probes, key=lambda probe: _ORDER.index(probe.state))


def headline(kind: str) -> tuple[str, ...]:
    """Return the fields on the card's face, in order: of a kind that has an outcome, that and its reason first."""
    return ("outcome", "reason", *HEADLINES.get(kind, ()))


def leads(reading: Reading) -> bool:
    """Say whether anything of the reading stands on the card's face; of a scan or trace, what sums it up does."""
    return not reading.entry and any(value.name in headline(reading.kind) for value in reading.values)


def leading(reading: Reading, language: Language, now_ms: int) -> list[Line]:
    """Return the values on the card's face, in the order of the headline."""
    shown = {line.name: line for line in lines(reading, language, now_ms)}
    return [shown[name] for name in headline(reading.kind) if name in shown]


def lines(reading: Reading, language: Language, now_ms: int) -> list[Line]:
    """Return every value of a reading, in the dictionary's order."""
    return [
        Line(value.name, language.word("field", value.name), _text(reading.kind, value, language, now_ms))
        for value in reading.values
    ]


def uncertainty(reading: Reading, language: Language) -> str:
    """Return how far off a reading's time may be, empty where a clock of hours and minutes does not show it."""
    return "" if reading.at is None or reading.at.error_ms < _MINUTE_MS else f"± {language.span(reading.at.error_ms)}"


def title(reading: Reading, language: Language) -> str:
    """Return what the reading is about: its kind and key."""
    return " · ".join([language.word("kind", reading.kind), *reading.key])


def _text(kind: str, value: Value, language: Language, now_ms: int) -> str:
    if isinstance(value.value, str):
        return language.word("value", value.value) if value.name in WORDS else value.value
    if value.name in _LOST:
        return language.word("value", "lost")
    if value.name in _SHARES:
        return language.percent(value.value)
    if value.name == "unix_ms":
        return language.moment(int(value.value), now_ms)
    field = BY_KIND[kind].field(value.name)
    if field is not None and not field.unit and field.steps == 1:  # a switch, or a number that names something
        return language.word("value", "yes" if value.value else "no") if field.hi == 1 else str(value.value)
    if value.unit == "µs":
        return f"{language.number(value.value / 1000)} ms"
    number = language.number(value.value)
    return f"{number} {language.word('unit', value.unit)}" if value.unit else number


def count_states(states: Sequence[State]) -> dict[State, int]:
    """Return how many probes are in each state, those without any left out."""
    return {state: states.count(state) for state in _ORDER if state in states}
