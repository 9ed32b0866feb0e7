"""The registry: who may speak, where they stand, what is refused, and which range a change touches."""

import dataclasses
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Connection, Engine, select

from banua_collector import registry
from banua_collector.errors import RegistryError
from banua_collector.registry import Affected
from banua_collector.tables import villages
from banua_wire import signature

_T0 = 1_760_000_000_000  # 2025-10-09T08:53:20Z
_HOUR = 3_600_000
_KEY = bytes(range(32))
_TABANIO = "63.01.01.2002"


@pytest.fixture
def conn(engine: Engine) -> Iterator[Connection]:
    """A registry with two places and a probe."""
    with engine.begin() as conn:
        registry.load_villages(conn)
        registry.add_place(conn, _TABANIO, "tabanio-1", "Balai desa", -3.7568, 114.6322)
        registry.add_place(conn, _TABANIO, "tabanio-2", "Masjid", -3.76, 114.63)
        registry.add_probe(conn, "p1", _KEY, now_ms=_T0)
        yield conn


# --- villages


def test_the_shipped_list_is_the_whole_province() -> None:
    shipped = registry.shipped_villages()
    assert len(shipped) == len({village.code for village in shipped}) == 2016
    assert len({village.regency_code for village in shipped}) == 13
    assert len({village.district_code for village in shipped}) == 156
    assert {village.edition for village in shipped} == {"Kepmendagri 300.2.2-2138/2025"}
    assert sum(village.latitude is None for village in shipped) == 8


@pytest.mark.parametrize(
    ("code", "name", "district", "regency"),
    [
        (_TABANIO, "Tabanio", "Takisung", "Kabupaten Tanah Laut"),
        ("63.10.04.2027", "Sido Rejo", "Satui", "Kabupaten Tanah Bumbu"),
        ("63.04.04.2011", "Sungai Punggu Baru", "Anjir Muara", "Kabupaten Barito Kuala"),
    ],
)
def test_villages_carry_their_official_names(code: str, name: str, district: str, regency: str) -> None:
    (village,) = [village for village in registry.shipped_villages() if village.code == code]
    assert (village.name, village.district, village.regency) == (name, district, regency)
    assert village.code.startswith(f"{village.district_code}.")
    assert village.district_code.startswith(f"{village.regency_code}.")


def test_loading_villages_again_changes_nothing_and_repairs_what_differs(conn: Connection) -> None:
    assert registry.load_villages(conn) == 0
    conn.execute(villages.update().where(villages.c.code == _TABANIO).values(name="Tabanyo", edition="older"))
    assert registry.load_villages(conn) == 1
    assert [village.name for village in registry.find_villages(conn, _TABANIO)] == ["Tabanio"]
    assert conn.execute(select(villages.c.code)).all() != []


def test_villages_are_found_by_part_of_the_name_or_start_of_the_code(conn: Connection) -> None:
    assert [village.code for village in registry.find_villages(conn, "tabani")] == [_TABANIO]
    assert len(registry.find_villages(conn, "63.72")) == 20
    assert registry.find_villages(conn, "%") == []


# --- probes and keys


def test_a_probe_has_the_keys_it_was_given_and_no_other(conn: Connection) -> None:
    second = signature.public_of(signature.new_secret())
    registry.add_key(conn, "p1", second, now_ms=_T0 + 5)
    assert [(key.public_key, key.valid_from_ms) for key in registry.keys_of(conn, "p1")] == [
        (_KEY, _T0),
        (second, _T0 + 5),
    ]
    assert registry.keys_of(conn, "p2") == []


def test_retired_and_revoked_are_kept_apart_and_a_retired_key_can_still_be_revoked(conn: Connection) -> None:
    retired = registry.retire_key(conn, "p1", "0001", _T0 + 1)
    assert (retired.retired_ms, retired.revoked_ms) == (_T0 + 1, None)
    revoked = registry.revoke_key(conn, "p1", "000102", _T0 + 2)
    assert (revoked.retired_ms, revoked.revoked_ms) == (_T0 + 1, _T0 + 2)
    assert registry.keys_of(conn, "p1") == [revoked]


def test_what_cannot_be_a_probe_or_a_key_is_refused(conn: Connection) -> None:
    registry.add_key(conn, "p1", b"\x00\x01" + bytes(30), now_ms=_T0)
    registry.add_probe(conn, "p2", b"2" * 32, now_ms=_T0, simulated=True)
    assert [(probe.name, probe.simulated) for probe in registry.list_probes(conn)] == [("p1", False), ("p2", True)]
    refused: dict[str, Callable[[], object]] = {
        "'P1' is not a probe name": lambda: registry.add_probe(conn, "P1", b"3" * 32, now_ms=_T0),
        "collector cannot name a probe": lambda: registry.add_probe(conn, "collector", b"3" * 32, now_ms=_T0),
        "probe p1 is registered already": lambda: registry.add_probe(conn, "p1", b"3" * 32, now_ms=_T0),
        "public key of 31 bytes; it has 32": lambda: registry.add_key(conn, "p1", b"3" * 31, now_ms=_T0),
        "key 0001020304050607… belongs to probe p1 already": lambda: registry.add_key(conn, "p2", _KEY, now_ms=_T0),
        "probe p3 is not registered": lambda: registry.add_key(conn, "p3", b"3" * 32, now_ms=_T0),
        "probe p1 has no key that begins with 'ff'": lambda: registry.retire_key(conn, "p1", "ff", _T0),
        "probe p1 has no key that begins with ''": lambda: registry.revoke_key(conn, "p1", "", _T0),
        "probe p1 has 2 keys that begin with 0001: give more digits": lambda: registry.revoke_key(
            conn, "p1", "0001", _T0
        ),
    }
    for message, attempt in refused.items():
        with pytest.raises(RegistryError) as caught:
            attempt()
        assert str(caught.value).startswith(message)


