"""MQTT in, receipts out: messages are judged and journalled in groups, and answered when that is on the disk.

The broker is only transport: what it acknowledges early or drops comes again, because the receipt is end to end.
"""

import logging
import time
from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from banua_collector import journal, mqtt
from banua_collector.clock import month_of
from banua_collector.config import Broker, Limits
from banua_collector.db import ensure_month
from banua_collector.errors import BrokerError, BrokerVersionError, ConfigError
from banua_collector.metrics import Metrics
from banua_collector.opened import Opened
from banua_collector.speakers import Speakers
from banua_collector.verify import Message, Refused, Unreadable, Verified
from banua_wire import birth
from banua_wire.envelope import MAX_MESSAGE
from banua_wire.errors import WireError
from banua_wire.receipt import Receipt, encode
from banua_wire.topics import parse, topic

LOG: Final = logging.getLogger("banua_collector.ingest")
RECONNECT_S: Final = (1.0, 60.0)
RETRY_S: Final = 5.0
MAX_VALUES: Final = 1_000_000
"""Once so many values are opened they are committed: about 50 MB."""
IDLE_S: Final = 0.5
"""How long a quiet broker is listened to before looking whether to stop."""


class Ingest:
    """From the broker's messages to the journal's receipts."""

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        limits: Limits,
        now_ms: Callable[[], int],
        checkpoint: Callable[[str], None],
        opened: Opened | None = None,
    ) -> None:
        """Prepare; `checkpoint` marks crash points for tests, `opened` gets what a projection will want to read."""
        self._opened = opened
        self._engine, self._metrics, self._limits = engine, metrics, limits
        self._now_ms, self._checkpoint = now_ms, checkpoint
        self._group: list[tuple[Message, bool]] = []
        self._months: set[str] = set()
        self._stopping = False
        self.connected = False
        self.failure = ""

    def run(self, broker: Broker) -> None:
        """Serve until `stop` is called, reconnecting for ever."""
        wait = RECONNECT_S[0]
        versions = mqtt.versions(broker)
        version = versions[0]
        while not self._stopping:
            try:
                with mqtt.Connection(broker, version, _topics(broker), self._heard, self._is_stopping) as connection:
                    wait = RECONNECT_S[0]
                    version = versions[0]  # to begin with the next time
                    self._serve(connection)
            except (BrokerError, ConfigError) as error:  # files of TLS and password are read anew
                if isinstance(error, BrokerVersionError):
                    version = versions[(versions.index(version) + 1) % len(versions)]
                self.failure = f"broker {broker.host}:{broker.port}: {error}"
                if not self._stopping:
                    LOG.warning("%s; next try in %.0f s", self.failure, wait)
            finally:
                self._set_connected(False)
            self._pause(wait)
            wait = min(wait * 2, RECONNECT_S[1])

    def stop(self) -> None:
        """Have `run` return soon; safe to call from a signal's handler."""
        self._stopping = True

    def _is_stopping(self) -> bool:
        return self._stopping

    def _pause(self, wait_s: float) -> None:
        end = time.monotonic() + wait_s
        while not self._stopping and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, IDLE_S))

    def _serve(self, connection: mqtt.Connection) -> None:
        """Read groups, store them, answer."""
        self._set_connected(True)
        self.failure = ""
        LOG.info("connected")
        while not self._stopping:
            try:
                self._read(connection)
            finally:  # what was read is stored, whatever has become of the connection
                receipts = self._store_read()
            for speaker, receipt in receipts:
                if connection.publish(topic(speaker, "receipt"), encode(receipt)):
                    self._metrics.receipts.inc()

    def _store_read(self) -> list[tuple[str, Receipt]]:
        group, self._group = self._group, []
        if not group:
            return []
        self._metrics.group_batches.set(len(group))
        receipts = self._stored(group)
        self._checkpoint("before_receipt")
        return receipts

    def _read(self, connection: mqtt.Connection) -> None:
        """Read until a group is full, or its first message has waited long enough and no other is there."""
        if not self._group:
            connection.turn(IDLE_S)
        end = time.monotonic() + self._limits.commit_wait_ms / 1000
        while self._group and len(self._group) < self._limits.commit_max_batches:
            before, left = len(self._group), end - time.monotonic()
            connection.turn(max(left, 0))
            if left <= 0 and len(self._group) == before:
                break

    def _heard(self, on: str, payload: bytes, retained: bool) -> None:
        if len(payload) > MAX_MESSAGE:
            self._metrics.batches.labels("unreadable").inc()
            LOG.warning("unreadable on %s: %d bytes, where a message has at most %d", on, len(payload), MAX_MESSAGE)
        elif len(self._group) < self._limits.commit_max_batches:  # more come only before the subscription is granted
            self._group.append((Message(on, payload, self._now_ms()), retained))

    def _stored(self, group: list[tuple[Message, bool]]) -> list[tuple[str, Receipt]]:
        """Store a group, trying again for as long as the database is away: nothing is receipted before.

        A group that fails for another reason is halved until the message that cannot be stored stands alone. That one
        gets no receipt, so its probe keeps it and in the end sets it aside; the others go on.
        """
        while not self._stopping:
            try:
                return self.take(group)
            except (DBAPIError, PoolTimeoutError) as error:
                if isinstance(error, DataError | IntegrityError):
                    return self._apart(group, error)
                self.failure = f"journal: {str(error).splitlines()[0]:.200}"
                LOG.exception("the journal refuses a group; next try in %.0f s", RETRY_S)
                self._pause(RETRY_S)
            except Exception as error:  # noqa: BLE001 (whatever it is, the others go on)
                return self._apart(group, error)
        return []

    def _apart(self, group: list[tuple[Message, bool]], error: Exception) -> list[tuple[str, Receipt]]:
        """Store the halves of a group that fails, or give up a message that does so alone."""
        if len(group) == 1:
            self._metrics.batches.labels("unstorable").inc()
            told = "cannot be stored, and gets no receipt: a message on %s"
            LOG.error(told, group[0][0].topic, exc_info=error)
            return []
        middle = len(group) // 2
        return [*self._stored(group[:middle]), *self._stored(group[middle:])]

    def take(self, group: list[tuple[Message, bool]]) -> list[tuple[str, Receipt]]:
        """Judge and store a group; return the receipts, which may be sent once this has returned.

        It is one commit, or several where the group holds more than `MAX_VALUES`.
        """
        receipts: list[tuple[str, Receipt]] = []
        while group:
            taken, more = self._commit(group)
            receipts += more
            group = group[taken:]
        return receipts

    def _commit(self, group: list[tuple[Message, bool]]) -> tuple[int, list[tuple[str, Receipt]]]:
        """Store as many messages of a group as may be opened at once; return how many, and their receipts."""
        began = time.perf_counter()
        max_bytes = self._limits.quarantine_max_mb * 1_000_000
        self._ensure_months(group)
        with self._engine.begin() as conn:
            speakers = Speakers(conn, (message.topic for message, _ in group))
            births: list[tuple[Message, bool]] = []
            judged: list[Verified | Refused] = []
            taken = values = 0
            while taken < len(group) and values < MAX_VALUES:
                message, retained = group[taken]
                taken += 1
                if message.topic.endswith("/state"):
                    births.append((message, retained))
                elif message.topic.endswith("/batch"):
                    judgement = speakers.judge(message)
                    if isinstance(judgement, Unreadable):
                        self._metrics.batches.labels("unreadable").inc()
                        LOG.warning("unreadable on %s: %s", message.topic, judgement.detail)
                    else:
                        judged.append(judgement)
                        values += judgement.values
            done = journal.store(conn, judged, now_ms=self._now_ms(), quarantine_max_bytes=max_bytes)
            for message, retained in births:
                self._answer_birth(conn, speakers, message, done, retained=retained)
            self._checkpoint("before_commit")
        self._checkpoint("after_commit")
        self._hand_on(judged, done.outcomes)
        self._metrics.commit_seconds.observe(time.perf_counter() - began)
        for outcome in done.outcomes:
            self._metrics.batches.labels(outcome).inc()
        for kind, n in done.rows.items():
            self._metrics.rows.labels(kind).inc(n)
        self.failure = ""
        return taken, done.receipts

    def _hand_on(self, judged: list[Verified | Refused], outcomes: list[str]) -> None:
        if self._opened is not None:
            for item, outcome in zip(judged, outcomes, strict=True):
                if isinstance(item, Verified) and outcome == "journalled":
                    self._opened.keep(item.digest, item.blocks)

    def _answer_birth(
        self, conn: Connection, speakers: Speakers, message: Message, done: journal.Committed, *, retained: bool
    ) -> None:
        try:
            speaker, _ = parse(message.topic)
            state = birth.decode(message.payload)
        except WireError as error:
            LOG.warning("state on %s: %s", message.topic, error)
            return
        if state.online:
            receipt = journal.answer_birth(
                conn,
                speakers.probe_id(speaker),
                state,
                retained=retained,
                came_ms=message.received_ms,
                now_ms=self._now_ms(),
            )
            done.receipts.append((speaker, receipt))

    def _ensure_months(self, group: list[tuple[Message, bool]]) -> None:
        for month in {month_of(message.received_ms) for message, _ in group} - self._months:
            ensure_month(self._engine, month)
            self._months.add(month)

    def _set_connected(self, connected: bool) -> None:
        self.connected = connected
        self._metrics.connected.set(int(connected))


def _topics(broker: Broker) -> list[str]:
    """Return what is subscribed to, through the shared subscription where there is one."""
    prefix = "" if broker.share is None else f"$share/{broker.share}/"
    return [prefix + topic("+", leaf) for leaf in ("batch", "state")]
