"""What iw prints, captured, to exact values; three outcomes told apart; nothing that iw could print raises."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banua_probe.config import Wifi
from banua_probe.sensors.wifi import NoList, Ran, parse_scan, run_bounded, scan_command, wifi_rows
from banua_wire.rows import checked

CAPTURES = Path(__file__).parents[1] / "captures" / "iw"
WLAN0 = Wifi(interface="wlan0")
BEGIN = b"BSS 02:00:00:00:00:01(on wlan0)\n\tcapability: ESS Privacy (0x0011)\n\tsignal: -70.00 dBm\n"


def captured(name: str) -> bytes:
    return (CAPTURES / f"{name}.txt").read_bytes()


def rows(output: bytes, status: int = 0, settings: Wifi = WLAN0) -> list[dict[str, Any]]:
    told = wifi_rows(settings, lambda: 9, lambda _command: Ran(status, output))
    assert {(row.kind, row.boottime_ms) for row in told} == {("wifi", 9)}
    return [checked(row).values for row in told]


def test_a_raspberry_pis_scan() -> None:
    iot, eduroam, open_, summary = rows(captured("raspberry-pi"))
    assert iot == {"bssid": "70:f0:96:d2:e0:62", "outcome": "measured", "interface": "wlan0"} | {
        "ssid": "WIFI_IUTB_IOT", "frequency_mhz": 2412, "signal_dbm": -64, "security": "wpa2", "last_seen_ms": 0,
        "stations": 0, "utilisation_pct": 65.9,
    }  # fmt: skip
    assert (eduroam["ssid"], eduroam["security"], eduroam["stations"]) == ("eduroam", "wpa2", 4)
    assert (open_["ssid"], open_["security"], open_["utilisation_pct"]) == ("UM-net", "open", 79.6)
    assert summary == {"interface": "wlan0", "outcome": "measured", "count": 3}


def test_an_address_on_two_channels_is_one_network_and_the_strongest_comes_first() -> None:
    android, own, summary = rows(captured("p4wnp1"))
    assert (android["bssid"], android["signal_dbm"], android["frequency_mhz"]) == ("4e:66:41:a0:5b:35", -35, 2462)
    assert (android["ssid"], android["security"], android["last_seen_ms"]) == ("AndroidAP8905", "open", 10)
    assert (own["ssid"], own["security"]) == ("spycki3", "wpa2")
    assert "stations" not in own
    assert summary["count"] == 2


def test_only_the_strongest_become_rows_and_all_are_counted() -> None:
    only, summary = rows(captured("raspberry-pi"), settings=Wifi(interface="wlan0", strongest=1))
    assert (only["ssid"], summary["count"]) == ("WIFI_IUTB_IOT", 3)


def test_a_scan_that_was_pasted_with_spaces() -> None:
    (network, _) = rows(captured("rtl8812au-spaces"))
    assert (network["bssid"], network["ssid"], network["signal_dbm"], network["security"]) == (
        "10:9a:dd:83:41:85", "RXOOM-tCAP-834185", -88, "wpa2",
    )  # fmt: skip


def test_every_capture_has_a_source() -> None:
    sources = (CAPTURES / "SOURCES.md").read_text(encoding="utf-8")
    assert [path.name for path in CAPTURES.glob("*.txt") if path.name not in sources] == []


@pytest.mark.parametrize(
    ("elements", "security"),
    [
        (captured("openwrt-wpa3-elements"), "wpa3"),
        (captured("openwrt-override-elements"), "wpa2"),  # what others see; the override is for those that know it
        (b"\tRSN:\t * Version: 1\n\t\t * Authentication suites: PSK SAE\n", "wpa3"),
        (b"\tRSN:\t * Version: 1\n\t\t * Authentication suites: 00-0f-ac:8\n", "wpa3"),
        (b"\tRSN:\t * Version: 1\n\t\t * Authentication suites: FT/SAE\n", "wpa3"),
        (b"\tRSN:\t * Version: 1\n\t\t * Authentication suites: OWE\n", None),
        (b"\tRSN:\t * Version: 1\n\tWPA:\t * Version: 1\n\t\t * Authentication suites: PSK\n", "wpa2"),
        (b"\tWPA:\t * Version: 1\n\t\t * Authentication suites: PSK\n", "wpa"),
        (b"", "wep"),
    ],
)
def test_security_is_the_best_that_is_offered(elements: bytes, security: str | None) -> None:
    assert [network.security for network in parse_scan(BEGIN + elements)] == [security]


def test_without_its_capabilities_a_network_is_not_called_open() -> None:
    assert [network.security for network in parse_scan(BEGIN.replace(b"capability", b"capacity"))] == [None]


@pytest.mark.parametrize(
    ("ssid", "expected"),
    [
        (rb"kampung", "kampung"),
        (rb"\x00\x00\x00", None),
        (rb"", None),
        (rb"\x20warung kopi\x20", " warung kopi "),
        (rb"\xf0\x9f\x93\xb6 desa", "\N{ANTENNA WITH BARS} desa"),
        (rb"a\x0a\x5cb\xff", "a\\b"),
        (b"caf\xc3\xa9", "caf\N{LATIN SMALL LETTER E WITH ACUTE}"),
        (b"\xc3\x85s\xc3\xa0", "\N{LATIN CAPITAL LETTER A WITH RING ABOVE}s\N{LATIN SMALL LETTER A WITH GRAVE}"),
        (rb"RSN: * Authentication suites: SAE", "RSN: * Authentication suites: SAE"),
    ],
)
def test_a_name_is_its_printable_part(ssid: bytes, expected: str | None) -> None:
    (network,) = parse_scan(BEGIN + b"\tSSID: " + ssid + b"\n")
    assert (network.ssid, network.security) == (expected, "wep")


def test_nothing_in_sight_is_measured() -> None:
    assert rows(b"") == [{"interface": "wlan0", "outcome": "measured", "count": 0}]


@pytest.mark.parametrize(
    ("status", "output", "reason"),
    [
        (255, b"command failed: Operation not permitted (-1)\n", "not permitted: it needs CAP_NET_ADMIN"),
        (240, b"command failed: Device or resource busy (-16)\n", "the interface is busy"),
        (237, b"command failed: No such device (-19)\n", "no such interface"),
        (156, b"command failed: Network is down (-100)\n", "the interface is down"),
        (124, b"command failed: Operation not possible due to RF-kill (-132)\n", "the radio is switched off (rfkill)"),
    ],
)
def test_a_scan_that_did_not_begin_is_not_measured(status: int, output: bytes, reason: str) -> None:
    assert rows(output, status) == [{"interface": "wlan0", "outcome": "not_measured", "reason": reason}]


@pytest.mark.parametrize(
    ("status", "output", "reason"),
    [
        (161, b"command failed: Operation not supported (-95)\n", "Operation not supported (-95)"),
        (1, b"", "iw exited with 1 and said nothing"),
        (1, b"\xff\x00\n" * 999, "iw exited with 1 and said"),
    ],
)
def test_a_scan_that_ended_in_an_error_failed(status: int, output: bytes, reason: str) -> None:
    (summary,) = rows(output, status)
    assert summary["outcome"] == "failed"
    assert reason in summary["reason"]


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (FileNotFoundError(2, "No such file or directory"), "not_measured", "iw is not installed"),
        (PermissionError(13, "Permission denied"), "not_measured", "iw cannot be run: Permission denied"),
        (NoList("no list within 20 s"), "failed", "no list within 20 s"),
    ],
)
def test_a_command_that_cannot_be_run_or_never_ends(error: Exception, outcome: str, reason: str) -> None:
    def run(command: Sequence[str]) -> Ran:
        assert command == scan_command("wlan0") == ["iw", "dev", "wlan0", "scan"]
        raise error

    (row,) = wifi_rows(WLAN0, lambda: 9, run)
    assert checked(row).values == {"interface": "wlan0", "outcome": outcome, "reason": reason}


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_command_is_run_within_its_time_and_size() -> None:
    both = "import sys; print('out', flush=True); print('err', file=sys.stderr); sys.exit(3)"
    assert run_bounded(python(both)) == Ran(3, b"out\nerr\n")
    with pytest.raises(NoList, match="over 1000 bytes of output"):
        run_bounded(python("while True: print('x' * 100)"), max_output=1000)
    began = time.monotonic()
    with pytest.raises(NoList, match=r"no list within 0\.3 s"):
        run_bounded(python("import time; time.sleep(60)"), timeout_s=0.3)
    assert time.monotonic() - began < 10
    with pytest.raises(FileNotFoundError):
        run_bounded(["there-is-no-such-command"])


PIECES = [
    *captured("raspberry-pi").splitlines(keepends=True)[:26],
    *captured("openwrt-wpa3-elements").splitlines(keepends=True),
]
LINES = st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=40), st.just(b"\n")), max_size=40).map(b"".join)
FIELDS = st.builds(
    lambda name, value: BEGIN + b"\t" + name + b": " + value + b"\n",
    st.sampled_from([b"freq", b"signal", b"last seen", b"SSID", b"capability", b"BSS Load", b"RSN"]),
    st.one_of(
        st.binary(max_size=300),
        st.integers().map(lambda n: b"%d dBm" % n),
        st.integers().map(lambda n: b"%d ms ago" % n),
    ),
)


@given(st.one_of(st.binary(), LINES, FIELDS), st.integers(0, 255))
def test_any_output_makes_rows_of_the_dictionary(output: bytes, status: int) -> None:
    told = rows(output, status)
    assert [row for row in told if "bssid" not in row] == told[-1:]
    assert len({row.get("bssid") for row in told}) == len(told)