def test_an_ended_key_says_when_it_ended(conn: Connection) -> None:
    registry.retire_key(conn, "p1", "0001", _T0)
    with pytest.raises(RegistryError, match=r"^key 0001020304050607… was retired at 2025-10-09T08:53:20Z$"):
        registry.retire_key(conn, "p1", "0001", _T0 + 1)
    registry.revoke_key(conn, "p1", "0001", _T0)
    with pytest.raises(RegistryError, match=r"^key 0001020304050607… was revoked at 2025-10-09T08:53:20Z$"):
        registry.revoke_key(conn, "p1", "0001", _T0 + 1)


# --- places


@pytest.mark.parametrize(
    ("village", "name", "title", "lat", "lon", "message"),
    [
        ("63.99.99.9999", "a", "A", None, None, "village '63.99.99.9999' is not in the list"),
        (_TABANIO, "tabanio-1", "A", None, None, "place tabanio-1 exists already"),
        (_TABANIO, "Tabanio 1", "A", None, None, "'Tabanio 1' is not a place name"),
        (_TABANIO, "a", " ", None, None, "a place's title has 1 to 100 printable characters"),
        (_TABANIO, "a", "A", 114.63, -3.75, "latitude 114.63 is outside -90…90"),
        (_TABANIO, "a", "A", -3.75, 214.63, "longitude 214.63 is outside -180…180"),
        (_TABANIO, "a", "A", float("nan"), 114.63, "latitude nan is outside -90…90"),
        (_TABANIO, "a", "A", -3.75, None, "latitude and longitude go together"),
    ],
)
def test_what_cannot_be_a_place_is_refused(
    conn: Connection, village: str, name: str, title: str, lat: float | None, lon: float | None, message: str
) -> None:
    with pytest.raises(RegistryError) as caught:
        registry.add_place(conn, village, name, title, lat, lon)
    assert str(caught.value).startswith(message)


def test_a_place_without_coordinates_is_a_place(conn: Connection) -> None:
    registry.add_place(conn, _TABANIO, "tabanio-3", "Pasar")
    assert [(place.name, place.latitude) for place in registry.list_places(conn)] == [
        ("tabanio-1", -3.7568),
        ("tabanio-2", -3.76),
        ("tabanio-3", None),
    ]


# --- deployments


def _deploy(conn: Connection, place: str, begin: int, end: int | None = None) -> int:
    return registry.deploy(conn, "p1", place, _T0 + begin * _HOUR, None if end is None else _T0 + end * _HOUR)[0]


def test_a_deployment_carries_all_that_a_tag_needs(conn: Connection) -> None:
    registry.deploy(conn, "p1", "tabanio-1", _T0, power_source="PLN", connectivity="by_hand")
    (found,) = registry.deployments_of(conn, registry.probe_named(conn, "p1").id)
    assert (found.probe, found.place.name, found.place.village.name, found.place.village.district) == (
        "p1",
        "tabanio-1",
        "Tabanio",
        "Takisung",
    )
    assert (found.place.village.code, found.place.village.regency) == (_TABANIO, "Kabupaten Tanah Laut")
    assert (found.from_ms, found.to_ms, found.power_source, found.connectivity) == (_T0, None, "PLN", "by_hand")
    assert registry.list_deployments(conn) == [found]


def test_a_deployment_covers_its_begin_and_not_its_end(conn: Connection) -> None:
    deployment = registry.deployment_by_id(conn, _deploy(conn, "tabanio-1", 0, 1))
    assert [deployment.covers(ms) for ms in (_T0 - 1, _T0, _T0 + _HOUR - 1, _T0 + _HOUR)] == [False, True, True, False]
    assert dataclasses.replace(deployment, to_ms=None).covers(_T0 + 10**12)


@pytest.mark.parametrize(
    ("begin", "end", "overlaps"),
    [
        (0, 2, False),
        (0, 3, True),
        (2, 4, True),
        (3, 4, True),
        (3, None, True),
        (0, None, True),
        (4, None, False),
        (4, 5, False),
    ],
)
def test_a_probe_stands_in_one_place_at_a_time(
    conn: Connection, begin: int, end: int | None, *, overlaps: bool
) -> None:
    first = _deploy(conn, "tabanio-1", 2, 4)
    if not overlaps:
        _deploy(conn, "tabanio-2", begin, end)
        return
    with pytest.raises(RegistryError) as caught:
        _deploy(conn, "tabanio-2", begin, end)
    assert str(caught.value) == (
        "probe p1 stands at tabanio-1 from 2025-10-09T10:53:20Z to 2025-10-09T12:53:20Z"
        f" (deployment {first}): a probe stands in one place at a time"
    )


