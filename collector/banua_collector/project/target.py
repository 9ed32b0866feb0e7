"""InfluxDB 2.7 as a place to write to and to delete from: its answers translated once, here.

| answer to a write | what follows |
|---|---|
| 204 | it is stored |
| 400 `unable to parse …`, 422 `partial write: …` | it is halved until each line at fault is known, the others stored |
| 413 | it is halved; a single line that is too large is refused |
| any other, or none in time | `TargetUnavailableError`: nothing counts as refused, the same is to be tried again |

What refuses everything must not make points disappear. So a 400 or 422 counts only in InfluxDB's own words for a fault
of the lines; before a write is halved, the target must have taken a comment, which stores nothing; and a line is
refused only by an answer to it alone, or by one that counts every line it can be about as older than the bucket keeps.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final, Protocol

from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.domain.delete_predicate_request import DeletePredicateRequest
from influxdb_client.rest import ApiException
from influxdb_client.service.delete_service import DeleteService
from influxdb_client.service.write_service import WriteService
from urllib3.exceptions import HTTPError

from banua_collector.errors import CollectorError

TIMEOUT_MS: Final = 30_000
ASK_S: Final = 10.0
_STARTED: Final = re.compile(rb"^process_start_time_seconds (\S+)$", re.MULTILINE)
LONGEST_RETRY_AFTER_S: Final = 86_400.0
REASON_CHARS: Final = 300
TEXT: Final = "text/plain; charset=utf-8"
COMMENT: Final = "# is anything taken?"
"""A write that is taken and stores nothing."""
FAULT_OF_LINES: Final = {
    HTTPStatus.BAD_REQUEST.value: "unable to parse '",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE.value: "",
    HTTPStatus.UNPROCESSABLE_ENTITY.value: "partial write: ",
}
"""By status, the words without which it is no fault of the lines."""
_TOO_OLD: Final = re.compile(r"dropped (\d+) points outside retention policy")


class TargetUnavailableError(CollectorError):
    """The target did not take it; nothing is lost, the same has to be tried again."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        """`retry_after_s`: how long the target asks to be left alone, at most a day; None when it does not say."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Refusal:
    """A line that the target will never take, and why: one line of at most `REASON_CHARS`."""

    line: str
    reason: str


class Target(Protocol):
    """Where points go."""

    def write(self, lines: Sequence[str]) -> list[Refusal]:
        """Store `lines` (line protocol, ns, quotes closed) but for those returned, which will never be taken.

        TargetUnavailableError when that is not confirmed: any of them may stand by then, and storing them again
        changes nothing.
        """

    def started_s(self) -> float | None:
        """Return when the target's process began (Unix time, s), None where it does not say."""

    def delete(self, probe: str, first_ms: int, last_ms: int) -> None:
        """Delete the points of `probe` from `first_ms` to `last_ms`, both included; TargetUnavailableError as above."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: its status, what it says in one line, and its Retry-After in seconds."""

    status: int
    reason: str
    retry_after_s: float | None = None

    def blames_the_lines(self) -> bool:
        """Whether it is about what was sent, and not about the target or something on the way to it."""
        return self.status in FAULT_OF_LINES and FAULT_OF_LINES[self.status] in self.reason

    def too_old(self) -> int:
        """Return how many of the lines are older than the bucket keeps."""
        found = _TOO_OLD.search(self.reason)
        return int(found[1]) if found else 0

    def unavailable(self, what: str) -> TargetUnavailableError:
        """Return it as the error that it is for the caller."""
        return TargetUnavailableError(f"influx {what}: {self.status} {self.reason}", self.retry_after_s)


