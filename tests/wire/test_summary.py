"""Figures of a train of round trips: the vectors published in our measurement method."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banua_wire.summary import ipdv, percentile, summarise, wilson


def test_a_train_with_two_lost() -> None:
    sent_ms = [40, 42, 41, None, 45, 120, 43, 41, None, 44]
    train_us = [None if rtt is None else rtt * 1000 for rtt in sent_ms]
    figures = summarise(train_us)
    assert round(figures.pop("loss_low"), 4) == 0.0567
    assert round(figures.pop("loss_high"), 4) == 0.5098
    assert round(figures.pop("rtt_sd_ms"), 3) == 27.527  # of 40, 42, 41, 45, 120, 43, 41, 44: √(5304 / 7)
    assert figures == {
        "sent": 10, "received": 8, "loss": 0.2, "rtt_min_ms": 40, "rtt_mean_ms": 52,
        "rtt_p50_ms": 43, "rtt_p80_ms": 120,
        "p95_lost": 1, "pdv_p95_ms": 80, "ipdv_p95_ms": 77,
    }  # fmt: skip
    assert ipdv(train_us) == [2000, -1000, 75000, -77000, -2000], "never across a packet that was lost"


def test_a_train_wholly_lost_has_no_time_at_all() -> None:
    figures = summarise([None] * 20)
    assert round(figures.pop("loss_low"), 4) == 0.8389
    assert figures.pop("loss_high") == 1.0
    assert figures == {
        "sent": 20, "received": 0, "loss": 1.0, "p50_lost": 1, "p80_lost": 1, "p95_lost": 1,
    }  # fmt: skip


def test_nothing_sent_is_not_a_loss() -> None:
    assert summarise([]) == {"sent": 0}


@pytest.mark.parametrize(("hits", "trials", "low"), [(72, 72, 0.9493), (168, 168, 0.9776), (0, 1, 0.0)])
def test_wilsons_lower_bound(hits: int, trials: int, low: float) -> None:
    """All of n: n / (n + 1.96²)."""
    assert round(wilson(hits, trials)[0], 4) == low


def test_none_lost_of_twenty_still_allows_sixteen_percent() -> None:
    assert round(wilson(0, 20)[1], 2) == 0.16


@given(st.integers(1, 100_000), st.data())
def test_wilsons_interval_holds_the_share(trials: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, trials))
    low, high = wilson(hits, trials)
    assert 0 <= low <= hits / trials + 1e-12
    assert hits / trials - 1e-12 <= high <= 1
    assert low < high


def test_one_that_came_back_has_neither_deviation_nor_variation() -> None:
    assert {"rtt_sd_ms", "ipdv_p95_ms"} & set(summarise([None, 5000, None])) == set()


def test_one_lost_of_twenty_leaves_the_p95() -> None:
    """Nearest rank of 95 % of 20 is the 19th: the last one that came back."""
    figures = summarise([1000.0 * n for n in range(1, 20)] + [None])
    assert (figures["rtt_p95_ms"], "p95_lost" in figures) == (19, False)


@pytest.mark.parametrize(("percent", "expected"), [(0, 15), (5, 15), (30, 20), (40, 20), (50, 35), (100, 50)])
def test_nearest_rank(percent: int, expected: int) -> None:
    """The textbook's list 15, 20, 35, 40, 50."""
    assert percentile([50, 15, 40, 20, 35], percent) == expected


@given(st.lists(st.none() | st.integers(0, 60_000_000), min_size=1, max_size=60))
def test_a_percentile_is_one_of_the_values_and_covers_its_share(rtts: list[int | None]) -> None:
    figures = summarise(rtts)
    for percent in (50, 80, 95):
        x = figures.get(f"rtt_p{percent}_ms")
        assert (x is None) == (figures.get(f"p{percent}_lost") == 1)
        if x is None:
            assert sum(rtt is not None for rtt in rtts) * 100 < percent * len(rtts)
        else:
            covered = sum(rtt is not None and rtt / 1000 <= x for rtt in rtts)
            below = sum(rtt is not None and rtt / 1000 < x for rtt in rtts)
            assert covered * 100 >= percent * len(rtts) > below * 100
