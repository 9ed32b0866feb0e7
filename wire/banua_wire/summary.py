"""Figures of a train of round trips, all derived from ``rtt_us`` in one place (RFC 2330, 2680, 2681, 3393, 5481).

Percentiles are nearest-rank on the empirical CDF with a lost packet as +∞; min and mean are over received packets and
travel with sent and received. What cannot be known is absent: never zero, never interpolated.
"""

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Final

PERCENTILES: Final = (50, 80, 95)
Z_95: Final = 1.96
"""Quantile of the normal distribution for a two-sided 95 % interval."""
_US_PER_MS: Final = 1000


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of a share of `hits` in `trials`, within 0…1; trials ≥ 1."""
    share, z2 = hits / trials, Z_95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z_95 * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def ipdv(rtt_us: Sequence[float | None]) -> list[float]:
    """Return the differences between consecutive packets that were both received (RFC 3393), in send order, in µs."""
    return [after - before for before, after in itertools.pairwise(rtt_us) if before is not None and after is not None]


def percentile(values: Sequence[float | None], percent: int) -> float | None:
    """Return the smallest x where F(x) ≥ percent/100, None (lost) as +∞; None if that is x or nothing was sent."""
    if not values:
        return None
    ranked = sorted(math.inf if value is None else value for value in values)
    x = ranked[max(math.ceil(percent * len(ranked) / 100) - 1, 0)]
    return None if math.isinf(x) else x


def summarise(rtt_us: Sequence[float | None]) -> dict[str, float]:
    """Return the derived fields of one train: counts, loss as a share 0…1 with its Wilson bounds, times in ms.

    All are two-way. PDV is the p95 of D - D_min over received packets, IPDV the p95 of its absolute value. A percentile
    that falls on a lost packet is absent and ``pNN_lost`` is 1. Nothing sent: only ``sent`` = 0.
    """
    sent = len(rtt_us)
    received = [value for value in rtt_us if value is not None]
    figures: dict[str, float] = {"sent": sent}
    if not sent:
        return figures
    lost = sent - len(received)
    low, high = wilson(lost, sent)
    figures |= {"received": len(received), "loss": lost / sent, "loss_low": low, "loss_high": high}
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
    if len(received) > 1:
        figures["rtt_sd_ms"] = statistics.stdev(received) / _US_PER_MS
    variation = percentile([abs(step) for step in ipdv(rtt_us)], 95)
    if variation is not None:
        figures["ipdv_p95_ms"] = variation / _US_PER_MS
    return figures
