"""The port and the modem against the emulator, over a real pty."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from banua_lab.modem import EmulatedModem
from banua_lab.scenario import Scenario, load
from banua_probe.modem.at_modem import COMMAND_S, AtModem, Identity
from banua_probe.modem.dialects import DIALECTS
from banua_probe.modem.errors import ModemUnavailable
from banua_probe.modem.port import MAX_REPLY, AtPort

QUECTEL = DIALECTS["quectel"]


@pytest.fixture
def village() -> Scenario:
    return load("village-lte")


@pytest.fixture
def emulated(village: Scenario) -> Iterator[EmulatedModem]:
    with EmulatedModem(village) as modem:
        yield modem


@pytest.fixture
def port(emulated: EmulatedModem) -> Iterator[AtPort]:
    port = AtPort(emulated.device)
    yield port
    port.close()


def test_a_reply_comes_whole_with_its_echo(port: AtPort) -> None:
    assert port.exchange("AT+CPIN?", 2) == ["AT+CPIN?", "+CPIN: READY", "OK"]
    assert port.exchange("ATE0", 2) == ["ATE0", "OK"]
    assert port.exchange("AT+CPIN?", 2) == ["+CPIN: READY", "OK"]
    assert port.exchange("AT+NONSENSE", 2) == ["ERROR"]
    assert port.session == 1


def test_a_hung_modem_is_unavailable_within_the_timeout_and_its_late_reply_is_thrown_away(
    emulated: EmulatedModem, port: AtPort
) -> None:
    assert port.exchange("AT+CGSN", 2)[-2:] == ["867698040000000", "OK"]
    emulated.hang()
    started = time.monotonic()
    with pytest.raises(ModemUnavailable, match="no complete reply in time"):
        port.exchange("AT+CGSN", 0.3)
    assert 0.3 <= time.monotonic() - started < 1
    emulated.resume()
    time.sleep(0.1)
    assert port.exchange("AT+CIMI", 2)[-2:] == ["510101234567890", "OK"]
    assert port.session == 2


def test_garbage_before_a_command_is_thrown_away_and_within_a_reply_is_returned(
    emulated: EmulatedModem, port: AtPort
) -> None:
    port.exchange("ATE0", 2)
    emulated.say(b"\xff\xfe\x00RDY\r\n\r\n+QIND: PB DONE\r\n")
    time.sleep(0.05)
    assert port.exchange("AT+CPIN?", 2) == ["+CPIN: READY", "OK"]


def test_a_reply_without_an_end_is_given_up(emulated: EmulatedModem, port: AtPort) -> None:
    port.exchange("AT", 2)
    emulated.hang()
    emulated.say(b"+QIND: 1\r\nOK")  # never finished: what follows might still change it
    with pytest.raises(ModemUnavailable, match="no complete reply in time"):
        port.exchange("AT", 0.2)


def test_a_babbling_modem_is_given_up(tmp_path: Path) -> None:
    babbler = load(_written(tmp_path, '"AT+CSQ" = ["' + "x" * (MAX_REPLY + 100) + '"]'))
    with EmulatedModem(babbler) as modem:
        port = AtPort(modem.device)
        with pytest.raises(ModemUnavailable, match=f"more than {MAX_REPLY} bytes"):
            port.exchange("AT+CSQ", 5)


def _written(folder: Path, reply: str) -> Path:
    path = folder / "scenario.toml"
    path.write_text(
        'about = "a test"\ndialect = "quectel"\n'
        '[identity]\nmanufacturer = "Q"\nmodel = "M"\nimei = "867698040000000"\nimsi = "510101234567890"\n'
        f"[replies]\n{reply}\n",
        encoding="utf-8",
    )
    return path


def test_a_port_has_one_owner(emulated: EmulatedModem, port: AtPort) -> None:
    port.exchange("AT", 2)
    with pytest.raises(ModemUnavailable, match="Resource temporarily unavailable"):
        AtPort(emulated.device).open()


@pytest.mark.parametrize(
    ("name", "message"), [("absent", "No such file or directory"), ("file", "Inappropriate ioctl for device")]
)
def test_what_is_no_port_is_unavailable(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModemUnavailable, match=message):
        AtPort(str(tmp_path / name)).exchange("AT", 1)


def test_a_poll_says_what_the_modem_said(port: AtPort) -> None:
    modem = AtModem(port, QUECTEL)
    reading = modem.poll()
    assert (reading.state, reading.rat, reading.plmn) == ("registered", "lte", "51010")
    assert (reading.cell_id, reading.tac, reading.pci) == (27439875, 24011, 211)
    assert reading.rsrp_dbm is not None
    assert -110 <= reading.rsrp_dbm <= -106
    assert modem.unreadable == 0


def test_identity_is_the_imei_and_the_home_network(port: AtPort) -> None:
    assert AtModem(port, QUECTEL).identify() == Identity("867698040000000", "51010")


def test_a_missing_sim_is_no_home_network(tmp_path: Path) -> None:
    with EmulatedModem(load(_written(tmp_path, '"AT+CIMI" = ["+CME ERROR: 10"]'))) as emulated:
        assert AtModem(AtPort(emulated.device), QUECTEL).identify() == Identity("867698040000000", None)


def test_a_modem_that_refuses_everything_still_answers(tmp_path: Path) -> None:
    with EmulatedModem(load(_written(tmp_path, '"AT+CSQ" = ["ERROR"]'))) as emulated:
        assert AtModem(AtPort(emulated.device), QUECTEL).poll().as_dict() == {"state": "unknown"}


def test_unreadable_lines_are_counted_and_the_rest_is_used(tmp_path: Path) -> None:
    reply = """'AT+QENG="servingcell"' = ['+QIND: "csq",9', '+QENG: "servingcell","SEARCH"', '\u00bf?']"""
    with EmulatedModem(load(_written(tmp_path, reply))) as emulated:
        modem = AtModem(AtPort(emulated.device), QUECTEL)
        assert modem.poll().state == "no_service"
        assert modem.unreadable == 2


def test_a_poll_of_a_hung_modem_fails_within_its_time(emulated: EmulatedModem, port: AtPort) -> None:
    modem = AtModem(port, QUECTEL, command_s=0.3, poll_s=0.7)
    modem.poll()
    emulated.hang()
    started = time.monotonic()
    with pytest.raises(ModemUnavailable, match="no complete reply in time"):
        modem.poll()
    assert 0.7 <= time.monotonic() - started < 1.5
    emulated.resume()
    assert modem.poll().state == "registered"


def test_a_restarted_modem_is_found_under_its_link_and_set_up_again(village: Scenario, tmp_path: Path) -> None:
    link = tmp_path / "modem"
    truth = tmp_path / "truth.jsonl"
    port = AtPort(str(link))
    modem = AtModem(port, QUECTEL)
    for session in (1, 2):
        with EmulatedModem(village, truth, link):
            assert modem.poll().state == "registered"
            assert port.session == session
    for cause in ("the device hung up", "No such file"):
        with pytest.raises(ModemUnavailable, match=cause):
            modem.poll()
    assert truth.read_text(encoding="utf-8").count('"ATE0"') == 2
    port.close()


class Scripted:
    """A port that answers from a table; None is a command that is never answered."""

    def __init__(self, replies: dict[str, list[str] | None]) -> None:
        self.replies = replies
        self.asked: list[str] = []
        self.session = 1

    def open(self) -> int:
        return 0

    def exchange(self, command: str, timeout_s: float) -> list[str]:
        assert 0 < timeout_s <= COMMAND_S
        self.asked.append(command)
        reply = self.replies.get(command, ["OK"])
        if reply is None:
            raise ModemUnavailable("silent")
        return reply


def test_a_poll_uses_the_commands_that_were_answered() -> None:
    port = Scripted({'AT+QENG="servingcell"': None, "AT+QCSQ": None, "AT+CEREG?": ["+CEREG: 2,3", "OK"]})
    assert AtModem(port, QUECTEL).poll().as_dict() == {"state": "denied"}
    assert port.asked == [*QUECTEL.setup, *QUECTEL.poll]


def test_a_poll_without_an_answer_is_unavailable() -> None:
    port = Scripted(dict.fromkeys(QUECTEL.poll))
    with pytest.raises(ModemUnavailable, match="silent"):
        AtModem(port, QUECTEL).poll()


def test_a_poll_ends_when_its_time_is_up() -> None:
    port = Scripted({"AT+CEREG?": ["+CEREG: 0,1"]})
    slow = AtModem(port, QUECTEL, poll_s=1.5 * (len(QUECTEL.setup) + 3), monotonic=lambda: 1.5 * len(port.asked))
    assert slow.poll().state == "registered"
    assert port.asked == [*QUECTEL.setup, *QUECTEL.poll[:3]]
