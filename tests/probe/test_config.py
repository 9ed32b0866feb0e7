"""A bad configuration is refused with the field, the limit and the file; the example is a good one."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from banua_probe import config
from banua_probe.errors import ConfigError
from tests.real.parts import ROOT

GOOD = 'name = "kalsel-0001"\n[broker]\nhost = "localhost"\ntls = false\n'
MODEM = '[[modem]]\nname = "m1"\ndevice = "/dev/ttyUSB2"\ndialect = "quectel"\n'
PATH = '[[path]]\ntarget = "t"\nhost = "example.org"\n'
DNS = '[[dns]]\nname = "example.org"\nresolver = "192.0.2.53"\n'
WEB = '[[web]]\ntarget = "w"\nurl = "http://example.org/"\n'


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


def test_without_a_target_the_collectors_own_host_is_measured(tmp_path: Path) -> None:
    assert config.load(write(tmp_path, GOOD)).targets == [config.PathTarget(target="collector", host="localhost")]
    assert config.load(write(tmp_path, "path = []\n" + GOOD)).targets == []


def test_a_test_is_bound_to_its_modems_interface(tmp_path: Path) -> None:
    loaded = config.load(write(tmp_path, GOOD + MODEM + 'interface = "wwan0"\n' + PATH + 'modem = "m1"\n' + DNS))
    assert [loaded.interface_of(each) for each in (*loaded.targets, *loaded.dns)] == ["wwan0", ""]


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
LABEL = "is not 1 to 63 characters long"
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
    (GOOD + PATH + PATH, "path: the name 't icmp' stands twice"),
    (GOOD + PATH + "count = 101\n", "path[0].count: expected `int` <= 100"),
    (GOOD + PATH + 'method = "udp"\n', "path[0].method: invalid enum value 'udp'"),
    (GOOD + PATH + 'method = "tcp"\n', "path.t.port: missing; method tcp needs it"),
    (GOOD + PATH + "port = 7\n", "path.t.port: only method tcp has one"),
    (GOOD + PATH + 'modem = "m1"\n', "path.t.modem: there is no modem 'm1'"),
    (GOOD + MODEM + PATH + 'modem = "m1"\n', "path.t.modem: modem 'm1' has no interface"),
    (GOOD + PATH + 'modem = "m1"\ninterface = "x"\n', "path.t.interface: modem and interface exclude each other"),
    (GOOD + PATH + 'interface = "a/b"\n', "path[0].interface: expected `str` matching regex '^[!-.0-9:-~]{0,15}\\\\Z'"),
    (GOOD + PATH + "payload_bytes = 15\n", "path[0].payload_bytes: expected `int` >= 16"),
    (GOOD + MODEM + MODEM.replace("m1", "m2"), "modem.device: the name '/dev/ttyUSB2' stands twice"),
    (GOOD + MODEM + "operators_a_day = 25\n", "modem[0].operators_a_day: expected `int` <= 24"),
    (GOOD + DNS + DNS, "dns: the name 'example.org 192.0.2.53' stands twice"),
    (GOOD + DNS.replace("example.org", "ex ample"), "dns[0].name: expected `str` matching regex '^[!-~]{1,200}\\\\Z'"),
    (GOOD + DNS.replace("192.0.2.53", "dns.example"), "dns.example.org.resolver: 'dns.example' is not an IP address"),
    (GOOD + DNS + 'expect = ["x"]\n', "dns.example.org.expect: 'x' is neither an address nor a network"),
    (GOOD + DNS + 'expect = ["2001:db8::/32"]\n', "dns.example.org.expect: IPv6 only, but IPv4 is asked for"),
    (GOOD + DNS.replace("example.org", "a..org"), f"dns.a..org.name: the label '' {LABEL}"),
    (GOOD + DNS.replace("example.org", "."), f"dns...name: the label '' {LABEL}"),
    (GOOD + DNS.replace("example.org", "b" * 64), f"dns.{'b' * 64}.name: the label '{'b' * 64}' {LABEL}"),
    (GOOD + WEB + WEB, "web: the name 'w' stands twice"),
    (GOOD + WEB.replace("http:", "ftp:"), "web[0].url: expected `str` matching regex '^https?://[!-~]+\\\\Z'"),
    (GOOD + WEB.replace("example.org", ":80"), "web.w.url: no host"),
    (GOOD + WEB.replace("example.org", "a:b@c"), "web.w.url: no user or password belongs in it"),
    (GOOD + WEB.replace("example.org", "a:99999"), "web.w.url: Port out of range 0-65535"),
    (GOOD + WEB + "expect_status = 199\n", "web[0].expect_status: expected `int` >= 200"),
    (GOOD + WEB + 'expect_text = "x"\n', "web.w.expect_text: status 204 has no content"),
    (GOOD + WEB + 'expect_text = "x"\nexpect_status = 304\n', "web.w.expect_text: status 304 has no content"),
    (GOOD + WEB + 'ca_file = "nosuch"\n', "web.w.ca_file: FOLDER/nosuch: No such file or directory"),
    (GOOD + '[[wifi]]\ninterface = ""\n', "wifi.interface: missing"),
    (GOOD + '[[wifi]]\ninterface = "wlan0"\nevery_s = 599\n', "wifi[0].every_s: expected `int` >= 600"),
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


@pytest.mark.parametrize("more", [
    DNS.replace("example.org", f"{'b' * 63}.example."), DNS + 'expect = ["2001:db8::/32", "192.0.2.7"]\n',
    WEB + 'expect_status = 200\nexpect_text = "x"\n', WEB + "expect_status = 304\n",
])  # fmt: skip
def test_what_stays_within_the_limits_is_taken(tmp_path: Path, more: str) -> None:
    config.load(write(tmp_path, GOOD + more))


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
    assert (loaded.name, len(loaded.modem), len(loaded.targets)) == ("kalsel-0001", 1, 2)
    assert (len(loaded.dns), len(loaded.web), len(loaded.wifi)) == (2, 1, 1)


def sections() -> dict[str, msgspec.inspect.StructType]:
    """The sections of a configuration: what is a struct in it, or a list of one."""
    found = {}
    for field in msgspec.inspect.type_info(config.Config).fields:  # type: ignore[attr-defined]  # it is a StructType
        parts = getattr(field.type, "types", (field.type,))
        for part in (getattr(part, "item_type", part) for part in parts):
            if isinstance(part, msgspec.inspect.StructType):
                found[field.name] = part
    return found


def test_the_example_shows_every_setting_and_its_true_default(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    shown = example(tmp_path, re.sub(r"^# (\w+ = .*)$", r"\1", text, flags=re.MULTILINE))
    assert shown == example(tmp_path, text), "a line behind `# ` that is not the default"
    shown_toml = tomllib.loads(re.sub(r"^# (\w+ = .*)$", r"\1", text, flags=re.MULTILINE))
    for section, struct in sections().items():
        tables = shown_toml[section] if isinstance(shown_toml[section], list) else [shown_toml[section]]
        named = {name for table in tables for name in table}
        if section in ("dns", "web"):  # shown once, at the first test that may be bound
            named |= {"modem", "interface"}
        assert named == {field.name for field in struct.fields}, section
    assert {field.name for field in msgspec.structs.fields(config.Config)} == set(shown_toml)
