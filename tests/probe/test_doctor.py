"""`banua-probe doctor`: each thing that would keep a sensor from measuring is a line that says what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from banua_probe.config import Config, convert
from banua_probe.doctor import Board, examine

if TYPE_CHECKING:
    from pathlib import Path

SYSCTL = 'sysctl -w net.ipv4.ping_group_range="0 2147483647"'


def settings(**sections: Any) -> Config:
    return convert({"name": "a", "broker": {"host": "localhost", "tls": False}, **sections}, Config)


def board(**answers: Any) -> Board:
    good: dict[str, Any] = {
        "icmp_permitted": lambda: True, "interfaces": lambda: {"lo", "wwan0"}, "program": lambda name: f"/sbin/{name}",
        "usable": lambda _device: True,
    }  # fmt: skip
    return Board(**(good | answers))


def test_a_board_in_order_has_no_advice(tmp_path: Path) -> None:
    (tmp_path / "ttyUSB2").touch()
    modem = {"name": "m1", "device": str(tmp_path / "ttyUSB2"), "dialect": "quectel", "interface": "wwan0"}
    path = {"target": "t", "host": "h", "modem": "m1"}
    config = settings(modem=[modem], path=[path], wifi=[{"interface": "lo"}])
    assert [str(finding) for finding in examine(config, board())] == [
        "good  ICMP echo", f"good  modem m1 at {tmp_path}/ttyUSB2", "good  interface lo", "good  interface wwan0",
        "good  program iw",
    ]  # fmt: skip


def test_icmp_that_is_not_permitted_names_the_sysctl() -> None:
    (finding,) = examine(settings(), board(icmp_permitted=lambda: False))
    assert finding.what == "ICMP echo"
    assert SYSCTL in finding.advice


def test_without_an_icmp_target_icmp_is_not_asked_for() -> None:
    path = {"target": "t", "host": "h", "method": "tcp", "port": 1}
    assert list(examine(settings(path=[path]), board(icmp_permitted=lambda: False))) == []


def test_what_is_missing_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    modems = [
        {"name": "m1", "device": str(tmp_path / "nosuch"), "dialect": "quectel"},
        {"name": "m2", "device": str(tmp_path / "there"), "dialect": "quectel"},
    ]
    dns = {"name": "a", "resolver": "192.0.2.1", "interface": "wwan9"}
    config = settings(path=[], modem=modems, dns=[dns], wifi=[{"interface": "wlan0"}])
    found = {f.what: f.advice for f in examine(config, board(usable=lambda _: False, program=lambda _: None))}
    assert list(found) == [
        f"modem m1 at {tmp_path}/nosuch", f"modem m2 at {tmp_path}/there", "interface wlan0", "interface wwan9",
        "program iw",
    ]  # fmt: skip
    assert all(found.values())
    assert "powered" in found[f"modem m1 at {tmp_path}/nosuch"]
    assert "dialout" in found[f"modem m2 at {tmp_path}/there"]
    assert "apt-get install iw" in found["program iw"]
