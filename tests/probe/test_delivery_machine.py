"""In whatever order things happen: in silence no batch goes out unasked, and once somebody listens all of them do."""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from banua_probe.delivery import ANSWERS_HEEDED, MAX_BACKOFF_MS, MAX_TRIES, PATIENCE_MS, WINDOW, Delivery
from banua_probe.outbox import Ref
from banua_wire.receipt import Receipt

STREAM = b"streamid"
STEP_MS = 500
WAITS_MS = [STEP_MS, 5_000, PATIENCE_MS // 2, PATIENCE_MS, 5 * PATIENCE_MS, MAX_BACKOFF_MS * 5 // 4]
POISON = 3
"""The batch that no collector can take."""


class Conversation(RuleBasedStateMachine):
    """A probe's main loop around `Delivery`; the model counts what was asked, answered and sent since a receipt."""

    @initialize(seed=st.integers(0, 99), waiting=st.integers(0, 40))
    def start(self, seed: int, waiting: int) -> None:
        self.delivery = Delivery(random.Random(seed), 0)
        self.now = 1_000_000
        self.ask = self.answers = self.sealed = 0
        self.waiting: list[Ref] = []
        self.set_aside: list[Ref] = []
        self.is_silent, self.credit = False, 0  # silent: the model's own word for it
        self.unheard_since = 0  # since when something is unanswered
        self.seal(waiting)

    # --- what happens ---------------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 3))
    def seal(self, count: int) -> None:
        for _ in range(count):
            self.sealed += 1
            self.waiting.append(Ref(self.sealed, STREAM, self.sealed, self.sealed.to_bytes(8)))

    @precondition(lambda self: not self.delivery.is_connected)
    @rule()
    def connect(self) -> None:
        self.ask, self.answers, self.credit, self.unheard_since = self.ask + 1, 0, 0, self.now
        self.delivery.connected(self.ask, self.now)
        self.step()

    @precondition(lambda self: self.delivery.is_connected)
    @rule()
    def disconnect(self) -> None:
        self._count_tries(self.delivery.disconnected())
        self.unheard_since = 0

    @rule(wait_ms=st.sampled_from(WAITS_MS))
    def nobody_answers(self, wait_ms: int) -> None:
        for _ in range(wait_ms // STEP_MS):
            self.now += STEP_MS
            self.step()

    @precondition(lambda self: self.delivery.is_connected)
    @rule()
    def answer_the_ask(self) -> None:
        self._hear(Receipt(STREAM, b"journal1", self.ask, [], [], 0, [], 1), [])
        self.step()

    @precondition(lambda self: self.delivery.under_way)
    @rule(data=st.data())
    def receipt_one(self, data: st.DataObject) -> None:
        under_way = [ref for ref in self.waiting if ref.id in self.delivery.busy(self.now) and ref.id != POISON]
        if under_way:
            self._settle(data.draw(st.sampled_from(under_way)))
            self.step()

    @precondition(lambda self: self.delivery.under_way)
    @rule()
    def no_subscribers(self) -> None:
        self.delivery.unsent(min(self.delivery.busy(self.now)), self.now)
        self.is_silent = True
        self.step()

    @precondition(lambda self: self.delivery.is_connected)
    @rule()
    def a_collector_comes_back(self) -> None:
        """It answers and receipts all but the poison: everything arrives, and the poison is set aside."""
        deadline = self.now + 12 * MAX_BACKOFF_MS
        while any(ref.id != POISON for ref in self.waiting):
            assert self.now < deadline, "it must be noticed, and nothing kept back"
            self.now += STEP_MS
            self.step()
            if not self.answers:
                self._hear(Receipt(STREAM, b"journal1", self.ask, [], [], 0, [], 1), [])
            for ref in self.waiting.copy():
                if ref.id in self.delivery.busy(self.now) and ref.id != POISON:
                    self._settle(ref)

    # --- the main loop ----------------------------------------------------------------------------------------------

    def step(self) -> None:
        tried = self.delivery.tick(self.now)
        self._count_tries(tried)
        if tried and self.answers and not self.delivery.under_way:
            self.unheard_since = 0  # one batch that is overtaken is no silence
        self.is_silent |= 0 < self.unheard_since <= self.now - PATIENCE_MS
        plan = self.delivery.plan(self.now)
        if not self.delivery.is_connected:
            assert not plan.batches
            return
        if plan.ask:
            self.ask, self.answers = self.ask + 1, 0
            self.unheard_since = self.unheard_since or self.now
            self.delivery.asked(self.ask, self.now)
        free = [ref for ref in self.waiting if ref.id not in self.delivery.busy(self.now)]
        live = free[len(free) - min(plan.live, len(free)) :]
        oldest = [ref for ref in free if ref not in live][: plan.batches - len(live)]
        for ref in [*live, *oldest]:
            self._send(ref)

    def _send(self, ref: Ref) -> None:
        assert self.delivery.under_way < WINDOW
        if self.is_silent:
            assert self.credit, "after silence one batch for an answer, and none for time that passes"
            self.credit = 0
        self.delivery.sent(ref, self.now)
        self.unheard_since = self.unheard_since or self.now

    def _settle(self, ref: Ref) -> None:
        self.waiting.remove(ref)
        self._hear(Receipt(STREAM, b"journal1", 0, [(ref.seq, ref.hash8)], [], 0, [], 1), [ref])

    def _hear(self, receipt: Receipt, refs: list[Ref]) -> None:
        """Let the delivery hear a receipt, and say independently what it is worth."""
        under_way = self.delivery.under_way
        self.delivery.received(receipt, refs, STREAM, self.sealed + 1, self.now)
        if refs:
            self.is_silent, self.credit, self.answers = False, 0, min(self.answers, 1)
        else:
            self.answers += 1
            self.is_silent |= self.answers > 1 and under_way > 0
            if self.is_silent and self.answers <= ANSWERS_HEEDED:
                self.credit = 1
        if refs or not under_way:
            self.unheard_since = self.now if self.delivery.under_way or not self.answers else 0

    def _count_tries(self, tried: list[Ref]) -> None:
        for ref in tried:
            assert ref.id == POISON or ref in self.waiting
            at = self.waiting.index(ref)
            self.waiting[at] = Ref(ref.id, ref.stream, ref.seq, ref.hash8, ref.tries + 1)
            if ref.tries + 1 >= MAX_TRIES:
                self.set_aside.append(self.waiting.pop(at))


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
