"""Figures of a train of round trips, all derived from ``rtt_us`` in one place (RFC 2330, 2680, 2681, 3393, 5481).

Percentiles are nearest-rank on the empirical CDF with a lost packet as +∞; min and mean are over received packets and
travel with sent and received. What cannot be known is absent: never zero, never interpolated.
"""

import math
from collections.abc import Sequence
from typing import Final

PERCENTILES: Final = (50, 80, 95)
_US_PER_MS: Final = 1000


def percentile(values: Sequence[float | None], percent: int) -> float | None:
    """Return the smallest x where F(x) ≥ percent/100, None (lost) as +∞; None if that is x or nothing was sent."""
    if not values:
        return None
    ranked = sorted(math.inf if value is None else value for value in values)
    x = ranked[max(math.ceil(percent * len(ranked) / 100) - 1, 0)]
    return None if math.isinf(x) else x


def summarise(rtt_us: Sequence[float | None]) -> dict[str, float]:
    """Return the derived fields of one train: counts, loss as a share 0…1, times in ms, PDV p95 over received.

    A percentile that falls on a lost packet is absent and ``pNN_lost`` is 1. Nothing sent: only ``sent`` = 0.
    """
    sent = len(rtt_us)
    received = [value for value in rtt_us if value is not None]
    figures: dict[str, float] = {"sent": sent}
    if not sent:
        return figures
    figures |= {"received": len(received), "loss": (sent - len(received)) / sent}
    for percent in PERCENTILES:
        x = percentile(rtt_us, percent)
        figures |= {f"p{percent}_lost": 1} if x is None else {f"rtt_p{percent}_ms": x / _US_PER_MS}
    if received:
        least = min(received)
        pdv = percentile([value - least for value in received], 95) or 0.0
        figures |= {
            "rtt_min_ms": least / _US_PER_MS,
            "rtt_mean_ms": sum(received) / len(received) / _US_PER_MS,
            "pdv_p95_ms": pdv / _US_PER_MS,
        }
    return figures
