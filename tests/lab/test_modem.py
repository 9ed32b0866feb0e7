"""The emulator: scenarios as timed steps, and the truth file before the reply."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from banua_lab.modem import EmulatedModem
from banua_lab.scenario import SCENARIOS, Player, ScenarioError, load

BASE = """
about = "a test"
dialect = "3gpp"
[identity]
manufacturer = "Maker"
model = "Model"
imei = "867698040000000"
imsi = "510101234567890"
[replies]
"AT+CEREG?" = ["+CEREG: 0,1"]
"AT+CSQ" = ["+CSQ: {level},99"]
[walk.level]
advance_on = "AT+CSQ"
start = 10
low = 8
high = 12
step = 3
seed = 1
"""
STEPS = """
[[step]]
after_s = 10
[step.replies]
"AT+CEREG?" = ["+CEREG: 0,2"]
[[step]]
after_s = 20
hang = true
[[step]]
after_s = 30
[step.replies]
"AT+CEREG?" = ["+CME ERROR: 10"]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "scenario.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("at_s", "hangs", "reply"),
    [
        (0, False, ["+CEREG: 0,1", "OK"]),
        (9.9, False, ["+CEREG: 0,1", "OK"]),
        (10, False, ["+CEREG: 0,2", "OK"]),
        (20, True, ["+CEREG: 0,2", "OK"]),
        (29.9, True, ["+CEREG: 0,2", "OK"]),
        (30, False, ["+CME ERROR: 10"]),
        (9999, False, ["+CME ERROR: 10"]),
    ],
)
def test_a_scenario_plays_its_steps(tmp_path: Path, at_s: float, hangs: bool, reply: list[str]) -> None:
    player = Player(load(written(tmp_path, BASE + STEPS)))
    assert (player.hangs(at_s), player.reply("AT+CEREG?", at_s)) == (hangs, reply)


def test_a_walk_moves_at_its_command_only_within_its_bounds_and_the_same_each_time(tmp_path: Path) -> None:
    scenario = load(written(tmp_path, BASE))
    first, second = Player(scenario), Player(scenario)
    walked = [first.reply("AT+CSQ", 0) for _ in range(50)]
    assert walked == [second.reply("AT+CSQ", 0) for _ in range(50) if second.reply("AT+CEREG?", 0)]
    levels = {int(reply[0].split(" ")[1].split(",")[0]) for reply in walked}
    assert levels <= set(range(8, 13))
    assert len(levels) > 2


def test_a_modem_says_who_it_is_and_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    player = Player(load(written(tmp_path, BASE)))
    asked = ("AT", "AT+CGMI", "AT+CGMM", "AT+CGSN", "AT+CIMI", "AT+QENG")
    assert [player.reply(command, 0) for command in asked] == [
        ["OK"],
        ["Maker", "OK"],
        ["Model", "OK"],
        ["867698040000000", "OK"],
        ["510101234567890", "OK"],
        ["ERROR"],
    ]


@pytest.mark.parametrize("name", sorted(path.stem for path in SCENARIOS.glob("*.toml")))
def test_a_shipped_scenario_can_be_played(name: str) -> None:
    scenario = load(name)
    player = Player(scenario)
    assert all(player.reply(command, 0)[-1] == "OK" for command in scenario.replies)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BASE.replace("seed = 1", 'seed = "x"'), r"Expected `int`, got `str` - at `\$.walk\[...\].seed`"),
        ('colour = "red"' + BASE, "Object contains unknown field `colour`"),
        (BASE.replace("start = 10", "start = 1"), "walk level starts outside of 8…12"),
        (BASE.replace("{level}", "{volume}"), r"reply to AT\+CSQ uses 'volume', which has no value"),
        (BASE + '[derived.x]\nof = "y"\nplus = 1\n', "derived value x is of y, which is no walk"),
        (BASE + "[[step]]\nafter_s = 9\n[[step]]\nafter_s = 8\n", "steps are not in the order of after_s"),
        ("about = ", "Invalid value"),
    ],
)
def test_a_bad_scenario_is_refused_with_its_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=f"scenario.toml: {message}"):
        load(written(tmp_path, text))


def test_an_absent_scenario_is_refused() -> None:
    with pytest.raises(ScenarioError, match=r"nowhere.toml: No such file"):
        load("nowhere")


def test_every_reply_is_written_down_before_it_is_sent(tmp_path: Path) -> None:
    truth = tmp_path / "truth.jsonl"
    before_ns, before_ms = time.time_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
    with EmulatedModem(load("village-lte"), truth) as modem:
        fd = os.open(modem.device, os.O_RDWR | os.O_NOCTTY)
        os.write(fd, b"AT+CPIN?\r")
        received = b""
        while b"OK" not in received:
            received += os.read(fd, 4096)
        (told,) = (json.loads(line) for line in truth.read_text(encoding="utf-8").splitlines())
        os.close(fd)
    assert received == b"AT+CPIN?\r\r\n+CPIN: READY\r\n\r\nOK\r\n"
    assert (told["command"], told["reply"]) == ("AT+CPIN?", ["+CPIN: READY", "OK"])
    assert before_ns <= told["wall_ns"] <= time.time_ns()
    assert before_ms <= told["boottime_ms"] <= time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def test_a_served_modem_lives_until_it_is_told_to_stop(tmp_path: Path) -> None:
    link = tmp_path / "modem"
    code = f"from banua_lab.modem import serve; raise SystemExit(serve('no-service', {str(link)!r}, None))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"modem on {link}\n"
        assert link.is_symlink()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert not link.is_symlink()
