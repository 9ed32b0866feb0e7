"""How far round trips are from the truth: ours and fping's, over the same emulated link in the same run.

The truth of a packet is the link emulator's log: from reading the request off the one device to writing its reply to
it. What a program measures beyond that is its own error and its machine's. Trains of both take turns.

usage: python -m tools.bench_rtt [--rounds N] [--json]          needs root, and the Debian package fping
Exits 2 when a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any, Final

from banua_wire.summary import percentile
from tests.real.netns import Link, Namespace, Namespaces

RTTS_MS: Final = (40, 600)
TRAIN: Final = 100
INTERVAL_MS: Final = 20
ROUNDS: Final = 20
GOAL_MS: Final = 0.2
OURS: Final = """
import json, socket, sys
from banua_probe.sensors.icmp import run_train
t = run_train(sys.argv[1], socket.AF_INET, count=int(sys.argv[2]), interval_s=int(sys.argv[3]) / 1000)
print(json.dumps([t.ident, t.timestamp_source, t.rtt_us]))
"""


@dataclass(slots=True)
class Measured:
    """What one program said of its packets: (ICMP id, number in send order) to ms, None where it got no reply."""

    rtts_ms: dict[tuple[int, int], float | None] = field(default_factory=dict)
    sources: set[str] = field(default_factory=set)


def our_train(at: Namespace, to: str, into: Measured) -> None:
    """Run one train of ours."""
    done = at.run([sys.executable, "-c", OURS, to, str(TRAIN), str(INTERVAL_MS)])
    ident, source, rtts_us = json.loads(done.stdout)
    into.sources.add(source)
    into.rtts_ms |= {(ident, n): None if rtt is None else rtt / 1000 for n, rtt in enumerate(rtts_us)}


def fpings_train(at: Namespace, to: str, into: Measured) -> None:
    """Run one train of fping's; its ICMP id is its process id."""
    words = ["fping", "-q", "-C", str(TRAIN + 1), "-p", str(INTERVAL_MS), "-b", "16", "-t", "3000", to]
    process = at.popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    _, said = process.communicate(timeout=60)
    rtts = said.rpartition(" : ")[2].split()
    ident = process.pid & 0xFFFF
    into.rtts_ms |= {(ident, n): None if rtt == "-" else float(rtt) for n, rtt in enumerate(rtts)}


def truths_ms(log: list[dict[str, Any]]) -> dict[tuple[int, int], float]:
    """Return the true round trip of each answered packet, by ICMP id and number in send order."""
    asked: dict[int, list[dict[str, Any]]] = {}
    for entry in sorted(log, key=lambda entry: int(entry["t_in_ns"])):
        if (entry["direction"], entry.get("icmp_type")) == ("a-b", 8):
            asked.setdefault(entry["icmp_id"], []).append(entry)
    answered = {
        (entry["icmp_id"], entry["icmp_seq"]): entry["t_out_ns"]
        for entry in log
        if (entry["direction"], entry.get("icmp_type"), entry["fate"]) == ("b-a", 0, "sent")
    }
    return {
        (ident, number): (answered[ident, entry["icmp_seq"]] - entry["t_in_ns"]) / 1e6
        for ident, entries in asked.items()
        for number, entry in enumerate(entries)
        if (ident, entry["icmp_seq"]) in answered
    }


def errors_ms(measured: Measured, truth: dict[tuple[int, int], float]) -> list[float]:
    """Return measured less true, for every packet that was answered; the log has to know each of them."""
    pairs = [(rtt, truth[packet]) for packet, rtt in measured.rtts_ms.items() if rtt is not None]
    return [rtt - true for rtt, true in pairs]


def figures(errors: list[float]) -> dict[str, float]:
    """Return p50 and p99 of the error and of its size, in ms."""
    sizes = [abs(error) for error in errors]
    return {
        "packets": len(errors),
        "p50_ms": percentile(errors, 50) or 0.0,
        "p99_ms": percentile(errors, 99) or 0.0,
        "p50_abs_ms": percentile(sizes, 50) or math.nan,
        "p99_abs_ms": percentile(sizes, 99) or math.nan,
    }


def as_printed_by_fping(rtt_ms: float) -> float:
    """Return a time as fping prints it: with three digits, above 100 ms without decimals."""
    decimals = 3 if rtt_ms < 1 else 2 if rtt_ms < 10 else 1 if rtt_ms < 100 else 0  # noqa: PLR2004 (its own steps)
    return round(rtt_ms, decimals)


def compare(rtt_ms: int, rounds: int) -> dict[str, dict[str, float]]:
    """Run trains of both in turn over a link of `rtt_ms` and return the figures of each."""
    ours, fpings = Measured(), Measured()
    with Namespaces() as net:
        a, b = net.add("probe"), net.add("server")
        with Link(net, a, b, delay_ms=rtt_ms / 2) as link:
            for number in range(rounds):
                print(f"\r{rtt_ms} ms: train {number + 1} of {rounds} of each", end="", file=sys.stderr, flush=True)
                our_train(a, link.address_b, ours)
                fpings_train(a, link.address_b, fpings)
            print(file=sys.stderr)
            link.stop()
            truth = truths_ms(link.log())
    rounded = Measured({key: None if rtt is None else as_printed_by_fping(rtt) for key, rtt in ours.rtts_ms.items()})
    named = {"path": ours, "path, rounded as fping prints": rounded, "fping": fpings}
    print(f"time stamps of path: {', '.join(sorted(ours.sources))}", file=sys.stderr)
    return {name: figures(errors_ms(measured, truth)) for name, measured in named.items()}


def main() -> int:
    """Compare at each round-trip time; 2 when a goal is missed, 1 without root."""
    parser = argparse.ArgumentParser(description="Error of round trips against the link emulator's log, beside fping's")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"trains of {TRAIN} packets (default {ROUNDS})")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("bench-rtt: network namespaces need root", file=sys.stderr)
        return 1
    results = {rtt_ms: compare(rtt_ms, arguments.rounds) for rtt_ms in RTTS_MS}
    if arguments.json:
        print(json.dumps(results))
    missed = []
    for rtt_ms, by_name in results.items():
        for name, told in by_name.items():
            if not arguments.json:
                print(
                    f"{rtt_ms:4} ms  {name:30} {told['packets']:5.0f} packets  error p50 {told['p50_ms']:+.3f} "
                    f"p99 {told['p99_ms']:+.3f}  |error| p50 {told['p50_abs_ms']:.3f} p99 {told['p99_abs_ms']:.3f} ms"
                )
        most_ms = by_name["fping"]["p99_abs_ms"] + GOAL_MS
        if not by_name["path"]["p99_abs_ms"] <= most_ms:
            missed.append(f"{rtt_ms} ms: p99 of path {by_name['path']['p99_abs_ms']:.3f} ms, goal {most_ms:.3f} ms")
    if missed:
        print(f"to run it again: make bench-rtt ARGS='--rounds {arguments.rounds}'", file=sys.stderr)
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    return 2 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
