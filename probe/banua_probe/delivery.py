"""When to send which batch, and what an answer settles: the conversation with the collector, without any I/O.

On each connection the probe asks (its birth) and sends batches once the ask is answered, up to a window. When nothing
is answered for a while it falls quiet: it only asks, backing off; an ask that is answered lets one batch go on trial,
and its receipt opens the window again. Times are CLOCK_BOOTTIME in ms.
"""

import random
from dataclasses import dataclass, field
from typing import Final

from banua_probe.clock import Anchor
from banua_probe.outbox import Ref
from banua_wire.receipt import Receipt

WINDOW: Final = 16
"""Most batches under way at once."""
PATIENCE_MS: Final = 60_000
"""No receipt for this long while something is under way: the collector is not there."""
MAX_BACKOFF_MS: Final = 1_800_000
ANSWERS_HEEDED: Final = 8
"""Answers to one ask, with no batch receipted between, that let a batch go on trial: one a start of a collector."""
ASK_EVERY_MS: Final = 86_400_000
MAX_TRIES: Final = 5
"""A batch overtaken this often, each time on a connection whose ask was answered, is set aside."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What may go out now: an ask, and this many batches, the newest `live` and for the rest the oldest."""

    ask: bool = False
    batches: int = 0
    live: int = 0


@dataclass(slots=True)
class Verdict:
    """What a receipt means: its entries that concern us, and what it tells of clock and journal."""

    settled: list[Ref] = field(default_factory=list)
    answers_ask: bool = False
    shows_fork: bool = False
    anchor: Anchor | None = None


@dataclass(slots=True)
class _Flight:
    ref: Ref
    sent_ms: int
    after_answer: bool
    overtaken: bool = False


