"""The settings file: what is right is taken with its defaults, what is wrong is named in one line each."""

import re
import tomllib
from pathlib import Path

import pytest

from banua_collector import config
from banua_collector.config import Config, load, read_secret
from banua_collector.errors import ConfigError

_EXAMPLE = Path(__file__).parents[2] / "deploy" / "collector.example.toml"
_PLAIN = "broker.tls: false is allowed only when host is this machine (localhost, 127.0.0.1, ::1), not mqtt.example.org"
_GOOD = 'state_dir = "state"\n[broker]\nhost = "mqtt.example.org"\n'


def _write(folder: Path, text: str) -> Path:
    for name, mode in (("secret", 0o600), ("open", 0o644), ("empty", 0o600), ("ca.crt", 0o644)):
        (folder / name).write_text("" if name == "empty" else f"{name}\n")
        (folder / name).chmod(mode)
    (folder / "c.toml").write_text(text)
    return folder / "c.toml"


def test_what_is_not_said_has_the_documented_default(tmp_path: Path) -> None:
    loaded = load(_write(tmp_path, _GOOD))
    assert loaded.state_dir == tmp_path / "state"
    assert loaded.database.url == f"sqlite:///{tmp_path}/state/banua.sqlite"
    assert (loaded.broker.port, loaded.broker.tls, loaded.broker.protocol) == (8883, True, "auto")
    assert loaded.broker.password() is None
    assert loaded.influx is None
    assert (loaded.web.host, loaded.web.port) == ("127.0.0.1", 8080)
    assert loaded.limits.model_dump() == {
        "commit_max_batches": 200,
        "commit_wait_ms": 50,
        "quarantine_max_mb": 200,
    }


def test_relative_paths_start_at_the_files_folder(tmp_path: Path) -> None:
    loaded = load(
        _write(
            tmp_path,
            'state_dir = "/var/lib/x"\n[database]\nurl = "sqlite:///j.sqlite"\n'
            '[broker]\nhost = "h"\nca_file = "ca.crt"\nusername = "u"\npassword_file = "secret"\n',
        )
    )
    assert loaded.database.url == f"sqlite:///{tmp_path}/j.sqlite"
    assert loaded.broker.ca_file == tmp_path / "ca.crt"
    assert loaded.broker.password() == "secret"


