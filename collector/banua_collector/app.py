"""The collector process: broker → ingest → journal → projection → pages. This module composes them."""

import contextlib
import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import uvicorn
from sqlalchemy import Engine

from banua_collector.clock import wall_ms
from banua_collector.config import Config, Database, Influx, read_secret
from banua_collector.db import migrate, open_engine, reading
from banua_collector.errors import CollectorError
from banua_collector.ingest import Ingest
from banua_collector.metrics import Metrics
from banua_collector.opened import Opened
from banua_collector.project.influx import InfluxProjection, age_s, backlog
from banua_collector.project.target import InfluxTarget, TargetUnavailableError
from banua_collector.registry import load_villages
from banua_collector.web.app import make_app

LOG: Final = logging.getLogger("banua_collector")
IDLE_S: Final = 0.2
HOLD_S: Final = (1.0, 60.0)
"""How long the projection waits after a failure: doubling, without an end to trying."""
LOOK_S: Final = 5.0
"""How often is looked whether the target was started anew."""
CLAIMED_S: Final = 1.0
"""How long a probe is left alone whose work another process has claimed."""


def crash_point() -> Callable[[str], None]:
    """Return the hook that ends the process at the crash point named in BANUA_CRASH_AT (``name`` or ``name:n``)."""
    name, _, count = os.environ.get("BANUA_CRASH_AT", "").partition(":")
    left = int(count or 1)

    def reach(point: str) -> None:
        nonlocal left
        if point == name:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return reach


@dataclass(frozen=True, slots=True)
class Hold:
    """Until when (monotonic, s) work is left alone, how long that wait was, and why."""

    until: float
    wait: float
    why: str


class ProjectionLoop(threading.Thread):
    """Runs the projection in a thread of its own until `stop` is set; it waits for the target, for ever if need be.

    What fails holds its probe, longer each time, and everything for a moment: a target that is away fails with every
    probe and is asked ever less often; a probe whose work alone fails leaves the others their turn.
    """

    def __init__(self, engine: Engine, projection: InfluxProjection, metrics: Metrics) -> None:
        """Prepare; `start` begins."""
        super().__init__(name="projection", daemon=True)
        self._engine, self._projection, self._metrics = engine, projection, metrics
        self.stop = threading.Event()
        self._held: dict[int | None, Hold] = {}  # by probe; None: the plain work of all of them
        self._targets_fault: set[int | None] = set()  # whose work the target did not take, none in between
        self._look_at = 0.0

    def run(self) -> None:
        """Project until told to stop."""
        while not self.stop.is_set():
            key: int | None = None
            try:
                resting = [each for each, hold in self._held.items() if hold.until > time.monotonic()]
                skip = [probe_id for probe_id in resting if probe_id is not None]
                if time.monotonic() >= self._look_at:
                    self._projection.mind_restart()
                    self._look_at = time.monotonic() + LOOK_S
                if None not in resting:
                    self._projection.project_plain(skip)
                    self._held.pop(None, None)
                key = self._projection.next_probe(skip)
                if key is None:
                    self._tell()
                    self.stop.wait(IDLE_S)
                elif self._projection.project(key):
                    self._done(key)
                else:
                    self._held[key] = Hold(time.monotonic() + CLAIMED_S, 0, "")
            except TargetUnavailableError as error:
                self._metrics.projection_errors.labels("target").inc()
                self._look_at = 0.0
                self._target_failed(key, error)
            except Exception:  # whatever it is, the journal keeps the work
                self._metrics.projection_errors.labels("internal").inc()
                LOG.exception("projection failed")
                self._hold(key, "projection failed: see the log")
                self.stop.wait(HOLD_S[0])
            self._metrics.projected(self._projection)

    @property
    def failure(self) -> str:
        """What keeps some of the work from being written; empty when nothing does."""
        if not self.is_alive():
            return "the projection has ended"
        return next((hold.why for hold in list(self._held.values()) if hold.why), "")

    def _done(self, probe_id: int) -> None:
        if len(self._targets_fault - {None}) > 1:  # it was the target, and that is back: all may try again
            self._held.clear()
        self._targets_fault.clear()
        self._held.pop(probe_id, None)

    def _target_failed(self, key: int | None, error: TargetUnavailableError) -> None:
        """Leave the target alone: longer with each further probe that it fails with, or each time it fails with all."""
        self._targets_fault.add(key)
        asked_s = error.retry_after_s or 0
        held_s = self._hold(key, str(error), asked_s)
        pause_s = held_s if key is None else min(HOLD_S[0] * 2.0 ** (len(self._targets_fault) - 1), HOLD_S[1])
        pause_s = max(pause_s, asked_s)
        LOG.warning("%s; next try in %.0f s", error, pause_s)
        self.stop.wait(pause_s)

    def _hold(self, key: int | None, why: str, at_least_s: float = 0) -> float:
        """Leave work alone, longer each time; return for how long (s)."""
        before = self._held.get(key)
        wait = max(HOLD_S[0], at_least_s) if before is None else min(max(before.wait * 2, HOLD_S[0]), HOLD_S[1])
        self._held[key] = Hold(time.monotonic() + wait, wait, why)
        return wait

    def _tell(self) -> None:
        with reading(self._engine) as conn:
            count, oldest = backlog(conn)
        self._metrics.todo.labels("influx").set(count)
        self._metrics.oldest_todo_seconds.labels("influx").set(age_s(oldest, wall_ms()))


