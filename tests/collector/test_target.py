"""What becomes of a write by what the server answers. The server runs in here and answers as each test says."""

import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from banua_collector.project.target import COMMENT, InfluxTarget, Refusal, TargetUnavailableError, retry_after_s

NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
UNPARSABLE: Final = "unable to parse '{}': missing fields"
CONFLICT: Final = "failure writing points to database: partial write: field type conflict: {} dropped={}"
TOO_OLD: Final = (
    "failure writing points to database: partial write: dropped {} points outside retention policy of 1h0m0s"
)


class Reply(NamedTuple):
    """What the server answers; no `status`: it hangs up without a word."""

    status: int = 204
    body: str | bytes = ""
    headers: Mapping[str, str] = {}
    delay_s: float = 0.0


def said(status: int, message: str) -> Reply:
    return Reply(status, json.dumps({"code": "whatever", "message": message}))


class Server:
    """Answers by `answer(path, body)` and keeps every request's path and lines."""

    def __init__(self) -> None:
        self.answer: Callable[[str, str], Reply] = lambda _path, _body: Reply()
        self.paths: list[str] = []
        self.requests: list[list[str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                outer.paths.append(self.path)
                outer.requests.append(body.split("\n"))
                reply = outer.answer(self.path, body)
                outer.slept.wait(reply.delay_s)
                if not reply.status:
                    self.close_connection = True
                    return
                content = reply.body.encode() if isinstance(reply.body, str) else reply.body
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if reply.status != 204:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if reply.status != 204:
                    self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.slept = threading.Event()  # never set before the end: a delay is waited for in full
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.slept.set()
        self._http.shutdown()
        self._http.server_close()


class Influx:
    """As InfluxDB 2.7: 400 stores nothing, 422 stores the others; `limit` chars at most in one write."""

    def __init__(self, *, unparsable: Sequence[str] = (), conflicting: Sequence[str] = (), limit: int = 10**9) -> None:
        self.unparsable, self.conflicting, self.limit = set(unparsable), set(conflicting), limit
        self.stored: set[str] = set()

    def __call__(self, _path: str, body: str) -> Reply:
        if len(body) > self.limit:
            return Reply(413, "<html>Request Entity Too Large</html>")
        lines = [line for line in body.split("\n") if not line.startswith("#")]
        if wrong := [line for line in lines if line in self.unparsable]:
            return said(400, "\n".join(UNPARSABLE.format(line) for line in wrong))
        dropped = [line for line in lines if line in self.conflicting]
        self.stored |= set(lines) - self.conflicting
        return said(422, CONFLICT.format(dropped[0], len(dropped))) if dropped else Reply()


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Server, InfluxTarget]]:
    server = Server()
    target = InfluxTarget(server.url, "banua", "bucket", "token", timeout_ms=10_000)
    yield server, target
    target.close()
    server.close()


@pytest.fixture
def server(running: tuple[Server, InfluxTarget]) -> Server:
    server, _ = running
    server.answer = lambda _path, _body: Reply()
    server.requests.clear()
    server.paths.clear()
    return server


@pytest.fixture
def target(running: tuple[Server, InfluxTarget]) -> InfluxTarget:
    return running[1]


def good(n: int) -> list[str]:
    return [f"radio,probe=p{i} rsrp_dbm=-101.0 {i}" for i in range(n)]


def always(reply: Reply) -> Callable[[str, str], Reply]:
    return lambda _path, _body: reply


# --- stored, or not known to be -------------------------------------------------------------------------------------


def test_a_write_that_is_taken_is_one_request(server: Server, target: InfluxTarget) -> None:
    assert target.write(good(3)) == []
    assert server.requests == [good(3)]
    assert server.paths == ["/api/v2/write?org=banua&bucket=bucket&precision=ns"]


def test_no_lines_are_no_request(server: Server, target: InfluxTarget) -> None:
    assert target.write([]) == []
    assert server.requests == []


@pytest.mark.parametrize(
    "status", [200, 201, 202, 300, 401, 402, 403, 404, 405, 408, 409, 410, 418, 421, 429, 500, 501, 502, 503, 504, 599]
)
def test_any_other_status_is_tried_again_later_and_refuses_nothing(
    server: Server, target: InfluxTarget, status: int
) -> None:
    server.answer = always(said(status, "unable to parse 'x': partial write: no"))
    with pytest.raises(TargetUnavailableError, match=f"^influx write: {status} ") as caught:
        target.write(good(4))
    assert caught.value.retry_after_s is None
    assert server.requests == [good(4)], "asked once: waiting and asking again is the caller's"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(server: Server, target: InfluxTarget, status: int) -> None:
    server.answer = lambda path, _body: Reply() if path == "/login" else Reply(status, headers={"Location": "/login"})
    with pytest.raises(TargetUnavailableError, match=str(status)):
        target.write(good(2))
    assert len(server.paths) == 1


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize(
    "body",
    [
        "",
        "<html>Bad Request</html>",
        b"\xff\xfe",
        "null",
        "[]",
        '{"code":"invalid","message":"organization name \\"banua\\" is malformed"}',
        '{"message":{"unable to parse":1}}',
    ],
)
def test_a_refusal_that_does_not_speak_of_the_lines_refuses_none(
    server: Server, target: InfluxTarget, status: int, body: str | bytes
) -> None:
    server.answer = always(Reply(status, body))
    with pytest.raises(TargetUnavailableError, match=r"^influx write: ") as caught:
        target.write(good(4))
    assert "\n" not in str(caught.value)
    assert server.requests == [good(4)]


