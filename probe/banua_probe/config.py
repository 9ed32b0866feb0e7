"""The probe's configuration: TOML into checked values; every key known, every limit named, secrets in 0600 files."""

import ipaddress
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from banua_probe.errors import ConfigError
from banua_probe.modem.dialects import DialectName
from banua_wire.topics import is_name

_T = TypeVar("_T")

Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,31}\Z")]
Host = Annotated[str, Meta(min_length=1, max_length=253)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Seconds = Annotated[int, Meta(ge=1, le=86_400)]
Interface = Annotated[str, Meta(pattern=r"^[!-.0-9:-~]{0,15}\Z")]
"""Name of a network interface: at most 15 characters, no "/" and no space."""

_LOOPBACK: Final = re.compile(r"localhost|127(\.\d{1,3}){3}|::1")
_SECRET_BITS: Final = 0o077
_WITHOUT_CONTENT: Final = frozenset({204, 304})
_MAX_LABEL: Final = 63  # RFC 1035 §2.3.4
_IPV6: Final = 6
MAX_POLLS: Final = 600
"""Most polls in one `radio` row: the dictionary's range."""


class Broker(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Where and how to reach the collector's broker; relative files are relative to the configuration."""

    host: Host
    port: Port = 8883
    tls: bool = True
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    username: str = ""
    password_file: str = ""
    protocol: Literal["auto", "5", "3.1.1"] = "auto"

    def password(self) -> str:
        """Return the password from its file."""
        return Path(self.password_file).read_text(encoding="utf-8").strip() if self.password_file else ""


class Schedule(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How often rows are written to disk and sealed into batches."""

    commit_s: Seconds = 300
    seal_s: Seconds = 300
    board_s: Seconds = 300


class Modem(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One modem on a serial port that no other program owns."""

    name: Name
    device: Annotated[str, Meta(min_length=1, max_length=255)]
    dialect: DialectName
    poll_s: Seconds = 10
    row_s: Seconds = 60
    interface: Interface = ""
    """Network interface over which this modem carries IP; tests that name the modem are bound to it."""
    neighbours_s: Annotated[int, Meta(ge=0, le=86_400)] = 600
    """How often it is asked for neighbour cells, where its dialect tells; 0: never."""
    operators_s: Annotated[int, Meta(ge=0, le=604_800)] = 0
    """How often it scans for every operator, which stops its data for minutes; 0: never."""
    operators_a_day: Annotated[int, Meta(ge=1, le=24)] = 6
    """Most scans in any 24 hours."""
    simulated: bool = False


class Bound(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What an IP test may be bound to: a modem by its name, or a network interface; neither: the routes decide."""

    modem: Annotated[str, Meta(max_length=32)] = ""
    interface: Interface = ""


class PathTarget(Bound, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """One target of round-trip measurements."""

    target: Name
    host: Host
    method: Literal["icmp", "tcp"] = "icmp"
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """Method tcp only."""
    every_s: Seconds = 600
    count: Annotated[int, Meta(ge=1, le=100)] = 10
    interval_ms: Annotated[int, Meta(ge=20, le=10_000)] = 1000
    payload_bytes: Annotated[int, Meta(ge=16, le=1472)] = 16
    trace: bool = True
    """Trace the hops when a train failed or its way changed."""


class DnsQuery(Bound, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """One question to one resolver."""

    name: Annotated[str, Meta(pattern=r"^[!-~]{1,200}\Z")]
    resolver: Host
    """IP address of the resolver."""
    port: Port = 53
    expect: Annotated[list[Host], Meta(max_length=16)] = []
    """Addresses or networks that a true answer lies in; an IPv4 address is asked for."""
    every_s: Seconds = 900


class WebTarget(Bound, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """One small page."""

    target: Name
    url: Annotated[str, Meta(min_length=8, max_length=500, pattern=r"^https?://[!-~]+\Z")]
    expect_status: Annotated[int, Meta(ge=200, le=599)] = 204
    expect_text: Annotated[str, Meta(max_length=200)] = ""
    """A text that the true page contains; 204 and 304 have no content."""
    ca_file: str = ""
    """Certificate authority to trust instead of the system's."""
    max_kb: Annotated[int, Meta(ge=1, le=10_000)] = 64
    every_s: Seconds = 3600


class Wifi(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A Wi-Fi interface that looks around, rarely: a scan interrupts its own connection."""

    interface: Interface
    every_s: Annotated[int, Meta(ge=600, le=604_800)] = 3600
    strongest: Annotated[int, Meta(ge=1, le=100)] = 20
    """Most networks that become rows."""


class OutboxLimits(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How much disk the outbox may take."""

    max_mb: Annotated[int, Meta(ge=1, le=100_000)] = 64


class Config(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Everything a probe is told; see ``deploy/probe.example.toml``."""

    name: str
    broker: Broker
    state_dir: str = "/var/lib/banua-probe"
    key_file: str = "probe.key"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    schedule: Schedule = Schedule()
    outbox: OutboxLimits = OutboxLimits()
    modem: Annotated[list[Modem], Meta(max_length=8)] = []
    path: Annotated[list[PathTarget], Meta(max_length=16)] | None = None
    """None: see `targets`."""
    dns: Annotated[list[DnsQuery], Meta(max_length=16)] = []
    web: Annotated[list[WebTarget], Meta(max_length=16)] = []
    wifi: Annotated[list[Wifi], Meta(max_length=4)] = []

    @property
    def outbox_file(self) -> Path:
        """Where the outbox lives."""
        return Path(self.state_dir) / "outbox.db"

    @property
    def targets(self) -> list[PathTarget]:
        """The targets of round-trip measurements: those of `path`, else the collector's own host, by ICMP."""
        return [PathTarget(target="collector", host=self.broker.host)] if self.path is None else self.path

    def interface_of(self, test: Bound) -> str:
        """Return the network interface that `test` is bound to, "" if none."""
        return test.interface or next((modem.interface for modem in self.modem if modem.name == test.modem), "")


def load(file: Path) -> Config:
    """Return the checked configuration in `file`; ConfigError says which field breaks which limit."""
    try:
        config = convert(tomllib.loads(file.read_text(encoding="utf-8")), Config)
        return _resolved(config, file.absolute().parent)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not TOML: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def convert(raw: dict[str, Any], into: type[_T]) -> _T:
    """Return `raw` as `into`; ConfigError as ``field: what is wrong``."""
    try:
        return msgspec.convert(raw, into)
    except msgspec.ValidationError as error:
        raise ConfigError(_plain(str(error))) from None


def _plain(message: str) -> str:
    """Turn msgspec's ``Expected … - at `$.a.b` `` into ``a.b: expected …``."""
    text, _, place = message.partition(" - at ")
    where = place.strip("`").removeprefix("$").lstrip(".")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", text)
    missing = re.fullmatch(r"Object missing required field `(.*)`", text)
    if unknown or missing:
        name = (unknown or missing)[1]  # type: ignore[index]  # one of them matched
        return f"{where}.{name}: ".lstrip(".") + ("unknown key" if unknown else "missing")
    return f"{where}: {text[0].lower()}{text[1:]}"


def _resolved(config: Config, folder: Path) -> Config:
    """Check what spans fields, and make file names absolute."""
    if not is_name(config.name):
        raise ConfigError(f"name: {config.name!r} is not 1 to 32 of a-z, 0-9 and '-'")
    broker = config.broker
    if not broker.tls and not _LOOPBACK.fullmatch(broker.host):
        raise ConfigError(f"broker.tls: false is allowed on this machine only, not to {broker.host!r}")
    if broker.tls and not broker.ca_file:
        raise ConfigError("broker.ca_file: missing; it names the certificate authority to trust")
    if bool(broker.cert_file) != bool(broker.key_file):
        raise ConfigError("broker.key_file: cert_file and key_file go together")
    web = [msgspec.structs.replace(each, ca_file=_absolute(folder, each.ca_file)) for each in config.web]
    files = {name: _absolute(folder, getattr(broker, name)) for name in _FILES}
    broker = msgspec.structs.replace(broker, **files)
    state_dir = _absolute(folder, config.state_dir)
    key_file = _absolute(Path(state_dir), config.key_file)
    for field in ("ca_file", "cert_file"):
        check_readable(f"broker.{field}", getattr(broker, field))
    for field in ("key_file", "password_file"):
        check_secret(f"broker.{field}", getattr(broker, field))
    config = msgspec.structs.replace(config, broker=broker, state_dir=state_dir, key_file=key_file, web=web)
    _check_modems(config)
    _check_targets(config)
    return config


def _check_modems(config: Config) -> None:
    _once("modem", [(modem.name,) for modem in config.modem])
    _once("modem.device", [(modem.device,) for modem in config.modem])
    for modem in config.modem:
        if modem.row_s < modem.poll_s:
            raise ConfigError(f"modem.{modem.name}.row_s: {modem.row_s} is shorter than poll_s {modem.poll_s}")
        if modem.row_s // modem.poll_s > MAX_POLLS:
            raise ConfigError(f"modem.{modem.name}.row_s: over {MAX_POLLS} polls a row")


def _check_targets(config: Config) -> None:
    _once("path", [(each.target, each.modem, each.method) for each in config.targets])
    _once("dns", [(each.name, each.resolver, each.modem) for each in config.dns])
    _once("web", [(each.target, each.modem) for each in config.web])
    _once("wifi", [(each.interface,) for each in config.wifi])
    for path in config.targets:
        _check_bound(f"path.{path.target}", path, config)
        if (path.method == "tcp") != bool(path.port):
            told = "missing; method tcp needs it" if path.method == "tcp" else "only method tcp has one"
            raise ConfigError(f"path.{path.target}.port: {told}")
    for query in config.dns:
        _check_bound(f"dns.{query.name}", query, config)
        _check_query(f"dns.{query.name}", query)
    for web in config.web:
        _check_bound(f"web.{web.target}", web, config)
        if wrong := check_url(web.url):
            raise ConfigError(f"web.{web.target}.url: {wrong}")
        if web.expect_text and web.expect_status in _WITHOUT_CONTENT:
            raise ConfigError(f"web.{web.target}.expect_text: status {web.expect_status} has no content")
        check_readable(f"web.{web.target}.ca_file", web.ca_file)
    for wifi in config.wifi:
        if not wifi.interface:
            raise ConfigError("wifi.interface: missing")


def _check_query(where: str, query: DnsQuery) -> None:
    for label in query.name.removesuffix(".").split("."):
        if not 0 < len(label) <= _MAX_LABEL:
            raise ConfigError(f"{where}.name: the label {label!r} is not 1 to {_MAX_LABEL} characters long")
    if not is_address(query.resolver):
        raise ConfigError(f"{where}.resolver: {query.resolver!r} is not an IP address")
    for network in query.expect:
        if not _reads(ipaddress.ip_network, network):
            raise ConfigError(f"{where}.expect: {network!r} is neither an address nor a network")
    if query.expect and all(ipaddress.ip_network(network).version == _IPV6 for network in query.expect):
        raise ConfigError(f"{where}.expect: IPv6 only, but IPv4 is asked for")


def _once(what: str, names: list[tuple[str, ...]]) -> None:
    """Raise ConfigError when two settings would make rows of one key."""
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ConfigError(f"{what}: the name {' '.join(filter(None, min(twice)))!r} stands twice")


def _check_bound(where: str, test: Bound, config: Config) -> None:
    if test.modem and test.interface:
        raise ConfigError(f"{where}.interface: modem and interface exclude each other")
    modem = next((modem for modem in config.modem if modem.name == test.modem), None)
    if test.modem and modem is None:
        raise ConfigError(f"{where}.modem: there is no modem {test.modem!r}")
    if modem is not None and not modem.interface:
        raise ConfigError(f"{where}.modem: modem {test.modem!r} has no interface")


def is_address(text: str) -> bool:
    """Say whether `text` is an IP address."""
    return _reads(ipaddress.ip_address, text)


def _reads(parse: Callable[[str], object], text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


def check_url(url: str) -> str:
    """Return what is wrong with the address of a page, "" if nothing is."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return str(error)
    if not parts.hostname:
        return "no host"
    if parts.username is not None or parts.password is not None:
        return "no user or password belongs in it"
    return "port 0" if port == 0 else "no fragment belongs in it" if parts.fragment else ""


_FILES: Final = ("ca_file", "cert_file", "key_file", "password_file")


def _absolute(folder: Path, name: str) -> str:
    return str(folder / name) if name else ""


def check_readable(field: str, name: str) -> None:
    """Raise ConfigError when there is no file `name`, or one that may not be read."""
    try:
        if name:
            Path(name).open("rb").close()
    except OSError as error:
        raise ConfigError(f"{field}: {name}: {error.strerror}") from None


def check_secret(field: str, name: str) -> None:
    """Raise ConfigError when the file `name` can be read by others than its owner, or not at all."""
    if not name:
        return
    try:
        mode = Path(name).stat().st_mode & 0o777
    except OSError as error:
        raise ConfigError(f"{field}: {name}: {error.strerror}") from None
    if mode & _SECRET_BITS:
        raise ConfigError(f"{field}: {name} may be read by others (mode {mode:o}); chmod 600 {name}")