class Delivery:
    """One probe's conversation; `connected`, `sent`, `received` and `tick` are its inputs, `plan` its output."""

    def __init__(self, rng: random.Random, newest_before_start: int, patience_ms: int = PATIENCE_MS) -> None:
        """Start unconnected; batches with an id up to `newest_before_start` may have been sent by an earlier run."""
        self._rng, self._sent_before, self._patience_ms = rng, newest_before_start, patience_ms
        self.is_connected = False
        self._ask, self._asked_ms, self._answered = 0, 0, False
        self._ask_again, self._answers = False, 0
        self._flights: dict[int, _Flight] = {}
        self._first_sent: dict[int, int] = {}
        self._earlier: set[int] = set()
        self._rest_until: dict[int, int] = {}
        self._unheard_since: int | None = None
        self._quiet_until: int | None = None
        self._may_try, self._trials = False, 0
        self._backoff_ms = patience_ms
        self._known = 0

    # --- inputs -------------------------------------------------------------------------------------------------------

    def connected(self, ask: int, now_ms: int) -> None:
        """Take note of a new connection whose birth carries `ask`, sent now; it does not end that we are quiet."""
        self.is_connected, self._answered, self._may_try = True, False, False
        if self._quiet_until is not None:
            self._back_off(now_ms)
        self._earlier.update(self._first_sent)
        self._first_sent.clear()
        self._flights.clear()
        self.asked(ask, now_ms)

    def asked(self, ask: int, now_ms: int) -> None:
        """Take note of an ask sent now."""
        self._ask, self._asked_ms, self._ask_again, self._answers = ask, now_ms, False, 0
        self._unheard_since = now_ms if self._unheard_since is None else self._unheard_since

    def disconnected(self) -> list[Ref]:
        """Take note that the connection is gone; return the batches for which that was a counting try."""
        self.is_connected, self._unheard_since = False, None
        tried = [flight.ref for flight in self._flights.values() if flight.overtaken]
        self._flights.clear()
        return tried

    def sent(self, ref: Ref, now_ms: int) -> None:
        """Take note of a batch sent now."""
        self._flights[ref.id] = _Flight(ref, now_ms, self._answered)
        self._first_sent.setdefault(ref.id, now_ms)
        self._unheard_since = now_ms if self._unheard_since is None else self._unheard_since
        if self._quiet_until is not None:
            self._may_try, self._trials = False, self._trials + 1
            self._quiet_until = max(self._quiet_until, now_ms + self._patience_ms)

    def unsent(self, ref_id: int, now_ms: int) -> None:
        """Take note that the broker would not pass a batch on (PUBACK with an error or 'no matching subscribers').

        The collector is not there: we fall quiet, or a backlog would be sent in vain.
        """
        self._flights.pop(ref_id, None)
        if self._quiet_until is None:
            self._back_off(now_ms)

    def received(self, receipt: Receipt, refs: list[Ref], stream: bytes, next_seq: int, now_ms: int) -> Verdict:
        """Take a receipt in; `refs` are our batches that its entries name, `stream` and `next_seq` what we seal."""
        verdict = Verdict(settled=refs)
        echoes = receipt.ask == self._ask and self.is_connected
        if echoes:
            verdict.answers_ask = receipt.stream == stream
            verdict.anchor = _anchor(self._asked_ms, now_ms, receipt.server_ms) if not self._answered else None
            self._answered, self._answers = True, self._answers + 1
            if self._answers > 1 and self._flights:  # a collector has come anew and read the retained birth
                self._fall_quiet(now_ms)
            self._may_try |= self._quiet_until is not None and self._answers <= ANSWERS_HEEDED
        for ref in refs:
            first = self._first_sent.get(ref.id)
            if first is not None and ref.id > self._sent_before and ref.id not in self._earlier:
                verdict.anchor = _better(verdict.anchor, _anchor(first, now_ms, receipt.server_ms))
            flight = self._flights.pop(ref.id, None)
            if flight is not None:
                self._overtake(flight.sent_ms)
            self._earlier.discard(ref.id)
            self._first_sent.pop(ref.id, None)
            self._rest_until.pop(ref.id, None)
        if receipt.stream == stream:
            verdict.shows_fork = receipt.highest >= next_seq
            self._ask_again |= receipt.stored_to < self._known and not verdict.answers_ask
            self._known = receipt.stored_to if verdict.answers_ask else max(self._known, receipt.stored_to)
        if refs:  # an ask that is answered while our batches are not ends nothing
            self._quiet_until, self._backoff_ms = None, self._patience_ms
            self._may_try, self._trials, self._answers = False, 0, min(self._answers, 1)
        if refs or (echoes and not self._flights):
            self._unheard_since = now_ms if self._flights or not self._answered else None
        return verdict

    def _overtake(self, sent_ms: int) -> None:
        for flight in self._flights.values():
            if flight.sent_ms < sent_ms and flight.after_answer:
                flight.overtaken = True

    def forked(self) -> None:
        """Take note that we seal a new stream, of which nothing is known yet."""
        self._known = 0

    def tick(self, now_ms: int) -> list[Ref]:
        """Let time pass; return the batches that were overtaken and stayed unanswered: a counting try each."""
        if not self.is_connected:
            return []
        tried = [
            flight.ref
            for flight in self._flights.values()
            if flight.overtaken and now_ms - flight.sent_ms >= self._patience_ms
        ]
        for ref in tried:
            del self._flights[ref.id]
            self._rest_until[ref.id] = now_ms + self._patience_ms * 2 ** min(ref.tries, MAX_TRIES)
        if tried and not self._flights and self._answered:
            self._unheard_since = None
        unheard = self._unheard_since is not None and now_ms - self._unheard_since >= self._patience_ms
        if unheard and self._quiet_until is None:
            self._flights.clear()
            self._quiet_until = now_ms
        return tried

    # --- output -------------------------------------------------------------------------------------------------------

    def plan(self, now_ms: int) -> Plan:
        """Return what may go out now."""
        if not self.is_connected:
            return Plan()
        if self._quiet_until is not None and not self._may_try:
            if now_ms < self._quiet_until:
                return Plan()
            self._fall_quiet(now_ms)
            return Plan(ask=True)
        if not self._answered:
            return Plan()
        stale = now_ms - self._asked_ms >= (self._patience_ms if self._ask_again else ASK_EVERY_MS)
        if self._may_try:  # the oldest, and in every other trial the newest: the oldest may be what nobody can take
            return Plan(ask=stale, batches=1, live=self._trials % 2)
        room = WINDOW - len(self._flights)
        return Plan(ask=stale, batches=room, live=room // 2)

    def _fall_quiet(self, now_ms: int) -> None:
        """Give up what is under way, and put off the next ask."""
        self._flights.clear()
        self._back_off(now_ms)

    def _back_off(self, now_ms: int) -> None:
        self._quiet_until = now_ms + round(self._backoff_ms * self._rng.uniform(0.75, 1.25))
        self._backoff_ms = min(self._backoff_ms * 2, MAX_BACKOFF_MS)

    def busy(self, now_ms: int) -> set[int]:
        """Return the ids of batches that are not to be sent now: under way, or resting after a try."""
        self._rest_until = {ref_id: until for ref_id, until in self._rest_until.items() if until > now_ms}
        return self._flights.keys() | self._rest_until.keys()

    @property
    def under_way(self) -> int:
        """How many batches are sent and unanswered."""
        return len(self._flights)


def _anchor(sent_ms: int, now_ms: int, server_ms: int) -> Anchor | None:
    """Return the anchor an answer gives: the server's time was taken between sending and now, at most a day apart."""
    middle = (sent_ms + now_ms) // 2
    if now_ms - sent_ms > ASK_EVERY_MS:
        return None
    return Anchor(middle, server_ms, (now_ms - sent_ms + 1) // 2 + 1, "collector")


def _better(one: Anchor | None, other: Anchor | None) -> Anchor | None:
    if one is None or other is None:
        return one or other
    return other if other.error_ms < one.error_ms else one
