"""A status in words: which values lead, how each is written. What is absent is not shown; nothing stands in for it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from banua_collector.status import Reading, Value
from banua_collector.web.words import Language
from banua_wire.fields import BY_KIND, Type

#: what a card shows of a kind; the rest folds away
HEADLINES: Final[dict[str, tuple[str, ...]]] = {
    "radio": ("state", "rat", "plmn", "rsrp_dbm", "nr_rsrp_dbm", "rscp_dbm", "rxlev_dbm", "rsrq_db"),
    "path": ("outcome", "reason", "loss", "rtt_p50_ms", "rtt_p95_ms", "p50_lost", "p95_lost"),
    "board": ("mains", "battery_pct", "undervoltage", "temperature_c", "disk_free_mb"),
    "clock": ("source", "error_ms"),
}
#: texts that are words of ours and are translated; every other text is shown as it came
WORD_FIELDS: Final = frozenset({"state", "rat", "outcome", "source"})
_LOST: Final = frozenset({"p50_lost", "p80_lost", "p95_lost"})
_MINUTE_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class Line:
    """One value as a person reads it; `name` is the dictionary's."""

    name: str
    label: str
    text: str


def lines(reading: Reading, language: Language, now_ms: int) -> tuple[list[Line], list[Line]]:
    """Return the leading values of a reading, in the order of the headline, and the rest."""
    shown = {value.name: Line(value.name, language.word("field", value.name), text)
             for value, text in _texts(reading, language, now_ms)}
    leading = [name for name in HEADLINES.get(reading.kind, ()) if name in shown]
    return [shown[name] for name in leading], [line for name, line in shown.items() if name not in leading]


def uncertainty(reading: Reading, language: Language) -> str:
    """Return how far off a reading's time may be, empty where a clock of hours and minutes does not show it."""
    return "" if reading.at is None or reading.at.error_ms < _MINUTE_MS else f"± {language.span(reading.at.error_ms)}"


def title(reading: Reading, language: Language) -> str:
    """Return what the reading is about: its kind and key."""
    return " · ".join([language.word("kind", reading.kind), *reading.key])


def _texts(reading: Reading, language: Language, now_ms: int) -> Iterator[tuple[Value, str]]:
    for value in reading.values:
        yield value, _text(reading.kind, value, language, now_ms)


def _text(kind: str, value: Value, language: Language, now_ms: int) -> str:
    if isinstance(value.value, str):
        return language.word("value", value.value) if value.name in WORD_FIELDS else value.value
    if value.name in _LOST:
        return language.word("value", "lost")
    if value.name == "loss":
        return language.percent(value.value)
    if value.name == "unix_ms":
        return language.moment(int(value.value), now_ms)
    if _is_switch(kind, value.name):
        return language.word("value", "yes" if value.value else "no")
    return f"{language.number(value.value)} {value.unit}".rstrip()


def _is_switch(kind: str, name: str) -> bool:
    field = BY_KIND[kind].field(name)
    return field is not None and field.type is Type.NUMBER and (field.lo, field.hi, field.unit) == (0, 1, "")


def count_states(states: Sequence[str]) -> dict[str, int]:
    """Return how many probes are in each state, those without any left out."""
    return {state: states.count(state) for state in ("online", "late", "never") if state in states}