def test_moving_a_probe_ends_its_open_deployment_only_when_asked(conn: Connection) -> None:
    _deploy(conn, "tabanio-1", 0)
    with pytest.raises(RegistryError, match=r"from 2025-10-09T08:53:20Z to now on \(deployment 1\)"):
        _deploy(conn, "tabanio-2", 5)
    moved, affected = registry.deploy(conn, "p1", "tabanio-2", _T0 + 5 * _HOUR, end=True)
    assert affected == Affected(1, _T0 + 5 * _HOUR, None)
    assert [(one.id, one.from_ms, one.to_ms) for one in registry.list_deployments(conn)] == [
        (1, _T0, _T0 + 5 * _HOUR),
        (moved, _T0 + 5 * _HOUR, None),
    ]


def test_moving_for_a_while_still_touches_all_that_the_open_deployment_covered(conn: Connection) -> None:
    _deploy(conn, "tabanio-1", 0)
    _, affected = registry.deploy(conn, "p1", "tabanio-2", _T0 + 5 * _HOUR, _T0 + 6 * _HOUR, end=True)
    assert affected == Affected(1, _T0 + 5 * _HOUR, None)


def test_a_new_deployment_touches_its_own_range(conn: Connection) -> None:
    assert registry.deploy(conn, "p1", "tabanio-1", _T0, _T0 + 9)[1] == Affected(1, _T0, _T0 + 9)


@pytest.mark.parametrize(
    ("corrections", "affected"),
    [
        ({"place": "tabanio-2"}, (2, 4)),
        ({"from_ms": _T0}, (0, 4)),
        ({"from_ms": _T0 + 3 * _HOUR}, (2, 4)),
        ({"to_ms": _T0 + 3 * _HOUR}, (3, 4)),
        ({"to_ms": _T0 + 9 * _HOUR}, (4, 9)),
        ({"to_ms": None}, (4, None)),
        ({"place": "tabanio-2", "to_ms": None}, (2, None)),
    ],
)
def test_a_correction_touches_what_reads_differently(
    conn: Connection, corrections: registry.Corrections, affected: tuple[int, int | None]
) -> None:
    deployment = _deploy(conn, "tabanio-1", 2, 4)
    first, last = affected
    assert registry.correct_deployment(conn, deployment, **corrections) == Affected(
        1, _T0 + first * _HOUR, None if last is None else _T0 + last * _HOUR
    )
    after = registry.deployment_by_id(conn, deployment)
    assert after.place.name == corrections.get("place", "tabanio-1")
    assert after.to_ms == corrections.get("to_ms", _T0 + 4 * _HOUR)


def test_ending_touches_what_came_after_and_is_done_once(conn: Connection) -> None:
    deployment = _deploy(conn, "tabanio-1", 0)
    assert registry.end_deployment(conn, deployment, _T0 + _HOUR) == Affected(1, _T0 + _HOUR, None)
    with pytest.raises(RegistryError, match=r"^deployment 1 ended at 2025-10-09T09:53:20Z; correct it instead$"):
        registry.end_deployment(conn, deployment, _T0 + 2 * _HOUR)


def test_what_cannot_be_a_deployment_is_refused(conn: Connection) -> None:
    _deploy(conn, "tabanio-1", 0, 1)
    later = _deploy(conn, "tabanio-2", 2, 3)
    refused: dict[str, Callable[[], object]] = {
        "there is no place nowhere": lambda: registry.deploy(conn, "p1", "nowhere", _T0 + 9 * _HOUR),
        "probe p9 is not registered": lambda: registry.deploy(conn, "p9", "tabanio-1", _T0),
        "a deployment from 2025-10-09T08:53:20Z cannot end at 2025-10-09T08:53:20Z": lambda: registry.deploy(
            conn, "p1", "tabanio-1", _T0, _T0
        ),
        "connectivity 'radio' is not one of online, sometimes, by_hand": lambda: registry.deploy(
            conn, "p1", "tabanio-1", _T0 + 9 * _HOUR, connectivity="radio"
        ),
        "antenna is longer than 100 characters": lambda: registry.deploy(
            conn, "p1", "tabanio-1", _T0 + 9 * _HOUR, antenna="x" * 101
        ),
        "probe p1 has no open deployment to end": lambda: registry.deploy(
            conn, "p1", "tabanio-1", _T0 + 9 * _HOUR, end=True
        ),
        "there is no deployment 77": lambda: registry.end_deployment(conn, 77, _T0),
        "probe p1 stands at tabanio-1 from": lambda: registry.correct_deployment(conn, later, from_ms=_T0),
    }
    for message, attempt in refused.items():
        with pytest.raises(RegistryError) as caught:
            attempt()
        assert str(caught.value).startswith(message)
