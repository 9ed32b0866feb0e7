"""A bad configuration is refused with the field, the limit and the file; the example is a good one."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from banua_probe import config
from banua_probe.errors import ConfigError
from tests.real.parts import ROOT

GOOD = 'name = "kalsel-0001"\n[broker]\nhost = "localhost"\ntls = false\n'
MODEM = '[[modem]]\nname = "m1"\ndevice = "/dev/ttyUSB2"\ndialect = "quectel"\n'
PATH = '[[path]]\ntarget = "t"\nhost = "example.org"\nport = 443\n'


def write(folder: Path, text: str) -> Path:
    file = folder / "probe.toml"
    file.write_text(text)
    return file


def test_the_least_that_will_do(tmp_path: Path) -> None:
    loaded = config.load(write(tmp_path, GOOD))
    assert loaded.name == "kalsel-0001"
    assert loaded.outbox_file == Path("/var/lib/banua-probe/outbox.db")
    assert loaded.key_file == "/var/lib/banua-probe/probe.key"
    assert (loaded.schedule.commit_s, loaded.schedule.seal_s, loaded.outbox.max_mb) == (300, 300, 64)


def test_relative_files_are_relative_to_the_configuration(tmp_path: Path) -> None:
    for name in ("ca", "cert", "key", "word"):
        (tmp_path / name).touch(mode=0o600)
    (tmp_path / "word").write_text("sesame\n")
    text = """\
