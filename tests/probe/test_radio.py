"""Polls of one modem combined into one row: what was answered, what was measured, and nothing made up."""

from __future__ import annotations

from typing import Any

import pytest

from banua_probe.modem.reading import Reading, State
from banua_probe.sensors.radio import Poll, radio_row
from banua_wire.fields import BY_KIND
from banua_wire.rows import checked


def poll(at: int, **values: Any) -> Poll:
    return Poll(at, Reading(source="+QENG", **values))


FAILED = Poll(0, None)


def values(*polls: Poll, now: int = 60_000, **how: Any) -> dict[str, Any]:
    row = radio_row("m1", polls, now, **({"sim_plmn": None, "simulated": False} | how))
    assert (row.kind, row.boottime_ms) == ("radio", now)
    checked(row)  # the dictionary allows it
    return dict(row.values)


def test_levels_are_the_median_in_dbm_not_a_mean() -> None:
    """The reference's example: -95, -105, -115 → -105; a linear mean would say -99.3."""
    polls = [poll(n, state="registered", rsrp_dbm=level) for n, level in enumerate((-95, -105, -115))]
    assert values(*polls)["rsrp_dbm"] == -105
    assert values(*polls, poll(9, state="registered", rsrp_dbm=-96))["rsrp_dbm"] == -100.5


def test_a_level_is_the_median_of_the_polls_that_have_it() -> None:
    said = values(poll(1, rsrq_db=-10.5), poll(2), FAILED, poll(3, rsrq_db=-12.0, nr_rsrp_dbm=-90))
    assert (said["rsrq_db"], said["nr_rsrp_dbm"]) == (-11.25, -90)
    assert "rsrp_dbm" not in said


def test_all_failed_says_that_and_nothing_else() -> None:
    """No poll answered: no state, no counts of states (not even 0), no level."""
    assert values(FAILED, FAILED) == {"modem": "m1", "polls": 2, "polls_failed": 2}


def test_answered_without_service_is_evidence() -> None:
    assert values(poll(1, state="no_service"), poll(2, state="no_service"), FAILED) == {
        "modem": "m1", "polls": 3, "polls_failed": 1, "polls_registered": 0, "polls_limited": 0, "polls_no_service": 2,
        "polls_denied": 0, "polls_unknown": 0, "state": "no_service",
    }  # fmt: skip


@pytest.mark.parametrize(("states", "expected"), [
    (["registered"], "registered"),
    (["no_service", "no_service", "registered"], "no_service"),
    (["no_service", "registered"], "registered"),
    (["no_service", "limited"], "limited"),
    (["limited", "registered"], "registered"),
    (["denied", "no_service"], "no_service"),
    (["unknown", "denied"], "denied"),
    (["unknown", "unknown", "registered"], "unknown"),
])  # fmt: skip
def test_the_commonest_state_counts_and_of_equals_the_better(states: list[State], expected: str) -> None:
    for order in (states, states[::-1]):
        said = values(*[poll(n, state=state) for n, state in enumerate(order)])
        assert said["state"] == expected
        for state in ("registered", "limited", "no_service", "denied", "unknown"):
            assert said[f"polls_{state}"] == states.count(state)


def test_identities_are_those_of_the_newest_poll_that_tells_them() -> None:
    said = values(
        poll(1, rat="lte", plmn="51010", cell_id=1, tac=7, pci=5, earfcn=1825, band=3),
        poll(2, rat="lte", plmn="51010", cell_id=2, pci=6),
        poll(3),
        FAILED,
        sim_plmn="51011",
    )
    assert {name: said[name] for name in ("cell_id", "pci", "tac", "band", "plmn", "sim_plmn")} == {
        "cell_id": 2, "pci": 6, "tac": 7, "band": 3, "plmn": "51010", "sim_plmn": "51011",
    }  # fmt: skip


def test_a_raw_sinr_and_its_formula_are_of_one_poll() -> None:
    said = values(
        poll(1, sinr_raw=13, sinr_formula="quectel_2x-20", sinr_db=6.0),
        poll(2, sinr_raw=20, sinr_db=20.0),
    )
    assert said["sinr_raw"] == 20
    assert "sinr_formula" not in said


def test_the_formula_of_an_nr_sinr_travels_with_it() -> None:
    said = values(poll(1, nr_sinr_raw=18, nr_sinr_formula="db"), poll(2))
    assert (said["nr_sinr_raw"], said["nr_sinr_formula"]) == (18, "db")


def test_a_skipped_poll_is_neither_attempted_nor_failed() -> None:
    said = values(poll(1, state="registered"), FAILED, skipped=4)
    assert (said["polls"], said["polls_failed"], said["polls_skipped"]) == (2, 1, 4)
    assert values(skipped=6) == {"modem": "m1", "polls": 0, "polls_failed": 0, "polls_skipped": 6}
    assert "polls_skipped" not in values(poll(1))


def test_censored_names_what_is_only_a_bound() -> None:
    said = values(
        poll(1, rsrp_dbm=-140, censored=("rsrp_dbm",)), poll(2, rsrq_db=-19.5, censored=("rsrq_db", "rsrp_dbm"))
    )
    assert (said["censored"], said["rsrp_dbm"]) == ("rsrp_dbm,rsrq_db", -140)


def test_the_age_is_that_of_the_newest_level() -> None:
    polls = (poll(10_000, rsrp_dbm=-90), poll(40_000, rxlev_dbm=-80), poll(50_000, state="registered"), FAILED)
    assert values(*polls)["value_age_ms"] == 20_000
    assert "value_age_ms" not in values(poll(50_000, state="registered"))
    assert values(poll(60_007, rsrp_dbm=-90))["value_age_ms"] == 0


def test_what_the_dictionary_cannot_hold_is_left_out_and_costs_no_row() -> None:
    said = values(poll(1, rsrp_dbm=-30, rsrq_db=-99.0, pci=1008, cell_id=2**36, rssi_dbm=-70))
    assert said["rssi_dbm"] == -70
    assert not {"rsrp_dbm", "rsrq_db", "pci", "cell_id"} & set(said)
    assert "value_age_ms" not in values(poll(1, rsrp_dbm=-90), now=3_600_002)


def test_a_simulation_is_marked_and_a_radio_is_not() -> None:
    assert values(poll(1), simulated=True)["simulated"] == 1
    assert "simulated" not in values(poll(1))


def test_every_name_is_in_the_dictionary() -> None:
    everything = values(
        poll(1, state="registered", rsrp_dbm=-90, sinr_raw=1, sinr_formula="db", nr_sinr_raw=2, rscp_dbm=-90)
    )
    assert set(everything) <= {field.name for field in BY_KIND["radio"].fields}
