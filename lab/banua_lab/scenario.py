"""What an emulated modem says and when: pure, so that it is tested as timed steps.

A scenario is a TOML file: who the modem is, its reply to each command, values that walk at random from a seed, and
steps that change replies or hang the modem after so many seconds. None of it comes from the code that reads replies.
"""

import random
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

SCENARIOS: Final = Path(__file__).parent / "scenarios"

_FINAL: Final = re.compile(r"OK|ERROR|\+CM[ES] ERROR:.*")
# What every modem accepts, unless its scenario says otherwise.
_ACCEPTED: Final = (
    "AT", "ATE0", "ATE1", "ATV1", "ATZ", "AT+CMEE=1", "AT+CFUN=1", "AT+CREG=2", "AT+CGREG=2", "AT+CEREG=2",
    "AT+COPS=3,0", "AT+COPS=3,2",
)  # fmt: skip


class ScenarioError(ValueError):
    """A scenario that cannot be played; the message is one line and names the file."""


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A TOML table in which an unknown key is an error."""


class Identity(_Table, frozen=True):
    """What the modem says it is."""

    manufacturer: str
    model: str
    imei: str
    imsi: str


class Walk(_Table, frozen=True):
    """A whole number that moves by up to `step` within `low`…`high` at each answer to `advance_on`."""

    start: int
    low: int
    high: int
    step: int
    seed: int
    advance_on: str


class Derived(_Table, frozen=True):
    """A number that is always the walk `of` plus `plus`, such as a +CESQ index."""

    of: str
    plus: int


class Step(_Table, frozen=True):
    """From `after_s` seconds on: these replies instead, and the modem hangs or is awake."""

    after_s: float
    replies: dict[str, list[str]] = {}
    hang: bool = False


class Scenario(_Table, frozen=True):
    """One modem at one place. A reply is information lines, ``{name}`` in them a walk's or derived value."""

    about: str
    dialect: str
    identity: Identity
    replies: dict[str, list[str]]
    walk: dict[str, Walk] = {}
    derived: dict[str, Derived] = {}
    step: list[Step] = []


def load(name_or_path: str | Path) -> Scenario:
    """Return the scenario in a file, or the one shipped under that name; raises `ScenarioError`."""
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = SCENARIOS / f"{name_or_path}.toml"
    try:
        scenario = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Scenario)
        _check(scenario)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ScenarioError(f"{path}: {reason}") from error
    return scenario


def _check(scenario: Scenario) -> None:
    for name, walk in scenario.walk.items():
        if not walk.low <= walk.start <= walk.high:
            raise ValueError(f"walk {name} starts outside of {walk.low}…{walk.high}")
    for name, derived in scenario.derived.items():
        if derived.of not in scenario.walk:
            raise ValueError(f"derived value {name} is of {derived.of}, which is no walk")
    times = [step.after_s for step in scenario.step]
    if times != sorted(times):
        raise ValueError("steps are not in the order of after_s")
    known = dict.fromkeys((*scenario.walk, *scenario.derived), 0)
    for replies in (scenario.replies, *(step.replies for step in scenario.step)):
        for command, lines in replies.items():
            _check_reply(command, lines, known)


def _check_reply(command: str, lines: list[str], known: Mapping[str, int]) -> None:
    try:
        for line in lines:
            line.format_map(known)
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(f"reply to {command} uses {error}, which has no value") from error


class Player:
    """Plays one scenario: `reply` gives what the modem answers at a moment."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._walks = {name: walk.start for name, walk in scenario.walk.items()}
        self._random = {name: random.Random(walk.seed) for name, walk in scenario.walk.items()}  # noqa: S311 (a seed)

    def hangs(self, elapsed_s: float) -> bool:
        """Tell whether the modem hangs `elapsed_s` after its start."""
        reached = [step.hang for step in self._scenario.step if step.after_s <= elapsed_s]
        return bool(reached) and reached[-1]

    def reply(self, command: str, elapsed_s: float) -> list[str]:
        """Return all lines of the reply to `command`, the final result code last; unknown commands get ERROR."""
        lines = self._lines(elapsed_s).get(command)
        if lines is None:
            return ["ERROR"]
        self._advance(command)
        said = [line.format_map(self._values()) for line in lines]
        return said if said and _FINAL.fullmatch(said[-1]) else [*said, "OK"]

    def _lines(self, elapsed_s: float) -> dict[str, list[str]]:
        identity = self._scenario.identity
        lines: dict[str, list[str]] = {command: [] for command in _ACCEPTED}
        lines |= {
            "AT+CGMI": [identity.manufacturer],
            "AT+CGMM": [identity.model],
            "AT+CGSN": [identity.imei],
            "AT+CIMI": [identity.imsi],
        }
        lines |= self._scenario.replies
        for step in self._scenario.step:
            if step.after_s <= elapsed_s:
                lines |= step.replies
        return lines

    def _advance(self, command: str) -> None:
        for name, walk in self._scenario.walk.items():
            if walk.advance_on == command:
                moved = self._walks[name] + self._random[name].randint(-walk.step, walk.step)
                self._walks[name] = min(walk.high, max(walk.low, moved))

    def _values(self) -> dict[str, Any]:
        derived = self._scenario.derived
        return self._walks | {name: self._walks[d.of] + d.plus for name, d in derived.items()}
