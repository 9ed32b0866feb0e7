"""InfluxDB 2.7 as a place to write to and to delete from: its answers translated once, here."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.rest import ApiException
from urllib3.exceptions import HTTPError

from banua_collector.errors import CollectorError

TIMEOUT_MS = 30_000


class TargetUnavailableError(CollectorError):
    """The target did not take it; nothing is lost, the same has to be tried again."""


class Target(Protocol):
    """Where points go."""

    def write(self, lines: Sequence[str]) -> None:
        """Store `lines` (line protocol, ns); TargetUnavailableError when that is not confirmed."""

    def delete(self, probe: str, first_ms: int, last_ms: int) -> None:
        """Delete every point of `probe` from `first_ms` to `last_ms`, both included."""


class InfluxTarget:
    """One bucket of an InfluxDB 2.7."""

    def __init__(self, url: str, org: str, bucket: str, token: str) -> None:
        """Prepare; nothing is sent yet."""
        self._org, self._bucket = org, bucket
        self._client = InfluxDBClient(url=url, token=token, org=org, timeout=TIMEOUT_MS)
        self._writes = self._client.write_api(write_options=SYNCHRONOUS)
        self._deletes = self._client.delete_api()

    def write(self, lines: Sequence[str]) -> None:
        """See `Target`."""
        try:
            self._writes.write(self._bucket, self._org, "\n".join(lines).encode())  # by default in ns
        except (ApiException, HTTPError, OSError) as error:
            raise TargetUnavailableError(_one_line("write", error)) from error

    def delete(self, probe: str, first_ms: int, last_ms: int) -> None:
        """See `Target`."""
        start, stop = _moment(first_ms), _moment(last_ms) + timedelta(milliseconds=1)
        try:
            self._deletes.delete(start, stop, f'probe="{probe}"', bucket=self._bucket, org=self._org)
        except (ApiException, HTTPError, OSError) as error:
            raise TargetUnavailableError(_one_line("delete", error)) from error

    def close(self) -> None:
        """Close the connections."""
        self._writes.close()  # type: ignore[no-untyped-call]
        self._client.close()  # type: ignore[no-untyped-call]


def _moment(unix_ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=unix_ms)


def _one_line(what: str, error: Exception) -> str:
    if isinstance(error, ApiException):
        return f"influx {what}: {error.status} {error.reason} {str(error.body or '')[:200]}".replace("\n", " ")
    return f"influx {what}: {error!s:.200}".replace("\n", " ")
