"""Radio records made up under a seed: the same seed, the same records."""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from banua_wire.fields import BY_KIND, Value
from banua_wire.rows import Row

MODEMS: Final = ("m1", "m2")
_LEFT_OUT: Final = {"rscp_dbm", "rxlev_dbm", "sinr_formula", "nr_sinr_formula", "simulated"}
RADIO_FIELDS: Final = tuple(each.name for each in BY_KIND["radio"].fields if each.name not in _LEFT_OUT)
"""The 27 fields of a record from an LTE and NR modem; left out are 2G and 3G levels and what its make decides."""

MINUTE_MS: Final = 60_000
_JITTER_MS: Final = 500
"""A row is made at its last poll, which is up to 5 % of 10 s early or late."""
_SIMS: Final = {"m1": "51010", "m2": "51011"}
_CELL: Final = ("cell_id", "tac", "pci", "earfcn", "band")
_CELLS: Final = {
    "m1": (
        (27_438_851, 24_013, 211, 1850, 3),
        (27_438_852, 24_013, 84, 3500, 8),
        (27_511_041, 24_021, 402, 38_750, 40),
    ),
    "m2": ((6_631_937, 3107, 17, 1850, 3), (6_632_194, 3107, 305, 3500, 8), (6_640_129, 3112, 118, 275, 1)),
}
_LEVELS: Final = {
    "rsrp_dbm": (-118.0, -98.0),
    "rsrq_db": (-16.0, -7.0),
    "sinr_raw": (-5.0, 22.0),
    "nr_rsrp_dbm": (-120.0, -100.0),
    "nr_rsrq_db": (-18.0, -10.0),
    "nr_sinr_raw": (-5.0, 22.0),
}
_STEPS: Final = (-1.0, -0.5, 0.0, 0.0, 0.5, 1.0)
"""How a level wanders from row to row; a median of six polls goes by halves."""
_TEXTS: Final[dict[str, Sequence[str]]] = {
    "modem": MODEMS,
    "state": ("registered", "limited"),
    "rat": ("lte", "nr_nsa"),
    "sim_plmn": tuple(_SIMS.values()),
    "plmn": tuple(_SIMS.values()),
    "censored": ("rsrq_db", "rsrp_dbm"),
}
_P_MOVE, _P_NR, _P_NULL, _P_LATE, _P_SKIPPED = 0.1, 0.5, 0.03, 0.05, 0.05


@dataclass(slots=True)
class Radio:
    """What one modem says, row after row: levels wander and may be absent, cell and technology change now and then."""

    modem: str
    rng: random.Random
    state: str = "registered"
    _levels: dict[str, float] = field(default_factory=dict)
    _cell: int = 0
    _nr: bool = False

    def __post_init__(self) -> None:
        self._levels = {name: float(self.rng.randint(int(low), int(high))) for name, (low, high) in _LEVELS.items()}

    def row(self, boottime_ms: int) -> Row:
        """Return the next row."""
        rng = self.rng
        if rng.random() < _P_MOVE:
            self._cell, self._nr = rng.randrange(len(_CELLS[self.modem])), rng.random() < _P_NR
        levels = {name: self._wander(name) for name in _LEVELS if self._nr or not name.startswith("nr_")}
        levels["rssi_dbm"] = levels["rsrp_dbm"] + 31 + rng.choice(_STEPS)
        values: dict[str, Value] = {"modem": self.modem, "state": self.state, "rat": "nr_nsa" if self._nr else "lte"}
        values |= {"sim_plmn": _SIMS[self.modem], "plmn": _SIMS[self.modem]}
        values |= dict(zip(_CELL, _CELLS[self.modem][self._cell], strict=True))
        values |= {name: level for name, level in levels.items() if rng.random() >= _P_NULL}
        values |= self._polls()
        values["value_age_ms"] = rng.randint(0, 2) + 10_000 * (rng.random() < _P_LATE)
        if levels["rsrq_db"] <= _LEVELS["rsrq_db"][0]:
            values["censored"] = "rsrq_db"
        return Row("radio", boottime_ms, values)

    def _wander(self, name: str) -> float:
        low, high = _LEVELS[name]
        self._levels[name] = min(max(self._levels[name] + self.rng.choice(_STEPS), low), high)
        return self._levels[name]

    def _polls(self) -> dict[str, Value]:
        """Return how six polls ended: most found a network, one may not have been attempted."""
        counts = {f"polls_{end}": 0 for end in ("limited", "no_service", "denied", "unknown", "failed")}
        for _ in range(self.rng.choice((0, 0, 0, 1, 1, 2))):
            counts[self.rng.choice(list(counts))] += 1
        skipped = {"polls_skipped": 1} if self.rng.random() < _P_SKIPPED else {}
        polls = 6 - len(skipped)
        return {"polls": polls, "polls_registered": polls - sum(counts.values()), **counts, **skipped}


def radio_rows(seed: int, *, longest_run: int | None = None) -> Iterator[Row]:
    """Yield records without end, one a minute and modem in turn; no field keeps a value for over `longest_run` rows."""
    rng = random.Random(seed)  # noqa: S311 (a seed, not a secret)
    radios = [Radio(modem, rng) for modem in MODEMS]
    before: dict[str, Value] = {}
    runs = dict.fromkeys(RADIO_FIELDS, 0)
    for turn in itertools.count(len(MODEMS)):
        jitter_ms = rng.randint(-_JITTER_MS, _JITTER_MS)
        row = radios[turn % len(MODEMS)].row(turn * MINUTE_MS // len(MODEMS) + jitter_ms)
        for name in RADIO_FIELDS:
            if row.values.get(name) == before.get(name) and runs[name] == longest_run:
                row.values[name] = _other(name, row.values.get(name), rng)
            runs[name] = runs[name] + 1 if row.values.get(name) == before.get(name) else 1
        before = row.values
        yield row


def _other(name: str, value: Value | None, rng: random.Random) -> Value:
    """Return another value of a field than `value`."""
    if name in _TEXTS:
        return rng.choice([text for text in _TEXTS[name] if text != value])
    if not isinstance(value, int | float):
        return _LEVELS.get(name, (1,))[0]
    return value + 1 if value < 1 else value - 1