name = "a"
state_dir = "state"
[broker]
host = "mqtt.example.org"
ca_file = "ca"
cert_file = "cert"
key_file = "key"
password_file = "word"
"""
    loaded = config.load(write(tmp_path, text))
    assert loaded.broker.ca_file == str(tmp_path / "ca")
    assert loaded.broker.key_file == str(tmp_path / "key")
    assert loaded.broker.password() == "sesame"
    assert loaded.key_file == str(tmp_path / "state" / "probe.key")


PLAIN = "broker.tls: false is allowed on this machine only, not to"
REGEX = "expected `str` matching regex '^[a-z0-9][a-z0-9._-]{0,31}\\\\Z'"
OPEN = "FOLDER/open may be read by others (mode 644); chmod 600 FOLDER/open"
BAD: list[tuple[str, str]] = [
    ("", "name: missing"),
    ('name = "a"', "broker: missing"),
    (GOOD.replace("kalsel-0001", "Kalsel"), "name: 'Kalsel' is not 1 to 32 of a-z, 0-9 and '-'"),
    (GOOD.replace("kalsel-0001", "a" * 33), f"name: '{'a' * 33}' is not 1 to 32 of a-z, 0-9 and '-'"),
    (GOOD.replace('"kalsel-0001"', "5"), "name: expected `str`, got `int`"),
    ("colour = 1\n" + GOOD, "colour: unknown key"),
    (GOOD + "colour = 1\n", "broker.colour: unknown key"),
    (GOOD.replace('host = "localhost"\n', ""), "broker.host: missing"),
    (GOOD.replace("localhost", ""), "broker.host: expected `str` of length >= 1"),
    (GOOD + "port = 0\n", "broker.port: expected `int` >= 1"),
    (GOOD + "port = 65536\n", "broker.port: expected `int` <= 65535"),
    (GOOD + 'port = "1883"\n', "broker.port: expected `int`, got `str`"),
    (GOOD + 'protocol = "4"\n', "broker.protocol: invalid enum value '4'"),
    (GOOD.replace("localhost", "example.org"), f"{PLAIN} 'example.org'"),
    (GOOD.replace("localhost", "127.0.0.1.example.org"), f"{PLAIN} '127.0.0.1.example.org'"),
    (GOOD.replace("tls = false\n", ""), "broker.ca_file: missing; it names the certificate authority to trust"),
    (GOOD + 'cert_file = "c"\n', "broker.key_file: cert_file and key_file go together"),
    (GOOD + 'ca_file = "nosuch"\n', "broker.ca_file: FOLDER/nosuch: No such file or directory"),
    (GOOD + 'password_file = "nosuch"\n', "broker.password_file: FOLDER/nosuch: No such file or directory"),
    (GOOD + 'password_file = "open"\n', f"broker.password_file: {OPEN}"),
    (GOOD + "[schedule]\ncommit_s = 0\n", "schedule.commit_s: expected `int` >= 1"),
    (GOOD + "[schedule]\nseal_s = 86401\n", "schedule.seal_s: expected `int` <= 86400"),
    (GOOD + "[outbox]\nmax_mb = 0\n", "outbox.max_mb: expected `int` >= 1"),
    (GOOD + MODEM.replace("[[modem]]", "[modem]"), "modem: expected `array`, got `object`"),
    (GOOD + MODEM.replace("quectel", "klingon"), "modem[0].dialect: invalid enum value 'klingon'"),
    (GOOD + MODEM + MODEM, "modem: the name 'm1' stands twice"),
    (GOOD + MODEM + "poll_s = 61\n", "modem.m1.row_s: 60 is shorter than poll_s 61"),
    (GOOD + MODEM + "poll_s = 1\nrow_s = 601\n", "modem.m1.row_s: over 600 polls a row"),
    (GOOD + MODEM.replace("m1", "M1"), f"modem[0].name: {REGEX}"),
    (GOOD + MODEM.replace("m1", "m1\\n"), f"modem[0].name: {REGEX}"),
    (GOOD + PATH + PATH, "path: the name 't' stands twice"),
    (GOOD + PATH + "count = 101\n", "path[0].count: expected `int` <= 100"),
    (GOOD + PATH + 'method = "icmp"\n', "path[0].method: invalid enum value 'icmp'"),
    ("name = ", "not TOML: Invalid value (at end of document)"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD, ids=[message for _, message in BAD])
def test_a_bad_file_is_told_with_field_and_limit(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "open").touch()
    (tmp_path / "open").chmod(0o644)
    file = write(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        config.load(file)
    assert str(raised.value) == f"{file}: {message.replace('FOLDER', str(tmp_path))}"


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path / 'nosuch'}: No such file or directory")):
        config.load(tmp_path / "nosuch")
    with pytest.raises(ConfigError, match="Is a directory"):
        config.load(tmp_path)
    (tmp_path / "latin").write_bytes(b'name = "\xe9"')
    with pytest.raises(ConfigError, match="not TOML"):
        config.load(tmp_path / "latin")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1"])
def test_plain_text_is_allowed_on_this_machine(tmp_path: Path, host: str) -> None:
    assert not config.load(write(tmp_path, GOOD.replace("localhost", host))).broker.tls


@pytest.mark.parametrize(
    ("mode", "good"), [(0o600, True), (0o400, True), (0o640, False), (0o604, False), (0o620, False)]
)
def test_a_secret_is_for_its_owner_alone(tmp_path: Path, mode: int, good: bool) -> None:
    file = tmp_path / "secret"
    file.touch()
    file.chmod(mode)
    if good:
        config.check_secret("f", str(file))
        return
    with pytest.raises(ConfigError, match=rf"f: .* may be read by others \(mode {mode:o}\)"):
        config.check_secret("f", str(file))


def example(folder: Path, text: str) -> config.Config:
    for name in ("ca.crt", "probe.crt", "probe-tls.key"):
        (folder / name).touch(mode=0o600)
    return config.load(write(folder, text))


EXAMPLE = ROOT / "deploy/probe.example.toml"


def test_the_example_loads(tmp_path: Path) -> None:
    loaded = example(tmp_path, EXAMPLE.read_text())
    assert (loaded.name, len(loaded.modem), len(loaded.path)) == ("kalsel-0001", 1, 1)


def test_the_example_shows_every_setting_and_its_true_default(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    shown = example(tmp_path, re.sub(r"^# (\w+ = .*)$", r"\1", text, flags=re.MULTILINE))
    assert shown == example(tmp_path, text), "a line behind `# ` that is not the default"
    named = re.findall(r"^(?:# )?(\w+) = ", text, flags=re.MULTILINE)
    structs = (config.Config, config.Broker, config.Schedule, config.OutboxLimits, config.Modem, config.PathTarget)
    sections = {"broker", "schedule", "outbox", "modem", "path"}
    settings = [field.name for struct in structs for field in msgspec.structs.fields(struct)]
    assert sorted(named) == sorted(name for name in settings if name not in sections)
