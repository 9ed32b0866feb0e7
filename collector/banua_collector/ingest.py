"""MQTT in, receipts out: messages are judged and journalled in groups, and answered when that is on the disk.

The broker is only transport: what it acknowledges early or drops comes again, because the receipt is end to end. Memory
is bounded: a full queue makes the client read on, and what it drops then is sent again.
"""

import asyncio
import logging
import secrets
import ssl
import time
from collections.abc import Callable
from typing import Final

import aiomqtt
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from banua_collector import journal
from banua_collector.clock import month_of
from banua_collector.config import Broker, Limits, read_secret
from banua_collector.db import ensure_month
from banua_collector.errors import ConfigError
from banua_collector.metrics import Metrics
from banua_collector.speakers import Speakers
from banua_collector.verify import Message, Refused, Unreadable, Verified
from banua_wire import birth
from banua_wire.errors import WireError
from banua_wire.receipt import Receipt, encode
from banua_wire.topics import parse, topic

LOG: Final = logging.getLogger("banua_collector.ingest")
KEEPALIVE_S: Final = 60
RECONNECT_S: Final = (1.0, 60.0)
RETRY_S: Final = 5.0


class Ingest:
    """From the broker's messages to the journal's receipts."""

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        limits: Limits,
        now_ms: Callable[[], int],
        checkpoint: Callable[[str], None],
    ) -> None:
        """Prepare; `checkpoint` marks crash points for tests."""
        self._engine, self._metrics, self._limits = engine, metrics, limits
        self._now_ms, self._checkpoint = now_ms, checkpoint
        self._queue: asyncio.Queue[tuple[Message, bool]] = asyncio.Queue(limits.queue_max)
        self._months: set[str] = set()
        self.connected = False
        self.failure = ""

    async def run(self, broker: Broker) -> None:
        """Serve until cancelled, reconnecting for ever."""
        wait = RECONNECT_S[0]
        version = _versions(broker.protocol)[0]
        while True:
            try:
                async with _client(broker, version, self._limits.queue_max) as client:
                    wait = RECONNECT_S[0]
                    await self._serve(client, _shared(broker, version))
            except (aiomqtt.MqttError, OSError, ConfigError) as error:  # files of TLS and password are read anew
                versions = _versions(broker.protocol)
                version = versions[(versions.index(version) + 1) % len(versions)] if not self.connected else version
                self.failure = f"broker {broker.host}:{broker.port}: {error}"
                LOG.warning("%s; next try in %.0f s", self.failure, wait)
            finally:
                self._set_connected(False)
            await asyncio.sleep(wait)
            wait = min(wait * 2, RECONNECT_S[1])

    async def _serve(self, client: aiomqtt.Client, prefix: str) -> None:
        for leaf in ("batch", "state"):
            await client.subscribe(prefix + topic("+", leaf), qos=1)
        self._set_connected(True)
        LOG.info("connected")
        both = {asyncio.create_task(self._read(client)), asyncio.create_task(self._work(client))}
        try:
            done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
        for task in done:
            task.result()

    async def _read(self, client: aiomqtt.Client) -> None:
        """Put what comes into the queue, waiting while that is full."""
        async for message in client.messages:
            came = Message(str(message.topic), bytes(message.payload), self._now_ms())
            await self._queue.put((came, bool(message.retain)))

    async def _work(self, client: aiomqtt.Client) -> None:
        """Take groups from the queue, store them, answer."""
        while True:
            group = [await self._queue.get()]
            await asyncio.sleep(self._limits.commit_wait_ms / 1000)
            while len(group) < self._limits.commit_max_batches and not self._queue.empty():
                group.append(self._queue.get_nowait())
            self._metrics.queue_batches.set(self._queue.qsize())
            receipts = await self._stored(group)
            self._checkpoint("before_receipt")
            for speaker, receipt in receipts:
                await client.publish(topic(speaker, "receipt"), encode(receipt), qos=0)
                self._metrics.receipts.inc()

    async def _stored(self, group: list[tuple[Message, bool]]) -> list[tuple[str, Receipt]]:
        """Store a group, trying again for as long as the database is away: nothing is receipted before.

        A group that fails for another reason is halved until the message that cannot be stored stands alone. That one
        gets no receipt, so its probe keeps it and in the end sets it aside; the others go on.
        """
        while True:
            try:
                return await asyncio.to_thread(self.take, group)
            except (DBAPIError, PoolTimeoutError) as error:
                if isinstance(error, DataError | IntegrityError):
                    return await self._apart(group, error)
                self.failure = f"journal: {str(error).splitlines()[0]:.200}"
                LOG.exception("the journal refuses a group; next try in %.0f s", RETRY_S)
                await asyncio.sleep(RETRY_S)
            except Exception as error:  # noqa: BLE001 (whatever it is, the others go on)
                return await self._apart(group, error)

    async def _apart(self, group: list[tuple[Message, bool]], error: Exception) -> list[tuple[str, Receipt]]:
        """Store the halves of a group that fails, or give up a message that does so alone."""
        if len(group) == 1:
            self._metrics.batches.labels("unstorable").inc()
            told = "cannot be stored, and gets no receipt: a message on %s"
            LOG.error(told, group[0][0].topic, exc_info=error)
            return []
        middle = len(group) // 2
        return [*await self._stored(group[:middle]), *await self._stored(group[middle:])]

    def take(self, group: list[tuple[Message, bool]]) -> list[tuple[str, Receipt]]:
        """Judge and store a group in one commit; return the receipts, which may be sent once this has returned."""
        began = time.perf_counter()
        max_bytes = self._limits.quarantine_max_mb * 1_000_000
        self._ensure_months(group)
        with self._engine.begin() as conn:
            speakers = Speakers(conn, (message.topic for message, _ in group))
            births = [(message, retained) for message, retained in group if message.topic.endswith("/state")]
            judged: list[Verified | Refused] = []
            for message, _ in group:
                if message.topic.endswith("/batch"):
                    judgement = speakers.judge(message)
                    if isinstance(judgement, Unreadable):
                        self._metrics.batches.labels("unreadable").inc()
                        LOG.warning("unreadable on %s: %s", message.topic, judgement.detail)
                    else:
                        judged.append(judgement)
            done = journal.store(conn, judged, now_ms=self._now_ms(), quarantine_max_bytes=max_bytes)
            for message, retained in births:
                self._answer_birth(conn, speakers, message, done, retained=retained)
            self._checkpoint("before_commit")
        self._checkpoint("after_commit")
        self._metrics.commit_seconds.observe(time.perf_counter() - began)
        for outcome in done.outcomes:
            self._metrics.batches.labels(outcome).inc()
        for kind, n in done.rows.items():
            self._metrics.rows.labels(kind).inc(n)
        self.failure = ""
        return done.receipts

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