@pytest.mark.parametrize(
    "reply", [said(400, UNPARSABLE.format("x")), said(422, CONFLICT.format("x", 1)), Reply(413, "too large")]
)
@pytest.mark.parametrize("n", [1, 64])
def test_what_refuses_everything_refuses_nothing(server: Server, target: InfluxTarget, reply: Reply, n: int) -> None:
    server.answer = always(reply)
    with pytest.raises(TargetUnavailableError, match=f"takes not even a comment: {reply.status}"):
        target.write(good(n))
    assert server.requests == [good(n), [COMMENT]]


def test_nobody_listening_is_tried_again_later() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    target = InfluxTarget(f"http://127.0.0.1:{port}", "banua", "bucket", "token")
    with pytest.raises(TargetUnavailableError, match=r"^influx write: .*refused"):
        target.write(good(1))
    target.close()


def test_a_server_that_hangs_up_is_asked_once(server: Server, target: InfluxTarget) -> None:
    server.answer = always(Reply(0))
    with pytest.raises(TargetUnavailableError):
        target.write(good(1))
    assert len(server.requests) == 1


def test_an_answer_too_late_is_none_and_a_slow_one_counts(server: Server) -> None:
    server.answer = always(Reply(delay_s=0.6))
    hasty = InfluxTarget(server.url, "banua", "bucket", "token", timeout_ms=200)
    with pytest.raises(TargetUnavailableError, match="timed out"):
        hasty.write(good(1))
    hasty.close()
    patient = InfluxTarget(server.url, "banua", "bucket", "token", timeout_ms=10_000)
    assert patient.write(good(1)) == []
    patient.close()


# --- Retry-After ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 404, 429, 503])
def test_retry_after_is_told_and_not_slept(server: Server, target: InfluxTarget, status: int) -> None:
    server.answer = always(Reply(status, headers={"Retry-After": "7"}))
    began = time.monotonic()
    with pytest.raises(TargetUnavailableError) as caught:
        target.write(good(2))
    assert caught.value.retry_after_s == 7
    assert time.monotonic() - began < 5
    assert len(server.requests) == 1


def test_retry_after_may_be_a_date(server: Server, target: InfluxTarget) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(minutes=10), usegmt=True)
    server.answer = always(Reply(503, headers={"Retry-After": later}))
    with pytest.raises(TargetUnavailableError) as caught:
        target.write(good(2))
    assert caught.value.retry_after_s == pytest.approx(600, abs=30)


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        (None, None),
        ("0", 0),
        ("120", 120),
        ("86401", 86_400),
        ("9" * 5000, 86_400),
        ("Sun, 01 Mar 2026 12:02:00 GMT", 120),
        ("Sun, 01 Mar 2026 12:02:00 -0000", 120),
        ("Sunday, 01-Mar-26 12:02:00 GMT", 120),
        ("Mon, 01 Mar 2027 12:00:00 GMT", 86_400),
        ("Sun, 01 Mar 2026 11:59:59 GMT", None),
        ("-5", None),
        ("1.5", None),
        ("1e3", None),
        ("nan", None),
        ("soon", None),
        ("", None),
        ("٣", None),
        ("Sun, 99 Mar 2026 12:02:00 GMT", None),
        ("Sun, 01 Mar 2026 12:02:00 +99999999999999", None),
    ],
)
def test_retry_after_is_read_within_bounds(header: str | None, wait_s: float | None) -> None:
    assert retry_after_s(header, NOW) == wait_s


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ [+-]?\w*", fullmatch=True))
def test_no_retry_after_can_break_it(header: str) -> None:
    wait_s = retry_after_s(header, NOW)
    assert wait_s is None or 0 <= wait_s <= 86_400


# --- lines at fault -------------------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(faults=st.lists(st.sampled_from(["", "", "unparsable", "conflicting"]), min_size=1, max_size=64))
def test_exactly_the_lines_at_fault_are_refused_and_all_others_stored(
    server: Server, target: InfluxTarget, faults: list[str]
) -> None:
    server.requests.clear()
    lines = good(len(faults))
    by_fault = {name: [line for line, fault in zip(lines, faults, strict=True) if fault == name] for name in faults}
    influx = Influx(unparsable=by_fault.get("unparsable", []), conflicting=by_fault.get("conflicting", []))
    server.answer = influx
    refusals = target.write(lines)
    assert [refusal.line for refusal in refusals] == [line for line in lines if line not in by_fault.get("", [])]
    for refusal in refusals:
        assert refusal.line in refusal.reason, "in the words that are about this line"
    assert influx.stored == set(by_fault.get("", []))
    assert len(server.requests) <= 2 + 2 * len(refusals) * math.ceil(math.log2(len(lines)))
    assert len(server.requests) <= 2 * len(lines)


