"""The command line, as an administrator uses it: every command on a real database, every refusal one line."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, select, update

from banua_collector import cli, db, registry
from banua_collector.clock import wall_ms
from banua_collector.config import Config
from banua_collector.tables import boots, deployments, journal, quarantine, refused, todo, written
from banua_wire import batch, signature
from banua_wire.envelope import Envelope
from banua_wire.fields import SCHEMA
from tests.collector.fleet import BOOT, NOW_MS, SECRET, add_batch, radio
from tests.collector.history import hear
from tests.collector.speech import message

_KEY = "ab" * 32
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def config(tmp_path: Path, engine: Engine) -> Path:
    """Settings whose database is the `engine` fixture's."""
    path = tmp_path / "collector.toml"
    text = f'state_dir = "{tmp_path}"\n[broker]\nhost = "localhost"\ntls = false\n'
    if engine.dialect.name == db.POSTGRESQL:
        password = tmp_path / "database-password"
        password.write_text(str(engine.url.password))
        password.chmod(0o600)
        where = f"{engine.url.username}@{engine.url.host}:{engine.url.port}/{engine.url.database}"
        text += f'[database]\nurl = "postgresql://{where}"\npassword_file = "database-password"\n'
    path.write_text(text)
    return path


@pytest.fixture
def run(config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line; returns exit status, stdout and stderr."""
    monkeypatch.setenv(cli.CONFIG_VARIABLE, str(config))

    def run_line(line: str) -> tuple[int, str, str]:
        try:
            status = cli.main(shlex.split(line))
        except SystemExit as exit_:
            status = int(str(exit_.code))
        return status, *capsys.readouterr()

    return run_line


@pytest.fixture
def deployed(run: Run) -> Run:
    """A probe p1 that stands at tabanio-1 since the morning."""
    for line in (
        "places add 63.01.01.2002 tabanio-1 'Balai desa' --lat -3.7568 --lon 114.6322",
        "places add 63.01.01.2002 tabanio-2 Masjid",
        f"probes add p1 --key {_KEY}",
        "deployments add p1 tabanio-1 --from 2025-10-09T08:00+08:00 --power-source PLN",
    ):
        status, _, err = run(line)
        assert (status, err) == (0, "")
    return run


def _lines(run: Run, line: str) -> list[dict[str, object]]:
    status, out, err = run(f"{line} --json")
    assert (status, err) == (0, "")
    return [json.loads(each) for each in out.splitlines()]


def test_check_config_says_ok_or_every_problem(run: Run, config: Path) -> None:
    assert run(f"check-config --config {config}") == (0, f"{config}: ok\n", "")
    config.write_text(config.read_text().replace("tls = false\n", "tls = false\nport = 70000\n[web]\nport = 0\n"))
    problems = ("broker.port: 70000 is outside 1…65535", "web.port: 0 is outside 1…65535")
    told = "".join(f"banua-collector: {config}: {problem}\n" for problem in problems)
    assert run(f"check-config --config {config}") == (1, "", told)


def test_villages_are_loaded_and_found(run: Run) -> None:
    assert run("villages load") == (0, "2016 villages of Kepmendagri 300.2.2-2138/2025; 2016 changed\n", "")
    assert run("villages load")[1].endswith("; 0 changed\n")
    assert run("villages find tabanio")[1] == (
        "CODE           NAME     DISTRICT  REGENCY\n63.01.01.2002  Tabanio  Takisung  Kabupaten Tanah Laut\n"
    )
    assert run("villages find nowhere")[1] == "no such village\n"


def test_a_probe_is_registered_placed_and_listed(deployed: Run) -> None:
    assert [(place["name"], place["latitude"]) for place in _lines(deployed, "places list")] == [
        ("tabanio-1", -3.7568),
        ("tabanio-2", None),
    ]
    (deployment,) = _lines(deployed, "deployments list")
    assert deployment == {
        "id": 1,
        "probe": "p1",
        "place": "tabanio-1",
        "village": "Tabanio",
        "from": "2025-10-09T00:00:00Z",
        "to": None,
        "power_source": "PLN",
        "supply_hours": None,
        "antenna": None,
        "connectivity": "online",
    }
    (probe,) = _lines(deployed, "probes list")
    assert (probe["name"], probe["simulated"], probe["keys"]) == ("p1", False, [f"{_KEY[:16]} valid"])


def test_a_deployment_is_moved_corrected_and_ended(deployed: Run, engine: Engine) -> None:
    assert deployed("deployments add p1 tabanio-2 --from 2025-10-10T08:00+08:00")[0] == 1
    assert deployed("deployments add p1 tabanio-2 --from 2025-10-10T08:00+08:00 --end-open")[:2] == (
        0,
        "deployment 2 added; 0 batches are written anew\n",
    )
    assert deployed("deployments correct 1 --from 2025-10-09T09:00+08:00 --antenna Yagi")[0] == 0
    assert deployed("deployments end 2 --at 2025-10-11T00:00Z")[0] == 0
    assert deployed("deployments correct 2 --open")[0] == 0
    with db.reading(engine) as conn:
        found = conn.execute(select(deployments).order_by(deployments.c.id)).all()
    assert [(one.from_ms, one.to_ms, one.antenna, one.power_source) for one in found] == [
        (1_759_971_600_000, 1_760_054_400_000, "Yagi", "PLN"),
        (1_760_054_400_000, None, None, None),
    ]


def test_a_changed_deployment_makes_what_was_written_in_its_time_due(deployed: Run, engine: Engine) -> None:
    with engine.begin() as conn:
        add_batch(conn, "p1", 1, [radio(5)], NOW_MS)
        conn.execute(
            insert(written).values(
                projection="influx",
                batch_id=1,
                probe_id=1,
                first_ms=NOW_MS,
                last_ms=NOW_MS,
                digest=b"d",
                withheld=0,
                noted_ms=1,
            )
        )
    assert deployed("deployments correct 1 --place tabanio-2")[1] == (
        "deployment 1 corrected; 1 batches are written anew\n"
    )
    with db.reading(engine) as conn:
        assert [row.batch_id for row in conn.execute(select(todo))] == [1]


def test_keys_are_added_retired_and_revoked(deployed: Run) -> None:
    assert deployed(f"probes add p1 --key {'cd' * 32}")[:2] == (0, "probe p1 has 2 keys now\n")
    assert deployed("probes key-retire p1 abab")[1] == "key abababababababab… of probe p1 is retired\n"
    assert deployed("probes key-revoke p1 cd")[1] == "key cdcdcdcdcdcdcdcd… of probe p1 is revoked\n"
    assert _lines(deployed, "probes list")[0]["keys"] == ["abababababababab retired", "cdcdcdcdcdcdcdcd revoked"]


def test_a_simulated_probe_is_listed_as_such(run: Run) -> None:
    assert run(f"probes add sim --key {_KEY} --simulated")[0] == 0
    assert _lines(run, "probes list")[0]["simulated"] is True


@pytest.mark.parametrize("standing", ["released", "dropped"])
def test_a_held_boot_is_assigned_by_a_person(deployed: Run, engine: Engine, standing: str) -> None:
    with engine.begin() as conn:
        add_batch(conn, "p1", 1, [radio(5)], NOW_MS)
        conn.execute(update(boots).values(standing="held"))
    assert _lines(deployed, "probes boots p1")[0]["standing"] == "held"
    assert deployed(f"probes assign p1 {BOOT.hex()[:4]} {standing}")[:2] == (
        0,
        f"boot {BOOT.hex()} of probe p1 is {standing}\n",
    )
    assert _lines(deployed, "probes boots p1")[0]["standing"] == standing


def test_the_journal_is_listed_and_a_batch_shown_row_by_row(deployed: Run, engine: Engine) -> None:
    with engine.begin() as conn:
        add_batch(conn, "p1", 1, [radio(5), radio(6, rsrp_dbm=-99)], NOW_MS)
        add_batch(conn, "p1", 2, [radio(7)], NOW_MS)
    assert [(one["id"], one["seq"], one["rows"]) for one in _lines(deployed, "journal list --probe p1")] == [
        (2, 2, 1),
        (1, 1, 2),
    ]
    assert len(_lines(deployed, "journal list --limit 1")) == 1
    rows = _lines(deployed, "journal show 1")
    assert [(row["seq"], row["kind"], row["boottime_ms"]) for row in rows] == [(1, "radio", 5), (1, "radio", 6)]
    assert deployed("journal show 1")[1].startswith("KIND   BOOTTIME_MS  VALUES\nradio  5            {'modem': 'm1'")
    (info,) = _lines(deployed, "journal info")
    assert (info["probes"], info["batches"], info["quarantine"], info["held_boots"]) == (1, 2, 0, 0)


def test_the_quarantine_is_listed_shown_with_its_way_out_and_judged_again(deployed: Run, engine: Engine) -> None:
    sealed = batch.seal(SECRET, Envelope("p1", b"s" * 8, 3, BOOT, SCHEMA), [radio(9)])
    assert deployed("journal quarantine list")[1] == "nothing in quarantine\n"
    with engine.begin() as conn:
        for number, message in enumerate([sealed, b"BNUA?"]):
            conn.execute(
                insert(quarantine).values(
                    probe_name="p1",
                    topic="banua/v1/p1/batch",
                    reason="bad_signature",
                    detail="made with none of the probe's 1 keys",
                    hash=batch.digest(sealed) if number == 0 else b"?",
                    received_ms=NOW_MS,
                    message=message,
                )
            )
    assert [one["reason"] for one in _lines(deployed, "journal quarantine list")] == ["bad_signature"] * 2
    assert _lines(deployed, "journal quarantine list --reason conflict") == []
    assert _lines(deployed, "journal quarantine show 1")[0]["seq"] == 3
    told = deployed("journal quarantine show 1")[1].splitlines()
    assert told[:2] == [
        "bad_signature: made with none of the probe's 1 keys",
        "way out: add the key that it was signed with to the probe, if it is the probe's own, then replay",
    ]
    (unreadable,) = _lines(deployed, "journal quarantine show 2")
    assert (unreadable["message"], unreadable["detail"]) == (b"BNUA?".hex(), "made with none of the probe's 1 keys")
    assert deployed(f"probes add p1 --key {signature.public_of(SECRET).hex()}")[0] == 0
    assert _lines(deployed, "journal quarantine replay --all") == [
        {"was": "bad_signature", "is": "journalled", "messages": 1},
        {"was": "bad_signature", "is": "unreadable", "messages": 1},
    ]
    assert _lines(deployed, "journal quarantine replay 2")[0]["is"] == "unreadable"
    assert [one["id"] for one in _lines(deployed, "journal quarantine list")] == [2]


def test_refused_points_are_listed_shown_and_sent_again(deployed: Run, engine: Engine) -> None:
    assert deployed("journal refused list")[1] == "InfluxDB has refused nothing\n"
    with engine.begin() as conn:
        add_batch(conn, "p1", 1, [radio(5)], NOW_MS)
        for batch_id in (1, 99):
            point = {"line": "radio x=1 1", "reason": "too old", "noticed_ms": NOW_MS}
            conn.execute(insert(refused).values(projection="influx", probe_id=1, batch_id=batch_id, **point))
    assert [one["reason"] for one in _lines(deployed, "journal refused list --probe p1")] == ["too old"] * 2
    assert _lines(deployed, "journal refused show 1")[0]["line"] == "radio x=1 1"
    assert deployed("journal refused replay")[1] == "1 batches are written anew; 1 are archived: import them first\n"
    assert deployed("journal refused replay 1")[1] == "1 batches are written anew\n"


def test_a_journal_is_written_anew_on_demand(deployed: Run, engine: Engine) -> None:
    with engine.begin() as conn:
        add_batch(conn, "p1", 1, [radio(5)], NOW_MS)
        for batch_id, first_ms in ((1, NOW_MS), (77, NOW_MS + 9)):
            span = {"first_ms": first_ms, "last_ms": first_ms, "digest": b"d", "withheld": 0}
            conn.execute(insert(written).values(projection="influx", batch_id=batch_id, probe_id=1, noted_ms=1, **span))
    archived = "; archived batches measured in that time: 1 of 2025-10: import them first to have them written anew"
    assert deployed("journal replay")[1] == f"1 batches are written anew{archived}\n"
    assert deployed("journal replay --probe p1 --to 2025-10-01T00:00Z")[1] == "1 batches are written anew\n"
    assert deployed("deployments correct 1 --place tabanio-2")[1].endswith(f"anew{archived}\n")
    with db.reading(engine) as conn:
        assert conn.execute(select(written.c.digest)).scalars().all() == [None, None]
        assert [row.batch_id for row in conn.execute(select(todo))] == [1]


def test_months_go_out_are_proven_and_come_back(deployed: Run, engine: Engine, config: Path) -> None:
    out = config.parent / "out"
    assert deployed(f"probes add p1 --key {signature.public_of(SECRET).hex()}")[0] == 0
    hear(engine, message(1, received_ms=NOW_MS), message(2, received_ms=wall_ms()))
    assert deployed(f"journal export --month 2025-10 --to {out} --remove")[2] == (
        "banua-collector: 1 batches of 2025-10 are still to be written to InfluxDB: they stay until they are\n"
    )
    with engine.begin() as conn:
        conn.execute(todo.delete())
    (exported,) = _lines(deployed, f"journal export --month 2025-10 --to {out}")
    assert (exported["batches"], exported["rows"], exported["removed"]) == (1, 1, False)
    status, told, err = deployed(f"journal retain --days 90 --to {out}")
    assert (status, err) == (0, "")
    assert told == f"2025-10: 1 batches moved to {out / str(exported['file'])}\n1 batches removed\n"
    assert _lines(deployed, "journal info")[0]["archived"] == 1
    (proven,) = _lines(deployed, f"journal verify {out / str(exported['file'])}")
    assert proven["rows_sha256"] == exported["rows_sha256"]
    known = "0 batches journalled, {} put back, {} were here already; 0 put into quarantine\n"
    assert deployed(f"journal import {out / str(exported['file'])}") == (0, known.format(1, 0), "")
    assert deployed(f"journal import {out / str(exported['file'])}") == (0, known.format(0, 1), "")
    why = "1 batches of 2025-10 are still to be written to InfluxDB: they stay until they are\n"
    told = f"2025-10: stays: {why}0 batches removed\n"
    assert deployed(f"journal retain --days 90 --to {out}") == (1, told, f"banua-collector: {why}")


def test_a_restored_journal_has_a_new_name_and_everything_due(deployed: Run, engine: Engine) -> None:
    with engine.begin() as conn:
        add_batch(conn, "p1", 1, [radio(5)], NOW_MS)
        before = conn.execute(select(journal.c.journal_id)).scalar_one()
    status, out, _ = deployed("journal restored")
    with db.reading(engine) as conn:
        after = conn.execute(select(journal.c.journal_id)).scalar_one()
        due = len(conn.execute(select(todo)).all())
    assert (status, out) == (0, f"the journal is {after.hex()} now; 1 batches are written anew\n")
    assert after != before
    assert due == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "places add 63.99.99.9999 a A",
            "village '63.99.99.9999' is not in the list (find it with: villages find NAME)",
        ),
        ("deployments end 9 --at 2025-10-09T08:00+08:00", "there is no deployment 9"),
        ("probes add P1 --key " + _KEY, "'P1' is not a probe name: 1 to 32 of a–z, 0–9 and '-', no '-' at either end"),
        ("probes add p2 --key abc", "key 'abc' is not 64 hexadecimal digits"),
        ("probes boots p2", "probe p2 is not registered"),
        ("probes assign p1 77 released", "probe p1 has 0 boots that begin with '77'"),
        ("journal show 9", "there is no batch 9"),
        ("journal quarantine show 9", "there is no message 9 in quarantine"),
        ("journal refused show 9", "there is no refused point 9"),
        ("journal export --month 2025-7 --to /nowhere", "'2025-7' is not a month like 2026-11"),
        ("journal verify /nowhere/a.journal", "/nowhere/a.json: No such file or directory"),
        ("journal retain --days 89", "--days 89: the last 90 days stay in the journal"),
        ("journal list --probe p2", "probe p2 is not registered"),
        ("probes add p1 --simulated --key " + "cd" * 32, "probe p1 is registered already, and not as simulated"),
        ("probes add p2 --key " + _KEY, "key abababababababab… belongs to probe p1 already"),
        (
            "probes add collector --key " + "cd" * 32,
            "collector cannot name a probe: the broker would take it for the collector",
        ),
        (
            "deployments correct 1 --connectivity radio",
            "connectivity 'radio' is not one of online, sometimes, by_hand",
        ),
        (
            "deployments end 1 --at 2025-10-09T08:00",
            "'2025-10-09T08:00' has no offset: write it like 2025-10-09T08:00+08:00 (WITA)",
        ),
        ("deployments end 1 --at today", "'today' is not a time like 2026-11-24T08:00+08:00"),
        ("deployments end 1 --at 1969-12-31T23:59Z", "'1969-12-31T23:59Z' is before 1970"),
    ],
)
def test_a_refusal_is_one_line_and_exit_1(deployed: Run, line: str, message: str) -> None:
    assert deployed(line) == (1, "", f"banua-collector: {message}\n")


def test_a_refused_command_changes_nothing(deployed: Run, engine: Engine) -> None:
    assert deployed("deployments add p1 tabanio-2 --from 2025-10-08T08:00+08:00 --to 2025-10-07T08:00+08:00")[0] == 1
    assert deployed("deployments add p1 nowhere --from 2025-10-10T08:00+08:00 --end-open")[0] == 1
    with db.reading(engine) as conn:
        (only,) = registry.list_deployments(conn)
    assert only.to_ms is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("deployments correct 1 --open --to 2025-10-09T08:00Z", "argument --to: not allowed with argument --open"),
        ("probes", "the following arguments are required: COMMAND"),
    ],
)
def test_wrong_usage_is_explained_and_exits_2(run: Run, line: str, message: str) -> None:
    status, out, err = run(line)
    assert (status, out) == (2, "")
    assert err.endswith(f"error: {message}\n")


def test_a_database_that_is_none_is_one_line(run: Run, config: Path) -> None:
    (config.parent / "other").mkdir()
    (config.parent / "other" / "banua.sqlite").write_text("this is no database at all, whatever its name says")
    config.write_text(f'state_dir = "{config.parent}/other"\n[broker]\nhost = "localhost"\ntls = false\n')
    status, out, err = run("journal info")
    assert (status, out) == (1, "")
    assert err.startswith("banua-collector: database: ")
    assert err.count("\n") == 1


def test_settings_stand_where_the_option_the_environment_or_else_the_custom_says(
    run: Run, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = f"{config.parent}/nowhere.toml"
    missing = (1, "", f"banua-collector: {nowhere}: No such file or directory\n")
    assert run(f"journal info --config {nowhere}") == missing
    monkeypatch.setenv(cli.CONFIG_VARIABLE, nowhere)
    assert run("journal info") == missing
    monkeypatch.delenv(cli.CONFIG_VARIABLE)
    assert cli.DEFAULT_CONFIG == "/etc/banua-collector.toml"
    if not Path(cli.DEFAULT_CONFIG).exists():
        assert run("journal info")[2] == f"banua-collector: {cli.DEFAULT_CONFIG}: No such file or directory\n"


def test_run_runs_the_collector_with_the_settings(run: Run, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from banua_collector import app

    given: list[Path] = []

    def stand_in(settings: Config) -> int:
        given.append(settings.state_dir)
        return 0

    monkeypatch.setattr(app, "run", stand_in)
    assert run("run") == (0, "", "")
    assert given == [config.parent]


def test_the_command_line_itself_needs_the_standard_library_alone() -> None:
    code = (
        "import sys, banua_collector.cli\n"
        "before = set(sys.stdlib_module_names) | {'banua_collector', '__main__'}\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} - before - set(sys.argv[1:])))\n"
    )
    bare = subprocess.run(
        [sys.executable, "-c", "import sys; print(*{n.split('.')[0] for n in sys.modules})"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    found = subprocess.run([sys.executable, "-c", code, *bare], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_a_missing_extra_is_one_line_that_names_the_command(config: Path) -> None:
    code = (
        "import sys; sys.modules['sqlalchemy'] = None\n"
        "from banua_collector.cli import main\n"
        "sys.exit(main(['journal', 'info', '--config', sys.argv[1]]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(config)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "",
        "banua-collector: sqlalchemy is missing; pip install 'sinyal-banua[collector]'\n",
    )