def _shared(broker: Broker, version: aiomqtt.ProtocolVersion) -> str:
    """Return what a shared subscription begins with, nothing for a collector of its own.

    A broker that speaks only MQTT 3.1.1 may grant it and then deliver nothing, so that is refused here.
    """
    if broker.share is None:
        return ""
    if version is not aiomqtt.ProtocolVersion.V5:
        raise ConfigError("share needs MQTT 5, which this broker does not speak")
    return f"$share/{broker.share}/"


def _versions(protocol: str) -> list[aiomqtt.ProtocolVersion]:
    v5, v311 = aiomqtt.ProtocolVersion.V5, aiomqtt.ProtocolVersion.V311
    return {"auto": [v5, v311], "5": [v5], "3.1.1": [v311]}[protocol]


def _client(broker: Broker, version: aiomqtt.ProtocolVersion, queue_max: int) -> aiomqtt.Client:
    return aiomqtt.Client(
        broker.host,
        broker.port,
        username=broker.username,
        password=read_secret(broker.password_file) if broker.password_file else None,
        identifier=f"collector-{secrets.token_hex(4)}",
        protocol=version,
        keepalive=KEEPALIVE_S,
        tls_context=_tls_context(broker) if broker.tls else None,
        max_queued_incoming_messages=queue_max,
        clean_session=True if version is aiomqtt.ProtocolVersion.V311 else None,
    )


def _tls_context(broker: Broker) -> ssl.SSLContext:
    """Return a client context that trusts the configured CA alone and shows our certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(broker.ca_file)
    if broker.cert_file is not None:
        context.load_cert_chain(broker.cert_file, broker.key_file)
    return context