class InfluxTarget:
    """One bucket of an InfluxDB 2.7. What fails is neither retried nor waited for in here."""

    def __init__(self, url: str, org: str, bucket: str, token: str, timeout_ms: int = TIMEOUT_MS) -> None:
        """Prepare; nothing is sent yet."""
        self._url, self._place = url.rstrip("/"), {"org": org, "bucket": bucket}
        self._client = InfluxDBClient(url=url, token=token, org=org, timeout=timeout_ms, retries=False)
        self._writes = WriteService(self._client.api_client)  # type: ignore[no-untyped-call]
        self._deletes = DeleteService(self._client.api_client)  # type: ignore[no-untyped-call]

    def write(self, lines: Sequence[str]) -> list[Refusal]:
        """See `Target`. With k of n lines at fault about 1.5·k·log2(n) small requests, and never more than 2·n."""
        answer = self._post(lines) if lines else None
        if answer is None:
            return []
        if self._post([COMMENT]) is not None:
            raise answer.unavailable("write takes not even a comment")
        return sift(lines, answer, self._post)

    def delete(self, probe: str, first_ms: int, last_ms: int) -> None:
        """See `Target`."""
        start, stop = _moment(first_ms), _moment(last_ms) + timedelta(milliseconds=1)
        which = DeletePredicateRequest(start, stop, f'probe="{probe}"')  # type: ignore[no-untyped-call]
        send = self._deletes.post_delete_with_http_info
        answer = _ask("delete", send, **self._place, delete_predicate_request=which)
        if answer.status != HTTPStatus.NO_CONTENT:
            raise answer.unavailable("delete")

    def started_s(self) -> float | None:
        """See `Target`."""
        pool = self._client.api_client.rest_client.pool_manager
        try:
            answer = pool.request("GET", f"{self._url}/metrics", retries=False, timeout=ASK_S)
        except HTTPError as error:
            raise TargetUnavailableError(f"influx metrics: {error!s:.200}".replace("\n", " ")) from error
        found = _STARTED.search(answer.data)
        return float(found[1]) if found else None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()  # type: ignore[no-untyped-call]

    def _post(self, lines: Sequence[str]) -> Answer | None:
        """Send one write: None when it is stored, the answer when lines are at fault."""
        body = "\n".join(lines).encode()
        send = self._writes.post_write_with_http_info
        answer = _ask("write", send, **self._place, body=body, precision="ns", content_type=TEXT)
        if answer.status == HTTPStatus.NO_CONTENT:
            return None
        if not answer.blames_the_lines():
            raise answer.unavailable("write")
        return answer


def sift(lines: Sequence[str], answer: Answer, post: Callable[[Sequence[str]], Answer | None]) -> list[Refusal]:
    """Return those of `lines` that are at fault and store the others, `answer` having come back for all of them."""
    if len(lines) in {1, answer.too_old()}:
        return [Refusal(line, answer.reason) for line in lines]
    left, right = lines[: len(lines) // 2], lines[len(lines) // 2 :]
    of_left = post(left)
    found = sift(left, of_left, post) if of_left else []
    if of_left is None and len(right) > 1 and answer.status != HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        of_right: Answer | None = answer  # the fault is in there: sending it whole would tell nothing new
    else:
        of_right = post(right)
    return found + (sift(right, of_right, post) if of_right else [])


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Read Retry-After, in seconds or as a date, as seconds from `now`; None when it says nothing of use."""
    if header is None:
        return None
    try:
        if header.isascii() and header.isdigit():
            wait_s = float(header)
        else:
            date = parsedate_to_datetime(header)
            wait_s = (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds()
    except (ValueError, OverflowError):
        return None
    return min(wait_s, LONGEST_RETRY_AFTER_S) if wait_s >= 0 else None


def _ask(what: str, send: Callable[..., tuple[object, int, object]], **sent: object) -> Answer:
    """Send, and return the answer whatever it is; TargetUnavailableError when there is none that can be read."""
    try:
        _, status, _ = send(**sent)
    except ApiException as error:
        header = error.headers.get("Retry-After") if error.headers else None
        said = error.message if error.body else error.reason
        return Answer(error.status, _one_line(str(said)), retry_after_s(header, datetime.now(UTC)))
    except (HTTPError, OSError, UnicodeDecodeError) as error:
        raise TargetUnavailableError(f"influx {what}: {_one_line(str(error))}") from error
    return Answer(status, "" if status == HTTPStatus.NO_CONTENT else "is no answer of an InfluxDB")


def _one_line(text: str) -> str:
    """Return `text` without what cannot be printed, cut in the middle: both its ends say why."""
    half = (REASON_CHARS - 3) // 2
    short = text if len(text) <= REASON_CHARS else f"{text[:half]} … {text[-half:]}"
    return " ".join("".join(char if char.isprintable() else " " for char in short).split())


def _moment(unix_ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=unix_ms)
