"""The probe's configuration: TOML into checked values; every key known, every limit named, secrets in 0600 files."""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

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

_LOOPBACK: Final = re.compile(r"localhost|127(\.\d{1,3}){3}|::1")
_SECRET_BITS: Final = 0o077
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
    simulated: bool = False


class PathTarget(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One target of round-trip measurements by TCP connect."""

    target: Name
    host: Host
    port: Port
    method: Literal["tcp"] = "tcp"
    every_s: Seconds = 600
    count: Annotated[int, Meta(ge=1, le=100)] = 10
    interval_ms: Annotated[int, Meta(ge=20, le=10_000)] = 1000


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
    path: Annotated[list[PathTarget], Meta(max_length=16)] = []

    @property
    def outbox_file(self) -> Path:
        """Where the outbox lives."""
        return Path(self.state_dir) / "outbox.db"


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
    for what, names in (("modem", [m.name for m in config.modem]), ("path", [p.target for p in config.path])):
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ConfigError(f"{what}: the name {min(twice)!r} stands twice")
    for modem in config.modem:
        if modem.row_s < modem.poll_s:
            raise ConfigError(f"modem.{modem.name}.row_s: {modem.row_s} is shorter than poll_s {modem.poll_s}")
        if modem.row_s // modem.poll_s > MAX_POLLS:
            raise ConfigError(f"modem.{modem.name}.row_s: over {MAX_POLLS} polls a row")
    files = {name: _absolute(folder, getattr(broker, name)) for name in _FILES}
    broker = msgspec.structs.replace(broker, **files)
    state_dir = _absolute(folder, config.state_dir)
    key_file = _absolute(Path(state_dir), config.key_file)
    for field in ("ca_file", "cert_file"):
        check_readable(f"broker.{field}", getattr(broker, field))
    for field in ("key_file", "password_file"):
        check_secret(f"broker.{field}", getattr(broker, field))
    return msgspec.structs.replace(config, broker=broker, state_dir=state_dir, key_file=key_file)


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
