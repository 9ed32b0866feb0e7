"""`banua-probe` as a technician meets it: a process, its output, exit code and one line where something is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from nacl.signing import SigningKey

from banua_probe.outbox_file import EVICTABLE
from tests.probe.outboxes import Bench, tick

if TYPE_CHECKING:
    from pathlib import Path


def banua_probe(*arguments: str | Path, stdin: str = "", hide: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    if hide is not None:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(hide), environment.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, "-c", "import sys; from banua_probe.cli import main; sys.exit(main())", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "probe.toml"
    file.write_text('name = "kalsel-0001"\nstate_dir = "state"\n[broker]\nhost = "localhost"\ntls = false\n')
    return file


def test_decode_prints_one_object_a_reply() -> None:
    """Replies and answers are the reference's own."""
    replies = '+QENG: "servingcell","LIMSRV","LTE","FDD",460,11,6935932,30,1825,3,4,4,6934,-115,-13,-83,13,0\r\n'
    replies += '\r\nOK\r\n+QENG: "servingcell","SEARCH"\r\n'
    done = banua_probe("decode", "--dialect", "quectel", stdin=replies)
    assert (done.returncode, done.stderr) == (0, "")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {
            "state": "limited", "rat": "lte", "plmn": "46011", "cell_id": 110319922, "pci": 30, "earfcn": 1825,
            "band": 3,
            "tac": 26932, "rsrp_dbm": -115, "rsrq_db": -13, "rssi_dbm": -83, "sinr_raw": 13, "sinr_db": 6,
            "sinr_formula": "quectel_2x-20",
        },
        {"state": "no_service"},
    ]  # fmt: skip


def test_decode_of_an_unreadable_line_says_so_reads_on_and_exits_1() -> None:
    done = banua_probe("decode", "--dialect", "3gpp", stdin="+CSQ: none\n+CSQ: 28,99\n")
    assert done.returncode == 1
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["line"] == 1
    assert first["error"]
    assert second == {"state": "unknown", "rssi_dbm": -57}


def test_init_makes_the_key_once_for_its_owner_alone_and_prints_the_public_half(config: Path) -> None:
    first = banua_probe("init", "--config", config)
    key = config.parent / "state" / "probe.key"
    assert (first.returncode, first.stderr) == (0, "")
    assert key.stat().st_mode & 0o777 == 0o600
    secret = key.read_text()
    assert first.stdout == SigningKey(bytes.fromhex(secret.strip())).verify_key.encode().hex() + "\n"
    assert secret.strip() not in first.stdout
    again = banua_probe("init", "--config", config)
    assert (again.stdout, key.read_text()) == (first.stdout, secret)


def test_init_refuses_a_key_that_others_can_read(config: Path) -> None:
    banua_probe("init", "--config", config)
    key = config.parent / "state" / "probe.key"
    key.chmod(0o644)
    done = banua_probe("init", "--config", config)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"banua-probe: key_file: {key} may be read by others (mode 644); chmod 600 {key}\n"


def test_a_place_where_no_key_can_be_made_is_one_line(config: Path) -> None:
    (config.parent / "state").write_text("a file, not a folder")
    done = banua_probe("init", "--config", config)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"banua-probe: {config.parent}/state")


def test_check_config(config: Path) -> None:
    done = banua_probe("check-config", "--config", config)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{config}: good; probe kalsel-0001, 0 modem(s), 1 target(s)\n"
    config.write_text(config.read_text() + "colour = 1\n")
    done = banua_probe("check-config", "--config", config)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"banua-probe: {config}: broker.colour: unknown key\n"


def test_measure_prints_a_row_of_every_sensor(config: Path) -> None:
    config.write_text(
        config.read_text()
        + '[[path]]\ntarget = "t"\nhost = "127.0.0.1"\nmethod = "tcp"\nport = 9\ncount = 1\ninterval_ms = 20\n'
        + f'[[modem]]\nname = "m1"\ndevice = "{config.parent}/nosuch"\ndialect = "3gpp"\n'
    )
    done = banua_probe("measure", "--json", "--config", config)
    assert (done.returncode, done.stderr) == (0, "")
    rows = {row["kind"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert set(rows) == {"board", "path", "hops", "radio"}, "the train failed, and is traced"
    assert rows["board"]["uptime_s"] >= 0
    assert (rows["path"]["target"], rows["path"]["method"]) == ("t", "tcp")
    assert (rows["radio"]["polls"], rows["radio"]["polls_failed"]) == (1, 1)
    assert "state" not in rows["radio"]
    plain = banua_probe("measure", "--config", config)
    assert "board: uptime_s " in plain.stdout


def test_outbox_counts_what_there_is(config: Path) -> None:
    done = banua_probe("outbox", "--config", config)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"banua-probe: state_dir: no outbox yet at {config.parent}/state/outbox.db\n"
    bench = Bench(config.parent / "state")
    outbox = bench.open()
    for n in (1, 2, 3):
        outbox.add(tick(n))
        outbox.seal()
    outbox.mark(outbox.oldest(1, without=())[0], EVICTABLE)
    outbox.add(tick(4))
    outbox.commit()
    told = {"waiting": 2, "evictable": 1, "refused": 0, "set_aside": 0, "open_rows": 1, "rows_aside": 0}
    done = banua_probe("outbox", "--json", "--config", config)  # while the probe runs
    assert json.loads(done.stdout) == told
    bench.close()
    assert json.loads(banua_probe("outbox", "--json", "--config", config).stdout) == told  # and when it does not
    assert banua_probe("outbox", "--config", config).stdout.splitlines()[0].split() == ["waiting", "2"]


def test_a_file_that_is_no_outbox_is_one_line(config: Path) -> None:
    (config.parent / "state").mkdir()
    (config.parent / "state/outbox.db").write_text("no database at all, but long enough to look" * 20)
    done = banua_probe("outbox", "--config", config)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "not a database" in done.stderr


def test_without_the_extra_run_names_the_install_command_and_the_rest_works(config: Path) -> None:
    hide = config.parent / "hide"
    hide.mkdir()
    (hide / "sitecustomize.py").write_text('import sys\nsys.modules["paho"] = None\n')
    banua_probe("init", "--config", config)
    done = banua_probe("run", "--config", config, hide=hide)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "banua-probe: paho is missing; pip install 'sinyal-banua[probe]'\n"
    assert banua_probe("check-config", "--config", config, hide=hide).returncode == 0


def test_run_without_a_key_says_what_makes_one(config: Path) -> None:
    done = banua_probe("run", "--config", config)
    assert (done.returncode, done.stdout) == (1, "")
    key = config.parent / "state/probe.key"
    assert done.stderr == f"banua-probe: key_file: {key} is missing; `banua-probe init` makes it\n"


def test_no_command_is_a_usage_error() -> None:
    done = banua_probe()
    assert done.returncode == 2
    assert "usage: banua-probe" in done.stderr
