"""The collector's settings: one TOML file, every unknown key an error, every problem one line.

Relative paths are relative to the file's folder. Secrets (passwords, tokens, private keys) stand in files of their own
that nobody else may read; the settings only name them.
"""

import ipaddress
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import ErrorDetails

from banua_collector.db import POSTGRESQL, check_url
from banua_collector.errors import ConfigError, DatabaseError

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_LOOPBACK: Final = "localhost, 127.0.0.1, ::1"
_VERIFIED: Final = "verify-full"
_FOLDER: Final = "folder"  # where relative paths start, in the validation context


class _SectionError(ValueError):
    """What is wrong between the fields of one section: pairs of field name and message."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__(problems)
        self.problems = problems


def read_secret(path: Path) -> str:
    """Return the one line in `path`; ConfigError when it is not there, empty, or others may read it."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not a text") from None
    if mode & _OTHERS:
        raise ConfigError(f"{path} may be read by others (mode {mode:o}); chmod 600 {path}")
    if not text:
        raise ConfigError(f"{path} is empty")
    return text


def _path(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is not a path")
    folder: Path = (info.context or {})[_FOLDER]
    return folder / value


def _readable(path: Path) -> Path:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    return path


def _secret(path: Path) -> Path:
    try:
        read_secret(path)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return path


def _within(low: int, high: int) -> AfterValidator:
    def check(value: int) -> int:
        if not low <= value <= high:
            raise ValueError(f"{value} is outside {low}…{high}")
        return value

    return AfterValidator(check)


def _web_address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{value!r} is not http://HOST:PORT or https://HOST:PORT")
    return value


def _database_url(value: str, info: ValidationInfo) -> str:
    """Return the address with a whole path, or, over a network, with the server's certificate verified."""
    folder: Path = (info.context or {})[_FOLDER]
    try:
        url = check_url(value)
    except DatabaseError as error:
        raise ValueError(str(error)) from None
    if url.get_backend_name() != POSTGRESQL:
        return f"sqlite:///{folder / str(url.database)}"
    if url.host and not is_loopback(url.host):
        mode = url.query.get("sslmode", _VERIFIED)
        if mode != _VERIFIED:
            raise ValueError(f"sslmode {mode!r} is allowed only when the host is this machine; use {_VERIFIED}")
        url = url.update_query_dict({"sslmode": _VERIFIED})
    return url.render_as_string(hide_password=False)


Text = Annotated[str, StringConstraints(min_length=1)]
Port = Annotated[int, _within(1, 65_535)]
AnyPath = Annotated[Path, BeforeValidator(_path)]
PublicFile = Annotated[AnyPath, AfterValidator(_readable)]
SecretFile = Annotated[AnyPath, AfterValidator(_secret)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Database(_Section):
    """Where the journal is kept; by default ``banua.sqlite`` in the state folder."""

    url: Annotated[str, AfterValidator(_database_url)]
    password_file: SecretFile | None = None

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.password_file is not None and not self.is_server:
            raise _SectionError([("password_file", "is of no use with SQLite")])
        return self

    @property
    def is_server(self) -> bool:
        """Whether it is a PostgreSQL, which several collectors may share."""
        return self.url.startswith(POSTGRESQL)

    def password(self) -> str | None:
        """Return the password to log in with, None when there is none."""
        return None if self.password_file is None else read_secret(self.password_file)


class Broker(_Section):
    """The MQTT broker; without TLS on this very machine only."""

    host: Text
    port: Port
    tls: bool = True
    ca_file: PublicFile | None = None
    cert_file: PublicFile | None = None
    key_file: SecretFile | None = None
    username: Text | None = None
    password_file: SecretFile | None = None
    protocol: Literal["auto", "5", "3.1.1"] = "auto"
    share: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,32}$")] | None = None

    @model_validator(mode="before")
    @classmethod
    def _usual_port(cls, data: object) -> object:
        return {"port": 1883 if data.get("tls") is False else 8883} | data if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _together(self) -> Self:
        problems = list(_broker_problems(self))
        if problems:
            raise _SectionError(problems)
        return self

    def password(self) -> str | None:
        """Return the password to log in with, None when there is none."""
        return None if self.password_file is None else read_secret(self.password_file)


class Influx(_Section):
    """An InfluxDB 2 that gets the measurements as time series."""

    url: Annotated[Text, AfterValidator(_web_address)]
    org: Text
    bucket: Text
    token_file: SecretFile

    def token(self) -> str:
        """Return the API token."""
        return read_secret(self.token_file)


class Web(_Section):
    """Where the status page listens: this machine only, unless told otherwise."""

    host: Text = "127.0.0.1"
    port: Port = 8080


class Limits(_Section):
    """How much is taken at once, and how much may wait."""

    commit_max_batches: Annotated[int, _within(1, 1000)] = 200
    commit_wait_ms: Annotated[int, _within(0, 10_000)] = 50
    quarantine_max_mb: Annotated[int, _within(1, 1_000_000)] = 200


class Config(_Section):
    """Everything the collector is told; made by ``load``."""

    state_dir: AnyPath
    database: Database
    broker: Broker
    influx: Influx | None = None
    web: Web = Web()
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.broker.share is not None and not self.database.is_server:
            raise _SectionError([("broker.share", "needs PostgreSQL: SQLite serves one collector")])
        return self

    @model_validator(mode="before")
    @classmethod
    def _usual_database(cls, data: object) -> object:
        if not isinstance(data, dict) or not isinstance(data.get("database", {}), dict):
            return data
        url = f"sqlite:///{data.get('state_dir')}/banua.sqlite"
        return data | {"database": {"url": url} | data.get("database", {})}


def load(path: Path) -> Config:
    """Return the settings in the file `path`; ConfigError with one line for each problem."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # tomllib's own and a wrong encoding
        raise ConfigError(f"{path}: not TOML: {error}") from None
    try:
        return Config.model_validate(data, context={_FOLDER: path.absolute().parent})
    except ValidationError as error:
        lines = [f"{path}: {line}" for details in error.errors() for line in _lines(details)]
    raise ConfigError("\n".join(lines))


def is_loopback(host: str) -> bool:
    """Say whether `host` can only be this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _broker_problems(broker: Broker) -> Iterator[tuple[str, str]]:
    if not broker.tls:
        if not is_loopback(broker.host):
            yield (
                "tls",
                f"false is allowed only when host is this machine (localhost, 127.0.0.1, ::1), not {broker.host}",
            )
        for name in ("ca_file", "cert_file", "key_file"):
            if getattr(broker, name) is not None:
                yield name, "is of no use while tls is false"
    if (broker.cert_file is None) != (broker.key_file is None):
        given, other = ("key_file", "cert_file") if broker.cert_file is None else ("cert_file", "key_file")
        yield given, f"needs {other} beside it"
    if broker.share is not None and broker.protocol == "3.1.1":
        yield "share", "needs MQTT 5"
    if broker.password_file is not None and broker.username is None:
        yield "password_file", "needs username beside it"


_MESSAGES: Final[Mapping[str, Callable[[ErrorDetails], str]]] = {
    "missing": lambda _: "is required",
    "extra_forbidden": lambda _: "is not a setting",
    "int_type": lambda details: f"{_shown(details)} is not a whole number",
    "string_type": lambda details: f"{_shown(details)} is not a text",
    "string_too_short": lambda _: "is empty",
    "string_pattern_mismatch": lambda details: f"{_shown(details)} is not 1 to 32 of a–z, 0–9 and '-'",
    "bool_type": lambda details: f"{_shown(details)} is not true or false",
    "literal_error": lambda details: f"{_shown(details)} is not one of {details['ctx']['expected']}",
    "model_type": lambda details: f"{_shown(details)} is not a section",
    "value_error": lambda details: str(details["ctx"]["error"]),
}


def _lines(details: ErrorDetails) -> Iterator[str]:
    where = [str(part) for part in details["loc"]]
    error = details.get("ctx", {}).get("error")
    if isinstance(error, _SectionError):
        for name, message in error.problems:
            yield f"{'.'.join([*where, name])}: {message}"
        return
    message_of = _MESSAGES.get(details["type"])
    yield f"{'.'.join(where)}: {message_of(details) if message_of else details['msg']}"


def _shown(details: ErrorDetails) -> str:
    return f"{details['input']!r:.60}"