def test_one_line_at_fault_among_many_costs_little(server: Server, target: InfluxTarget) -> None:
    lines = good(4096)
    for at in (0, 1234, 4095):
        server.requests.clear()
        server.answer = Influx(conflicting=[lines[at]])
        assert [refusal.line for refusal in target.write(lines)] == [lines[at]]
        assert len(server.requests) <= 2 + 2 * 12
    assert len(server.requests) == 2 + 12 + 1, "what must hold the fault is not sent whole to learn that"


def test_a_line_that_stands_when_it_is_sent_alone_is_not_refused(server: Server, target: InfluxTarget) -> None:
    """A writer elsewhere may have made it fit meanwhile: nobody is refused by elimination."""
    server.answer = lambda _path, body: said(400, UNPARSABLE.format("x")) if "\n" in body else Reply()
    assert target.write(good(4)) == []
    assert sorted(line for request in server.requests for line in request if len(request) == 1) == [COMMENT, *good(4)]


def test_a_target_that_fails_meanwhile_refuses_nothing(server: Server, target: InfluxTarget) -> None:
    lines = good(64)
    influx = Influx(unparsable=[lines[5], lines[50]])

    def fails_later(path: str, body: str) -> Reply:
        return influx(path, body) if len(server.requests) < 14 else Reply(503, headers={"Retry-After": "3"})

    server.answer = fails_later
    with pytest.raises(TargetUnavailableError, match="503") as caught:
        target.write(lines)
    assert caught.value.retry_after_s == 3
    assert len(server.requests) == 14


def test_lines_older_than_the_bucket_keeps_are_refused_at_once(server: Server, target: InfluxTarget) -> None:
    def keeps_from_16(_path: str, body: str) -> Reply:
        old = sum(int(line.rsplit(" ", 1)[1]) < 16 for line in body.split("\n") if not line.startswith("#"))
        return said(422, TOO_OLD.format(old)) if old else Reply()

    server.answer = keeps_from_16
    refusals = target.write(good(64))
    assert [refusal.line for refusal in refusals] == good(16)
    assert {refusal.reason for refusal in refusals} == {TOO_OLD.format(16)}
    assert len(server.requests) == 6


def test_what_is_too_large_is_sent_in_parts(server: Server, target: InfluxTarget) -> None:
    lines = good(64)
    influx = Influx(unparsable=[lines[7]], limit=200)
    server.answer = influx
    assert [refusal.line for refusal in target.write(lines)] == [lines[7]]
    assert influx.stored == set(lines) - {lines[7]}


def test_a_line_too_large_by_itself_is_refused(server: Server, target: InfluxTarget) -> None:
    lines = [*good(9), f'radio,probe=p text="{"x" * 500}" 1']
    influx = Influx(limit=200)
    server.answer = influx
    assert target.write(lines) == [Refusal(lines[9], "<html>Request Entity Too Large</html>")]
    assert influx.stored == set(good(9))


def test_a_reason_is_one_short_line_with_both_its_ends(server: Server, target: InfluxTarget) -> None:
    message = UNPARSABLE.format("\x1b[2J\n" + "x" * 70_000) + "\nmax key length exceeded"
    server.answer = lambda _path, body: Reply() if body == COMMENT else said(400, message)
    [refusal] = target.write(["x"])
    assert refusal.reason.startswith("unable to parse ' [2J xxx")
    assert refusal.reason.endswith("xxx': missing fields max key length exceeded")
    assert len(refusal.reason) <= 300
    assert refusal.reason.isprintable()


# --- delete ---------------------------------------------------------------------------------------------------------


def test_a_delete_names_the_probe_and_both_ends(server: Server, target: InfluxTarget) -> None:
    target.delete("p1", 1_000, 2_500)
    assert server.paths == ["/api/v2/delete?org=banua&bucket=bucket"]
    assert json.loads(server.requests[0][0]) == {
        "start": "1970-01-01T00:00:01+00:00",
        "stop": "1970-01-01T00:00:02.501000+00:00",
        "predicate": 'probe="p1"',
    }


@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 404, 413, 422, 429, 500, 503])
def test_a_delete_that_is_not_confirmed_is_tried_again_later(server: Server, target: InfluxTarget, status: int) -> None:
    server.answer = always(said(status, "unable to parse 'x'")._replace(headers={"Retry-After": "9"}))
    with pytest.raises(TargetUnavailableError, match=f"^influx delete: {status} ") as caught:
        target.delete("p1", 1, 2)
    assert caught.value.retry_after_s == (None if status == 200 else 9)
    assert len(server.requests) == 1
