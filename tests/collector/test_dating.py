"""Wall time from anchors: figures worked out by hand, and which dates a new anchor may touch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banua_collector.dating import Anchor, Dated, date, in_order

_T = 1_760_000_000_000
_HOUR = 3_600_000


@pytest.mark.parametrize(
    ("boottime_ms", "expected"),
    [
        (0, Dated(_T, 10)),  # an exact hit
        (1_000_000, Dated(_T + 1_000_050, 50)),  # the same at the other end: its own error alone
        (500_000, Dated(_T + 500_025, 60)),  # half way: the larger error, 20 ppm of 500 s
        (100_000, Dated(_T + 100_005, 52)),  # 20 ppm of 100 s
        (900_000, Dated(_T + 900_045, 52)),  # 20 ppm of the 100 s to the nearer
        (100_001, Dated(_T + 100_006, 53)),  # errors are rounded up
        (1_500_000, Dated(_T + 1_500_050, 100)),  # behind the last: its error, 100 ppm of 500 s
    ],
)
def test_between_two_anchors_and_behind_them(boottime_ms: int, expected: Dated) -> None:
    # the clock gained 50 ms in 1000 s, which errors of 10 and 50 ms allow
    assert date(boottime_ms, [Anchor(0, 10, _T), Anchor(1_000_000, 50, _T + 1_000_050)]) == expected


def test_before_the_first_anchor_the_error_grows_by_100_ppm() -> None:
    assert date(0, [Anchor(2_000_000, 30, _T)]) == Dated(_T - 2_000_000, 230)


def test_the_share_of_20_ppm_ends_at_12_hours() -> None:
    far = [Anchor(0, 10, _T), Anchor(100 * _HOUR, 10, _T + 100 * _HOUR)]
    assert date(12 * _HOUR, far) == Dated(_T + 12 * _HOUR, 10 + 864)
    assert date(50 * _HOUR, far) == Dated(_T + 50 * _HOUR, 10 + 864)


def test_what_two_anchors_disagree_beyond_their_errors_and_drift_is_error_too() -> None:
    # 1000 s at 100 ppm and errors of 10 and 50 allow 160 ms; the anchors are 5000 ms apart: 4840 too many
    anchors = [Anchor(0, 10, _T), Anchor(1_000_000, 50, _T + 1_005_000)]
    assert date(500_000, anchors) == Dated(_T + 502_500, 50 + 10 + 4_840)
    assert date(0, anchors) == Dated(_T, 10)
    allowed = [Anchor(0, 10, _T), Anchor(1_000_000, 50, _T + 1_000_160)]
    assert date(500_000, allowed) == Dated(_T + 500_080, 60)


def test_of_anchors_at_one_boottime_the_most_exact_counts() -> None:
    anchors = in_order([Anchor(5, 900, _T + 7), Anchor(5, 20, _T), Anchor(1, 20, _T - 4), Anchor(5, 21, _T + 9)])
    assert anchors == [Anchor(1, 20, _T - 4), Anchor(5, 20, _T)]
    assert date(5, anchors) == Dated(_T, 20)


def test_without_anchors_there_is_no_date() -> None:
    assert date(5, []) is None


def test_no_date_is_before_1970() -> None:
    assert date(0, [Anchor(1000, 0, 400)]) == Dated(0, 1)


_anchors = st.builds(Anchor, st.integers(0, 10**7), st.integers(0, 10**4), st.integers(_T, _T + 2 * 10**7))


@given(st.lists(_anchors, min_size=1, max_size=8), _anchors, st.lists(st.integers(0, 10**7), max_size=20))
def test_a_new_anchor_changes_only_dates_between_the_anchors_that_stay(
    known: list[Anchor], new: Anchor, boottimes: list[int]
) -> None:
    before, after = in_order(known), in_order([*known, new])
    changed = [anchor.boottime_ms for anchor in set(before) ^ set(after)]
    stay = [anchor.boottime_ms for anchor in set(before) & set(after)]
    left = max((boottime for boottime in stay if boottime < min(changed, default=0)), default=-1)
    right = min((boottime for boottime in stay if boottime > max(changed, default=0)), default=10**9)
    for boottime_ms in [*boottimes, *stay]:
        if not changed or boottime_ms <= left or boottime_ms >= right:
            assert date(boottime_ms, before) == date(boottime_ms, after)


def test_an_anchor_worse_than_what_others_tell_of_its_moment_does_not_count() -> None:
    """A receipt that came after an outage says little: it must not spoil the rows that good anchors date."""
    good, bad, later = Anchor(0, 5, _T), Anchor(60_000, 10_000, _T + 69_000), Anchor(120_000, 5, _T + 120_000)
    assert in_order([good, bad, later]) == [good, later]
    assert date(60_000, in_order([bad, good, later])) == Dated(_T + 60_000, 7)
    assert in_order([good, bad]) == [good]
    assert in_order([bad, later]) == [later]
    assert in_order([bad]) == [bad], "the only one there is counts"
    assert in_order([good, Anchor(10**9, 10_000, _T + 10**9)])[1].error_ms == 10_000, "after 11 days it is the better"


@given(st.lists(_anchors, min_size=1, max_size=8), st.integers(0, 10**7))
def test_a_date_is_never_more_exact_than_its_nearest_anchors(known: list[Anchor], boottime_ms: int) -> None:
    dated = date(boottime_ms, in_order(known))
    assert dated is not None
    assert dated.error_ms >= min(anchor.error_ms for anchor in known)