def run(config: Config) -> int:
    """Run the collector that `config` describes until SIGTERM or SIGINT; CollectorError tells what prevents it."""
    logging.basicConfig(level="INFO", format="%(levelname)s %(name)s: %(message)s")
    engine = engine_of(config.database)
    migrate(engine)
    with engine.begin() as conn:
        load_villages(conn)
    gc.freeze()  # what is loaded stays; rows come and go by the ten thousand and form no cycles
    gc.set_threshold(100_000, 50, 1000)
    metrics = Metrics(engine)
    opened = None if config.influx is None else Opened(time.monotonic)
    ingest = Ingest(engine, metrics, config.limits, wall_ms, crash_point(), opened)
    loop = _projection(config, engine, metrics, opened)
    server = _web(config, metrics, ingest, loop)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ingest.stop())
    try:
        ingest.run(config.broker)
    finally:
        server.should_exit = True
        if loop is not None:
            loop.stop.set()
            loop.join(timeout=40)
    return 0


def engine_of(database: Database) -> Engine:
    """Return the configured database, opened."""
    return open_engine(database.url, database.password())


def influx_target(influx: Influx) -> InfluxTarget:
    """Return the configured bucket to write to."""
    return InfluxTarget(influx.url, influx.org, influx.bucket, read_secret(influx.token_file))


def _projection(config: Config, engine: Engine, metrics: Metrics, opened: Opened | None) -> ProjectionLoop | None:
    if config.influx is None:
        return None
    target = influx_target(config.influx)
    loop = ProjectionLoop(engine, InfluxProjection(engine, target, wall_ms, opened), metrics)
    loop.start()
    return loop


def _web(config: Config, metrics: Metrics, ingest: Ingest, loop: ProjectionLoop | None) -> uvicorn.Server:
    def ready() -> list[str]:
        waiting = "" if ingest.connected else "not connected to the broker yet"
        reasons = (ingest.failure or waiting, "" if loop is None else loop.failure)
        return [reason for reason in reasons if reason]

    pages = engine_of(config.database)  # readers never wait for, or use up, the connections that ingest needs
    app = make_app(pages, metrics, healthy=list, ready=ready, now_ms=wall_ms)
    server = uvicorn.Server(
        uvicorn.Config(app, host=config.web.host, port=config.web.port, log_level="warning", access_log=False)
    )
    thread = threading.Thread(target=_serve, args=(server,), name="web", daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise CollectorError(f"web: cannot listen on {config.web.host}:{config.web.port}; is the port in use?")
        time.sleep(0.02)
    LOG.info("pages on http://%s:%d/", config.web.host, config.web.port)
    return server


def _serve(server: uvicorn.Server) -> None:
    with contextlib.suppress(SystemExit):  # uvicorn's way to say that it cannot listen
        server.run()
