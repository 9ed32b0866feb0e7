"""The collector's threads and tasks: one refusal blocks nobody else, a lost broker leaves nothing hanging."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import OperationalError

from banua_collector.app import ProjectionLoop
from banua_collector.config import Limits
from banua_collector.ingest import Ingest
from banua_collector.metrics import Metrics
from banua_collector.project.target import TargetUnavailableError
from banua_collector.verify import Message

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest
    from sqlalchemy import Engine


class TwoProbes:
    """A projection whose probe 1 is refused for ever, and whose probe 2 has thirty pieces of work."""

    points_written = points_refused = ranges_deleted = 0

    def __init__(self) -> None:
        self.tried: list[int] = []
        self.left = 30

    def next_probe(self, skip: Iterable[int] = ()) -> int | None:
        return next((probe for probe in (1, 2) if probe not in skip and (probe == 1 or self.left)), None)

    def mind_restart(self) -> int:
        return 0

    def project_plain(self, skip: Iterable[int] = ()) -> int:
        del skip
        return 0

    def project(self, probe_id: int) -> bool:
        self.tried.append(probe_id)
        if probe_id == 1:
            raise TargetUnavailableError("422: points beyond retention policy")
        self.left -= 1
        return True


def test_a_probe_whose_points_are_refused_does_not_block_the_others(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("banua_collector.app.HOLD_S", (0.05, 30.0))
    projection: Any = TwoProbes()
    loop = ProjectionLoop(engine, projection, Metrics(engine))
    loop.start()
    deadline = time.monotonic() + 10
    while projection.left and time.monotonic() < deadline:
        time.sleep(0.01)
    assert projection.left == 0
    assert "422" in loop.failure
    loop.stop.set()
    loop.join(5)
    assert projection.tried.count(1) <= 9, "held longer each time"
    assert loop.failure == "the projection has ended"


class Away:
    """A projection whose target is away."""

    points_written = points_refused = ranges_deleted = asked = 0

    def mind_restart(self) -> int:
        self.asked += 1
        raise TargetUnavailableError("connection refused")


def test_a_target_that_is_away_is_asked_ever_less_often(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banua_collector.app.HOLD_S", (0.05, 30.0))
    projection: Any = Away()
    loop = ProjectionLoop(engine, projection, Metrics(engine))
    loop.start()
    time.sleep(2)
    loop.stop.set()
    loop.join(5)
    assert 3 <= projection.asked <= 6, "after 0.05, 0.15, 0.35, 0.75 and 1.55 s"


class FailsOnce:
    """A projection whose first look for work fails, as with a busy database, and that is idle from then on."""

    points_written = points_refused = ranges_deleted = looks = 0

    def mind_restart(self) -> int:
        return 0

    def project_plain(self, skip: Iterable[int] = ()) -> int:
        del skip
        return 0

    def next_probe(self, skip: Iterable[int] = ()) -> int | None:
        del skip
        self.looks += 1
        if self.looks == 1:
            raise OSError("disk busy")
        return None


def test_a_failure_that_is_over_is_no_reason_any_more(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banua_collector.app.HOLD_S", (0.05, 30.0))
    projection: Any = FailsOnce()
    loop = ProjectionLoop(engine, projection, Metrics(engine))
    loop.start()
    deadline = time.monotonic() + 10
    while (projection.looks < 3 or loop.failure) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert loop.failure == ""
    loop.stop.set()
    loop.join(5)


def test_a_message_that_breaks_the_storing_stands_alone_and_stops_nobody(sqlite_engine: Engine) -> None:
    metrics = Metrics(sqlite_engine)
    ingest = Ingest(sqlite_engine, metrics, Limits(), lambda: 0, lambda _: None)
    stored: list[str] = []

    def take(group: list[tuple[Message, bool]]) -> list[Any]:
        if any(message.payload == b"poison" for message, _ in group):
            raise ValueError("what nobody thought of")
        stored.extend(message.payload.decode() for message, _ in group)
        return [message.payload for message, _ in group]

    ingest.take = take  # type: ignore[method-assign]
    names = [b"poison" if number in {3, 4, 11} else str(number).encode() for number in range(16)]
    group = [(Message("banua/v1/p1/batch", name, 0), False) for name in names]
    answered: list[Any] = ingest._stored(group)
    assert answered == [name for name in names if name != b"poison"]
    assert stored == [name.decode() for name in names if name != b"poison"]
    assert metrics.batches.labels("unstorable")._value.get() == 3


def test_a_database_that_is_away_is_waited_for(sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banua_collector.ingest.RETRY_S", 0.01)
    ingest = Ingest(sqlite_engine, Metrics(sqlite_engine), Limits(), lambda: 0, lambda _: None)
    tries = iter([OperationalError("", {}, OSError("away"))] * 3)

    def take(group: list[tuple[Message, bool]]) -> list[Any]:
        error = next(tries, None)
        if error is not None:
            raise error
        return list(group)

    ingest.take = take  # type: ignore[method-assign]
    assert len(ingest._stored([(Message("banua/v1/p1/batch", b"1", 0), False)] * 2)) == 2


class OneIsTorn:
    """Ten probes; probe 1's work breaks the code, alone and among the plain work of all."""

    points_written = points_refused = ranges_deleted = 0

    def __init__(self) -> None:
        self.left = set(range(1, 11))

    def mind_restart(self) -> int:
        return 0

    def project_plain(self, skip: Iterable[int] = ()) -> int:
        if 1 not in skip:
            raise ValueError("torn")
        done = self.left - set(skip)
        self.left -= done
        return len(done)

    def next_probe(self, skip: Iterable[int] = ()) -> int | None:
        return min(self.left - set(skip), default=None)

    def project(self, probe_id: int) -> bool:
        if probe_id == 1:
            raise ValueError("torn")
        self.left.remove(probe_id)
        return True


def test_a_probe_whose_work_breaks_the_code_starves_nobody(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banua_collector.app.HOLD_S", (0.2, 30.0))
    projection: Any = OneIsTorn()
    loop = ProjectionLoop(engine, projection, Metrics(engine))
    loop.start()
    deadline = time.monotonic() + 10
    while projection.left != {1} and time.monotonic() < deadline:
        time.sleep(0.01)
    loop.stop.set()
    loop.join(5)
    assert projection.left == {1}