def test_an_absolute_database_stays_where_it_is(tmp_path: Path) -> None:
    assert load(_write(tmp_path, _GOOD + '[database]\nurl = "sqlite:////srv/j.sqlite"\n')).database.url == (
        "sqlite:////srv/j.sqlite"
    )


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "::1"])
def test_without_tls_on_this_machine_the_port_is_1883(tmp_path: Path, host: str) -> None:
    assert load(_write(tmp_path, f'state_dir = "s"\n[broker]\nhost = "{host}"\ntls = false\n')).broker.port == 1883


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("", ["state_dir: is required", "broker: is required"]),
        (_GOOD.replace('"state"', "5"), ["state_dir: 5 is not a path"]),
        ('colour = "red"\n' + _GOOD, ["colour: is not a setting"]),
        (_GOOD + "prot = 1\n", ["broker.prot: is not a setting"]),
        (_GOOD + "port = 70000\n", ["broker.port: 70000 is outside 1…65535"]),
        (_GOOD + 'port = "8883"\n', ["broker.port: '8883' is not a whole number"]),
        (_GOOD + "port = true\n", ["broker.port: True is not a whole number"]),
        (_GOOD + "tls = 1\n", ["broker.tls: 1 is not true or false"]),
        (_GOOD + 'protocol = "4"\n', ["broker.protocol: '4' is not one of 'auto', '5' or '3.1.1'"]),
        (_GOOD + 'username = ""\n', ["broker.username: is empty"]),
        (_GOOD + "username = 7\n", ["broker.username: 7 is not a text"]),
        ('state_dir = "s"\nbroker = "h"\n', ["broker: 'h' is not a section"]),
        (
            _GOOD + "tls = false\n",
            [_PLAIN],
        ),
        (
            'state_dir = "s"\n[broker]\nhost = "::1"\ntls = false\nca_file = "ca.crt"\n',
            ["broker.ca_file: is of no use while tls is false"],
        ),
        (_GOOD + 'ca_file = "none.crt"\n', ["broker.ca_file: {folder}/none.crt: No such file or directory"]),
        (_GOOD + 'cert_file = "ca.crt"\n', ["broker.cert_file: needs key_file beside it"]),
        (_GOOD + 'key_file = "secret"\n', ["broker.key_file: needs cert_file beside it"]),
        (_GOOD + 'password_file = "secret"\n', ["broker.password_file: needs username beside it"]),
        (
            _GOOD + 'username = "u"\npassword_file = "open"\n',
            [
                "broker.password_file: {folder}/open may be read by others (mode 644); chmod 600 {folder}/open",
            ],
        ),
        (_GOOD + 'username = "u"\npassword_file = "empty"\n', ["broker.password_file: {folder}/empty is empty"]),
        (
            _GOOD + 'username = "u"\npassword_file = "none"\n',
            ["broker.password_file: {folder}/none: No such file or directory"],
        ),
        (
            _GOOD + '[database]\nurl = "postgresql://x/y"\n',
            ["database.url: 'postgresql://x/y' is not sqlite:///FILE or postgresql://USER@HOST[:PORT]/NAME"],
        ),
        (
            _GOOD + '[database]\nurl = "postgresql://u:p@x/y"\n',
            ["database.url: the address holds a password; put it into a file and name it in password_file"],
        ),
        (
            _GOOD + '[database]\nurl = "postgresql://u@x/y?sslmode=require"\n',
            ["database.url: sslmode 'require' is allowed only when the host is this machine; use verify-full"],
        ),
        (_GOOD + 'share = "a b"\n', ["broker.share: 'a b' is not 1 to 32 of a–z, 0–9 and '-'"]),
        (_GOOD + 'share = "all"\n', ["broker.share: needs PostgreSQL: SQLite serves one collector"]),
        (
            _GOOD + 'share = "all"\nprotocol = "3.1.1"\n[database]\nurl = "postgresql://u@x/y"\n',
            ["broker.share: needs MQTT 5"],
        ),
        (
            _GOOD + '[database]\nurl = "sqlite:///x"\npassword_file = "secret"\n',
            ["database.password_file: is of no use with SQLite"],
        ),
        (
            _GOOD + '[influx]\nurl = "influx:8086"\norg = "o"\ntoken_file = "open"\n',
            [
                "influx.url: 'influx:8086' is not http://HOST:PORT or https://HOST:PORT",
                "influx.bucket: is required",
                "influx.token_file: {folder}/open may be read by others (mode 644); chmod 600 {folder}/open",
            ],
        ),
        (
            _GOOD + "[web]\nport = 0\n[limits]\ncommit_max_batches = 1001\n",
            ["web.port: 0 is outside 1…65535", "limits.commit_max_batches: 1001 is outside 1…1000"],
        ),
        (_GOOD + "[limits]\ncommit_wait_ms = 1.5\n", ["limits.commit_wait_ms: 1.5 is not a whole number"]),
        ("state_dir = \n", ["not TOML: Invalid value (at line 1, column 13)"]),
    ],
)
def test_every_problem_is_one_line_that_names_file_and_setting(tmp_path: Path, text: str, problems: list[str]) -> None:
    path = _write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).splitlines() == [f"{path}: {line.format(folder=tmp_path)}" for line in problems]


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.toml: No such file or directory$"):
        load(tmp_path / "none.toml")


def test_a_secret_that_has_become_readable_is_refused_when_it_is_read(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("abc\n")
    secret.chmod(0o600)
    assert read_secret(secret) == "abc"
    secret.chmod(0o640)
    with pytest.raises(ConfigError, match="mode 640"):
        read_secret(secret)


def test_the_example_is_valid(tmp_path: Path) -> None:
    _write(tmp_path, _EXAMPLE.read_text())
    for name in ("broker-password", "influx-token"):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(0o600)
    loaded = load(tmp_path / "c.toml")
    assert loaded.influx is not None
    assert loaded.influx.token() == "x"


def test_the_example_shows_every_setting_and_the_true_defaults() -> None:
    text = _EXAMPLE.read_text()
    shown = tomllib.loads(re.sub(r"(?m)^# (?=\[|\w+ = )", "", text))
    assert shown.keys() == Config.model_fields.keys()
    for section, model in (
        ("database", config.Database),
        ("broker", config.Broker),
        ("influx", config.Influx),
        ("web", config.Web),
        ("limits", config.Limits),
    ):
        assert shown[section].keys() == model.model_fields.keys(), section
        for name, field in model.model_fields.items():
            if re.search(rf"(?m)^# {name} = ", text) and not field.is_required() and field.default is not None:
                assert shown[section][name] == field.default, f"{section}.{name}"
