"""The benchmark of round trips joins what was measured to the link's log, packet by packet."""

from __future__ import annotations

from typing import Any

from tools.bench_rtt import Measured, as_printed_by_fping, errors_ms, figures, truths_ms

MS = 1_000_000


def entry(
    direction: str, kind: int, seq: int, t_in_ms: float, t_out_ms: float | None, ident: int = 7
) -> dict[str, Any]:
    fate = {"fate": "lost"} if t_out_ms is None else {"fate": "sent", "t_out_ns": round(t_out_ms * MS)}
    return {
        "direction": direction,
        "icmp_type": kind,
        "icmp_id": ident,
        "icmp_seq": seq,
        "t_in_ns": round(t_in_ms * MS),
    } | fate


LOG = [
    entry("a-b", 8, 0, 0, 20), entry("b-a", 0, 0, 20.1, 40.1),
    entry("a-b", 8, 1, 20, None),
    entry("a-b", 8, 2, 40, 60), entry("b-a", 0, 2, 60.1, None),
    entry("a-b", 8, 3, 60, 80), entry("b-a", 0, 3, 80.1, 100.2),
    entry("a-b", 8, 0, 30, 50, ident=8), entry("b-a", 0, 0, 50, 70, ident=8),
]  # fmt: skip


def test_the_truth_is_from_reading_the_request_to_writing_its_reply() -> None:
    assert truths_ms(LOG) == {(7, 0): 40.1, (7, 3): 40.2, (8, 0): 40.0}


def test_an_error_is_measured_less_true_and_a_lost_packet_has_none() -> None:
    measured = Measured({(7, 0): 40.2, (7, 1): None, (7, 2): None, (7, 3): 40.0})
    errors = errors_ms(measured, truths_ms(LOG))
    assert [round(error, 6) for error in errors] == [0.1, -0.2]
    told = figures(errors)
    assert (told["packets"], round(told["p50_abs_ms"], 6), round(told["p99_abs_ms"], 6)) == (2, 0.1, 0.2)


def test_fping_prints_three_digits() -> None:
    assert [as_printed_by_fping(rtt) for rtt in (0.12345, 1.234, 40.123, 600.4)] == [0.123, 1.23, 40.1, 600]
