"""The course of a traceroute: what to send next and when to stop; `follow` drives it over a wire."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from banua_probe.sensors.icmp_error import TIME_EXCEEDED, TOO_BIG

_GO_ON: Final = frozenset({TIME_EXCEEDED, TOO_BIG})
"""Answers of a router on the way; any other ends the path."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How far, how often and how long a path is traced."""

    hops: int = 30
    probes: int = 3
    """Packets a hop."""
    in_flight: int = 24
    silent_hops: int = 8
    """So many in a row end the trace."""
    timeout_s: float = 3.5
    """A Linux router takes 3 s to find that its neighbour is gone, and then says so."""
    stagger_s: float = 0.15
    """The next hop waits for an answer of the last one, no longer: packets past the target use up its limits."""
    recover_s: float = 1.0
    """How long a host that limits its ICMP messages needs until it sends another."""
    whole_s: float = 20.0


@dataclass(frozen=True, slots=True)
class Reply:
    """Who answered a packet, and what: a word of the dictionary's `answer`."""

    address: str
    answer: str
    mtu_bytes: int | None = None
    """What fits the next link, where the answer is `TOO_BIG` and says so."""


@dataclass(frozen=True, slots=True)
class Hop:
    """What answered packets sent with one time to live."""

    ttl: int
    address: str | None
    """Of the first answer; None: nothing answered."""
    rtt_us: list[int | None]
    """In send order, None where nothing answered."""
    answer: str
    """"" when nothing answered."""


class Wire(Protocol):
    """How numbered packets leave and their answers come back."""

    def send(self, number: int, ttl: int) -> None:
        """Send one packet; OSError when it did not leave this machine."""

    def receive(self, timeout_s: float) -> list[tuple[int, Reply, int]]:
        """Return what answered within `timeout_s`: number, reply, round trip in µs; often nothing."""

    def forget(self, number: int) -> None:
        """Wait no longer for an answer to `number`."""


class Course:
    """A trace towards `target`, an address in its usual form; packets are numbered in send order. It has no clock."""

    def __init__(self, target: str, limits: Limits) -> None:
        self.target, self._limits = target, limits
        self._next = 0
        self._open: set[int] = set()
        self._replies: dict[int, tuple[Reply, int]] = {}
        self.reason = ""
        """Why it ended before the target: a router's refusal, silence, or what `stop` was told."""
        self._stopped = False
        self._doubted: set[int] = set()

    @property
    def _last_ttl(self) -> int:
        return self.ttl_of(self._next - 1)

    def ttl_of(self, number: int) -> int:
        """Return the time to live that packet `number` goes with."""
        return number // self._limits.probes + 1

    def take(self) -> int | None:
        """Return the number of the packet to send now, None when it is time to wait; it is then in flight."""
        number = self._next
        if self._stopped or len(self._open) >= self._limits.in_flight or self.ttl_of(number) > self._end():
            return None
        self._next += 1
        self._open.add(number)
        return number

    @property
    def eager(self) -> bool:
        """Whether the next packet need not wait: the newest hop has been answered, or lacks some of its packets."""
        return self._next % self._limits.probes != 0 or self._next == 0 or self._hop(self._last_ttl).address is not None

    def doubted(self) -> int | None:
        """Return a packet to send once more, None if there is no doubt; each is returned once.

        A target that limits its ICMP messages answers some packets only, and then stands too far: so the hop before it
        is asked again when it was silent.
        """
        ttl = self._end() - 1
        if not self.reached or ttl < 1 or self._hop(ttl).address is not None or ttl in self._doubted:
            return None
        self._doubted.add(ttl)
        return self._numbers(ttl)[-1]

    def answered(self, number: int, reply: Reply, rtt_us: int) -> None:
        """Note an answer to `number`."""
        self._open.discard(number)
        self._replies[number] = (reply, rtt_us)

    def lost(self, number: int) -> None:
        """Note that nothing answered `number` in time."""
        self._open.discard(number)

    def stop(self, reason: str) -> None:
        """Send nothing more; what is in flight is lost."""
        self._stopped, self.reason = True, reason
        self._open.clear()

    @property
    def done(self) -> bool:
        """Whether nothing is left to send or to wait for: packets past the end of the path are not waited for."""
        end = self._end()
        waiting = any(self.ttl_of(number) <= end for number in self._open)
        return self._stopped or not (waiting or self.ttl_of(self._next) <= end)

    @property
    def reached(self) -> bool:
        """Whether the target itself answered."""
        return any(hop.address == self.target for hop in self.hops())

    def hops(self) -> list[Hop]:
        """Return what is known of each hop so far, up to the end of the path."""
        return [self._hop(ttl) for ttl in range(1, min(self._end(), self._last_ttl) + 1)]

    def why_unreached(self) -> str:
        """Return why the target was not reached, "" if it was."""
        if self.reached:
            return ""
        if self.reason:
            return self.reason
        hops = self.hops()
        if hops and hops[-1].answer and hops[-1].answer not in _GO_ON:
            return f"{hops[-1].answer} by {hops[-1].address}"
        return f"no answer from {self._limits.silent_hops} hops in a row" if self._silent_end(hops) else "too many hops"

    def _silent_end(self, hops: list[Hop]) -> bool:
        return all(hop.address is None for hop in hops[-self._limits.silent_hops :])

    def _hop(self, ttl: int) -> Hop:
        replies = [self._replies.get(number) for number in self._numbers(ttl)]
        first = next((reply for reply in replies if reply is not None), None)
        rtts = [None if reply is None else reply[1] for reply in replies]
        return Hop(ttl, None, rtts, "") if first is None else Hop(ttl, first[0].address, rtts, first[0].answer)

    def _numbers(self, ttl: int) -> range:
        """Return the packets sent with `ttl`."""
        return range((ttl - 1) * self._limits.probes, min(ttl * self._limits.probes, self._next))

    def _end(self) -> int:
        """Return the last time to live worth sending, by what is known now."""
        silent = 0
        for ttl in range(1, self._last_ttl + 1):
            hop = self._hop(ttl)
            if hop.address is not None and (hop.address == self.target or hop.answer not in _GO_ON):
                return ttl
            pending = len(hop.rtt_us) < self._limits.probes or any(n in self._open for n in self._numbers(ttl))
            silent = 0 if hop.address is not None or pending else silent + 1
            if silent == self._limits.silent_hops:
                return ttl
        return self._limits.hops


