"""The status: the newest values by measurement and not by arrival; absence stays absence; nothing held is shown."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, Engine, insert, update

from banua_collector import registry
from banua_collector.dating import Dated
from banua_collector.status import ProbeStatus, Reading, Value, status
from banua_collector.tables import batches, boots, quarantine
from tests.collector.fleet import BOOT, HOUR, MINUTE, NOW_MS, add_batch, add_probe, board, clock, path, radio, web, wifi


@pytest.fixture
def conn(engine: Engine) -> Iterator[Connection]:
    """A probe p1 in Tabanio."""
    with engine.begin() as conn:
        registry.load_villages(conn)
        registry.add_place(conn, "63.01.01.2002", "tabanio-1", "Balai desa")
        add_probe(conn, "p1", "tabanio-1")
        yield conn


def _p1(conn: Connection) -> ProbeStatus:
    return next(probe for probe in status(conn, NOW_MS).probes if probe.name == "p1")


def _values(reading: Reading) -> dict[str, int | float | str]:
    return {value.name: value.value for value in reading.values}


def test_a_probe_that_never_spoke_has_no_values_and_no_zeros(conn: Connection) -> None:
    assert status(conn, NOW_MS).probes == (
        ProbeStatus(
            name="p1",
            simulated=False,
            where=registry.list_deployments(conn)[0],
            state="never",
            last_received_ms=None,
            readings=(),
            backlog=None,
            quarantined=0,
            held_boots=0,
        ),
    )


@pytest.mark.parametrize(("ago_ms", "state"), [(0, "online"), (10 * MINUTE, "online"), (10 * MINUTE + 1, "late")])
def test_a_probe_is_online_for_ten_minutes_after_a_batch(conn: Connection, ago_ms: int, state: str) -> None:
    add_batch(conn, "p1", 1, [radio(5)], NOW_MS - ago_ms)
    assert _p1(conn).state == state


def test_a_probe_stands_where_it_stands_now(conn: Connection) -> None:
    registry.add_place(conn, "63.01.01.2002", "tabanio-2", "Masjid")
    registry.deploy(conn, "p1", "tabanio-2", NOW_MS - 1, NOW_MS, end=True)
    assert _p1(conn).where is None


def test_values_are_the_newest_measured_not_the_newest_arrived(conn: Connection) -> None:
    add_batch(conn, "p1", 9, [radio(9 * MINUTE, rsrp_dbm=-90)], NOW_MS - 1000)
    add_batch(conn, "p1", 2, [radio(2 * MINUTE, rsrp_dbm=-120)], NOW_MS)
    (reading,) = _p1(conn).readings
    assert _values(reading)["rsrp_dbm"] == -90


def test_a_newer_boot_comes_first_even_if_an_older_one_is_backfilled_later(conn: Connection) -> None:
    add_batch(conn, "p1", 9, [radio(1 * MINUTE, rsrp_dbm=-90)], NOW_MS - 1000, boot_id=b"2" * 16)
    add_batch(conn, "p1", 2, [radio(50 * MINUTE, rsrp_dbm=-120), board(50 * MINUTE)], NOW_MS, boot_id=b"1" * 16)
    shown = {reading.kind: _values(reading) for reading in _p1(conn).readings}
    assert shown["radio"]["rsrp_dbm"] == -90
    assert shown["board"]["mains"] == 1  # the newer boot has said nothing of it yet


def test_what_is_measured_seldom_is_shown_for_25_hours(conn: Connection) -> None:
    for seq in range(1, 25):
        came = [board(seq * HOUR)] + ([web(seq * HOUR)] if seq == 1 else [])
        add_batch(conn, "p1", seq, came, NOW_MS)
    assert [reading.kind for reading in _p1(conn).readings] == ["board", "web"]
    add_batch(conn, "p1", 25, [board(26 * HOUR)], NOW_MS)
    assert [reading.kind for reading in _p1(conn).readings] == ["board", "web"]
    add_batch(conn, "p1", 26, [board(26 * HOUR + 1)], NOW_MS)
    assert [reading.kind for reading in _p1(conn).readings] == ["board"]


def test_after_restarts_what_the_boots_before_measured_is_shown_as_long(conn: Connection) -> None:
    told = [(path(HOUR, [1000]), 26), (web(HOUR), 24), (radio(HOUR), 2), (board(HOUR), 0)]
    for seq, (row, hours_ago) in enumerate(told, start=1):
        came = [row, clock(HOUR, NOW_MS - hours_ago * HOUR)]
        add_batch(conn, "p1", seq, came, NOW_MS, boot_id=b"%d" % seq * 16)
    assert [reading.kind for reading in _p1(conn).readings] == ["radio", "board", "clock", "web"]


def test_one_answer_opens_so_many_batches_the_newest_first_and_none_twice(conn: Connection) -> None:
    for seq, row in enumerate([web(1), radio(2), board(3)], start=1):
        add_batch(conn, "p1", seq, [row], NOW_MS)
    shown = []
    for _ in range(3):
        (p1,) = status(conn, NOW_MS, at_once=1).probes
        shown.append({reading.kind for reading in p1.readings})
    assert shown == [{"board"}, {"board", "radio"}, {"board", "radio", "web"}]
    conn.execute(update(batches).values(message=b"not to be opened again"))
    assert len(_p1(conn).readings) == 3


def test_a_row_that_another_sums_up_is_an_entry(conn: Connection) -> None:
    scan = [wifi(4), wifi(4, bssid="02:00:00:00:00:01", ssid="desa"), board(4)]
    add_batch(conn, "p1", 1, scan, NOW_MS)
    assert [(reading.kind, reading.key, reading.entry) for reading in _p1(conn).readings] == [
        ("board", (), False),
        ("wifi", ("wlan0",), False),
        ("wifi", ("wlan0", "02:00:00:00:00:01"), True),
    ]


def test_each_key_of_a_kind_has_its_own_reading_in_the_dictionarys_order(conn: Connection) -> None:
    add_batch(conn, "p1", 1, [board(4), radio(5), radio(5, modem="m2"), radio(4)], NOW_MS)
    assert [(reading.kind, reading.key) for reading in _p1(conn).readings] == [
        ("radio", ("m1",)),
        ("radio", ("m2",)),
        ("board", ()),
    ]


def test_values_have_the_dictionarys_units_and_the_key_is_not_repeated(conn: Connection) -> None:
    add_batch(conn, "p1", 1, [board(4, temperature_c=48.5)], NOW_MS)
    (reading,) = _p1(conn).readings
    assert Value("temperature_c", 48.5, "°C") in reading.values
    assert Value("mains", 1, "") in reading.values
    add_batch(conn, "p1", 2, [radio(5)], NOW_MS)
    assert "modem" not in _values(_p1(conn).readings[0])


def test_a_train_of_round_trips_is_shown_by_its_figures(conn: Connection) -> None:
    add_batch(conn, "p1", 1, [path(4, [40_000, None, 50_000, 45_000])], NOW_MS)
    (reading,) = _p1(conn).readings
    assert reading.key == ("collector", "m1", "tcp")
    assert "rtt_us" not in _values(reading)
    assert Value("loss", 0.25, "") in reading.values
    assert Value("rtt_p50_ms", 45.0, "ms") in reading.values
    assert _values(reading)["p95_lost"] == 1


def test_a_row_has_a_wall_time_only_when_its_boot_has_an_anchor(conn: Connection) -> None:
    add_batch(conn, "p1", 1, [radio(5 * MINUTE)], NOW_MS)
    assert _p1(conn).readings[0].at is None
    add_batch(conn, "p1", 2, [clock(5 * MINUTE, NOW_MS - MINUTE)], NOW_MS)
    assert _p1(conn).readings[0].at == Dated(NOW_MS - MINUTE, 20)


def test_what_is_simulated_is_marked_on_its_kind(conn: Connection) -> None:
    add_batch(conn, "p1", 1, [radio(5, simulated=1), board(5)], NOW_MS)
    assert {reading.kind: reading.simulated for reading in _p1(conn).readings} == {"radio": True, "board": False}
    assert "simulated" not in _values(_p1(conn).readings[0])


def test_a_simulated_probe_is_marked_whole(conn: Connection) -> None:
    add_probe(conn, "sim-1", simulated=True)
    assert [(probe.name, probe.simulated, probe.where) for probe in status(conn, NOW_MS).probes][1] == (
        "sim-1",
        True,
        None,
    )


def test_the_backlog_is_what_the_newest_board_row_tells(conn: Connection) -> None:
    add_batch(conn, "p1", 1, [board(4, outbox_waiting=7), board(5, outbox_waiting=3)], NOW_MS)
    assert _p1(conn).backlog == 3


@pytest.mark.parametrize(("standing", "held", "shown"), [("held", 1, 0), ("dropped", 0, 0), ("released", 0, 1)])
def test_values_of_a_held_or_dropped_boot_are_not_shown(conn: Connection, standing: str, held: int, shown: int) -> None:
    add_batch(conn, "p1", 1, [radio(5)], NOW_MS)
    conn.execute(update(boots).where(boots.c.boot_id == BOOT).values(standing=standing))
    assert (_p1(conn).held_boots, len(_p1(conn).readings)) == (held, shown)


def test_quarantine_is_counted_by_probe_and_strangers_together(conn: Connection) -> None:
    for number, name in enumerate(["p1", "p1", "nobody", "nothing"]):
        conn.execute(
            insert(quarantine).values(
                probe_name=name, topic="t", reason="r", detail="d", hash=b"%d" % number, received_ms=1, message=b"m"
            )
        )
    assert (_p1(conn).quarantined, status(conn, NOW_MS).strangers) == (2, 2)


def test_a_batch_that_this_version_cannot_read_hides_nothing_else(conn: Connection) -> None:
    add_batch(conn, "p1", 1, [radio(5)], NOW_MS)
    add_batch(conn, "p1", 2, [board(6)], NOW_MS)
    conn.execute(update(batches).where(batches.c.seq == 2).values(message=b"BNUA of the future"))
    assert [reading.kind for reading in _p1(conn).readings] == ["radio"]