def follow(course: Course, wire: Wire, limits: Limits, clock_s: Callable[[], float] = time.monotonic) -> None:
    """Run `course` over `wire` until it is done or `limits.whole_s` are over; OSError when not even one packet left."""
    deadline_s = clock_s() + limits.whole_s
    next_hop_s = clock_s()
    expires_s: dict[int, float] = {}
    while not course.done:
        while (course.eager or clock_s() >= next_hop_s) and (number := course.take()) is not None:
            try:
                wire.send(number, course.ttl_of(number))
            except OSError as error:
                if number == 0:
                    raise
                course.stop(f"not sent: {error.strerror}")
                return
            expires_s[number] = clock_s() + limits.timeout_s
            next_hop_s = clock_s() + limits.stagger_s
        now_s = clock_s()
        wait_s = min([deadline_s, *expires_s.values(), *([next_hop_s] if next_hop_s > now_s else [])]) - now_s
        for number, reply, rtt_us in wire.receive(max(0.0, wait_s)):
            if expires_s.pop(number, None) is not None:
                course.answered(number, reply, rtt_us)
        now_s = clock_s()
        for number in [number for number, at_s in expires_s.items() if at_s <= now_s]:
            del expires_s[number]
            wire.forget(number)
            course.lost(number)
        if now_s >= deadline_s:
            course.stop(f"{limits.whole_s:.0f} s are over")
            return
    for number in expires_s:
        wire.forget(number)
    _settle(course, wire, limits)


def _settle(course: Course, wire: Wire, limits: Limits) -> None:
    """Ask again where the course is in doubt, so slowly that a host with a limit can answer."""
    while (number := course.doubted()) is not None:
        wire.receive(limits.recover_s)
        try:
            wire.send(number, course.ttl_of(number))
        except OSError:
            return
        for answered, reply, rtt_us in wire.receive(limits.timeout_s):
            course.answered(answered, reply, rtt_us)
        wire.forget(number)
