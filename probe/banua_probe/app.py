"""The probe daemon: sensors → outbox → uplink, and receipts back. This module composes them and spells the flow out.

Sensor threads and paho's thread post into one inbox; the main thread takes everything out of it, owns the outbox, and
decides with `SealPolicy` and `Delivery`.
"""

import logging
import os
import queue
import random
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from banua_probe import clock
from banua_probe.clock import Anchor
from banua_probe.config import Config, check_secret
from banua_probe.delivery import MAX_TRIES, WINDOW, Delivery
from banua_probe.errors import ConfigError, OutboxError
from banua_probe.outbox import Outbox, Owner, Ref
from banua_probe.outbox_file import EVICTABLE, REFUSED, SET_ASIDE, WAITING
from banua_probe.schedule import Periodic, SealPolicy
from banua_probe.sensors import Surroundings, Task, tasks
from banua_probe.uplink import NO_SUBSCRIBERS, Connected, Down, Event, Incoming, Puback, Uplink
from banua_wire import __version__, birth, receipt
from banua_wire.birth import State
from banua_wire.errors import WireError
from banua_wire.receipt import REASONS, Receipt
from banua_wire.rows import Row
from banua_wire.topics import parse, topic

LOG: Final = logging.getLogger("banua_probe")
INBOX_SIZE: Final = 1000
STEP_S: Final = 0.5
RECONNECT_MS: Final = (1_000, 300_000)
TAKEN_OVER_MS: Final = (60_000, 1_800_000)
RETRY_MS: Final = 30_000
"""How long the disk is left alone after it refused a write."""
STEADY_MS: Final = 60_000
"""A connection that lasts this long resets the reconnection back-off."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that a sensor finished."""

    rows: list[Row]


def read_secret(file: Path) -> bytes:
    """Return the probe's secret key; ConfigError when it is missing, readable by others or no key."""
    if not file.exists():
        raise ConfigError(f"key_file: {file} is missing; `banua-probe init` makes it")
    check_secret("key_file", str(file))
    try:
        secret = bytes.fromhex(file.read_text(encoding="ascii").strip())
    except (ValueError, OSError) as error:
        raise ConfigError(f"key_file: {file}: {error}") from None
    if len(secret) != 32:  # noqa: PLR2004 (an Ed25519 secret)
        raise ConfigError(f"key_file: {file} does not hold 64 hexadecimal digits")
    return secret


def crash_point() -> Callable[[str], None]:
    """Return the hook that kills the process at the point a test names in BANUA_CRASH_AT (``name`` or ``name:n``)."""
    name, _, count = os.environ.get("BANUA_CRASH_AT", "").partition(":")
    left = int(count or 1)

    def reach(point: str) -> None:
        nonlocal left
        if point == name:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return reach


class Link(Protocol):
    """What carries messages to the broker; what happens there is handed to `Probe.handle` as an `Event`."""

    def connect(self, will: tuple[str, bytes]) -> None:
        """Start a connection; `Connected` or `Down` follows."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        """Send at QoS 1 and return the message's mid, 0 when there is no connection."""

    def close(self) -> None:
        """End the connection, without a further event."""


class Probe:
    """One running probe; `run` returns when it was asked to stop."""

    def __init__(
        self,
        config: Config,
        outbox: Outbox,
        owner: Owner,
        rng: random.Random,
        *,
        sense: Callable[[Config, Surroundings], list[Task]] = tasks,
        link: Link | None = None,
        ntp: Callable[[], Anchor | None] = clock.ntp_anchor,
        checkpoint: Callable[[str], None],
    ) -> None:
        """Compose the parts around an open outbox.

        `sense` says what is measured, `link` carries messages (an `Uplink` unless given), `ntp` asks the kernel for an
        anchor, `checkpoint` marks crash points.
        """
        self._config, self._outbox, self._owner, self._rng = config, outbox, owner, rng
        self._now = owner.boottime_ms
        self._inbox: queue.Queue[Event | Rows] = queue.Queue(INBOX_SIZE)
        self._uplink = link or Uplink(config.broker, config.name, [topic(config.name, "receipt")], self.post)
        self._ntp = ntp
        self._delivery = Delivery(rng, outbox.newest_before_start)
        now = self._now()
        schedule = config.schedule
        self._policy = SealPolicy(schedule.commit_s * 1000, schedule.seal_s * 1000, now, now)
        self._anchor: Anchor | None = None
        self._mids: dict[int, Ref] = {}
        self._reconnect_at: int | None = now
        self._connected_ms = 0
        self._ask_to_come = 0
        self._retried: set[int] = set()
        self._backoff = RECONNECT_MS
        self._last_state: dict[Any, Any] = {}
        self._backlog = (0, 0)
        self._stopping = threading.Event()
        self._sense_tasks, self._checkpoint = sense, checkpoint

    def post(self, event: Event) -> None:
        """Put an event of the connection into the inbox; from a flood, what comes again anyway is dropped."""
        passing = isinstance(event, Incoming | Puback)
        try:
            self._inbox.put(event, block=not passing, timeout=STEP_S * 20)
        except queue.Full:
            LOG.warning("the inbox is full: %s dropped", type(event).__name__)

    def stop(self, *_: Any) -> None:
        """Ask for a clean stop; may be called from a signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Sense, keep and send until asked to stop; then seal what there is and leave."""
        self._outbox.note("start", __version__)
        self._outbox.seal()  # rows that an earlier boot or run left open
        around = Surroundings(self._now, lambda: self._backlog, self._rng)
        for task in self._sense_tasks(self._config, around):
            threading.Thread(target=self._sense, args=(task,), name=task.name, daemon=True).start()
        notify("READY=1")
        while not self._stopping.is_set():
            self._take()
            self.step()
        notify("STOPPING=1")
        self._finish()

    def _sense(self, task: Task) -> None:
        """Run one task for ever, in its own thread."""
        due = Periodic(task.period_ms, self._now(), self._rng)
        while not self._stopping.wait(max(due.next_ms - self._now(), 0) / 1000):
            try:
                rows = task.run()
            except Exception:  # a sensor's bug must not end the others
                LOG.exception("%s failed", task.name)
                rows = []
            if rows:
                self._inbox.put(Rows(rows))
            due.advance(self._now())

    # --- the main thread ----------------------------------------------------------------------------------------------

    def _take(self) -> None:
        """Wait for the next event, and handle what has come."""
        try:
            self.handle(self._inbox.get(timeout=STEP_S))
            for _ in range(INBOX_SIZE):
                self.handle(self._inbox.get_nowait())
        except queue.Empty:
            pass
        except OutboxError as error:  # a receipt the disk refused comes again with the next ask
            LOG.error("%s", error)  # noqa: TRY400

    def handle(self, event: Event | Rows) -> None:
        """Take one event in."""
        match event:
            case Rows(rows):
                for row in rows:
                    self._keep(row)
            case Connected():
                self._on_connected()
            case Down():
                self._on_down(event)
            case Incoming(topic=name, payload=payload):
                self._on_message(name, payload)
            case Puback(mid=mid, code=code):
                ref = self._mids.pop(mid, None)
                if ref is not None and (code == NO_SUBSCRIBERS or code >= 0x80):  # noqa: PLR2004 (MQTT 5: failures)
                    LOG.warning("batch %d: the broker answers 0x%02x", ref.seq, code)
                    self._delivery.unsent(ref.id, self._now())

    def _keep(self, row: Row) -> None:
        try:
            self._outbox.add(row)
        except WireError as error:
            LOG.error("row refused: %s", error)  # noqa: TRY400 (the message is the whole story)
            self._outbox.note("row_refused", str(error)[:200])
            return
        if row.kind == "radio":
            state = row.values.get("state")
            if self._last_state.setdefault(row.key, state) != state:
                self._policy.state_changed(self._now())
            self._last_state[row.key] = state

    def step(self) -> None:
        """Do what is due: write, seal, connect, send."""
        now = self._now()
        self._backlog = (self._outbox.waiting, self._outbox.bytes_used)
        try:
            if self._policy.seal_due(now, self._outbox.rows_held, online=self._delivery.is_connected):
                self._seal(now)
            elif self._policy.commit_due(now):
                self._outbox.commit()
                self._policy.committed(now)
        except OutboxError as error:
            LOG.error("%s; next try in %d s", error, RETRY_MS // 1000)  # noqa: TRY400
            self._policy.refused(now + RETRY_MS)
        try:
            self._count_tries(self._delivery.tick(now))
            if self._reconnect_at is not None and now >= self._reconnect_at:
                self._connect()
            self._send(now)
        except OutboxError as error:
            LOG.error("%s", error)  # noqa: TRY400

    def _seal(self, now: int) -> None:
        anchor = self._ntp() or self._anchor
        self._anchor = None
        self._outbox.seal(anchor.row() if anchor else None)
        self._policy.sealed(now)

    # --- conversation -------------------------------------------------------------------------------------------------

    def _state(self, ask: int, *, online: bool) -> bytes:
        outbox = self._outbox
        return birth.encode(
            State(
                online=online,
                boot_id=self._owner.boot_id,
                stream=outbox.stream,
                ask=ask,
                next_seq=outbox.next_seq,
                waiting=outbox.waiting,
                version=__version__,
            )
        )

    def _connect(self) -> None:
        self._reconnect_at = self._now() + RECONNECT_MS[1]  # should the disk refuse the ask
        self._ask_to_come = self._outbox.next_ask()
        self._reconnect_at = None
        self._uplink.connect((topic(self._config.name, "state"), self._state(self._ask_to_come, online=False)))

    def _on_connected(self) -> None:
        now = self._now()
        LOG.info("connected to %s:%d", self._config.broker.host, self._config.broker.port)
        self._connected_ms = now
        self._mids.clear()
        self._publish_state(self._ask_to_come)
        self._delivery.connected(self._ask_to_come, now)

    def _publish_state(self, ask: int) -> None:
        self._uplink.publish(topic(self._config.name, "state"), self._state(ask, online=True), retain=True)

    def _on_down(self, event: Down) -> None:
        now = self._now()
        if self._reconnect_at is not None:
            return
        self._count_tries(self._delivery.disconnected())
        least, most = TAKEN_OVER_MS if event.taken_over else RECONNECT_MS
        if now - self._connected_ms >= STEADY_MS and self._connected_ms and not event.taken_over:
            self._backoff = (least, most)
        wait = max(self._backoff[0], least)
        self._backoff = (min(wait * 2, most), most)
        self._reconnect_at = now + round(wait * self._rng.uniform(0.75, 1.25))
        self._connected_ms = 0
        LOG.warning("%s; next try in %.0f s", event.reason, (self._reconnect_at - now) / 1000)

    def _on_message(self, name: str, payload: bytes) -> None:
        try:
            if parse(name) == (self._config.name, "receipt"):
                self._on_receipt(receipt.decode(payload))
        except WireError as error:
            LOG.warning("on %s: %s", name, error)

    def _on_receipt(self, message: Receipt) -> None:
        outbox = self._outbox
        got = [ref for seq, hash8 in message.got if (ref := outbox.find(message.stream, seq, hash8))]
        rejected = [
            (ref, reason) for seq, hash8, reason in message.rejects if (ref := outbox.find(message.stream, seq, hash8))
        ]
        answered = [*got, *(ref for ref, _ in rejected)]
        verdict = self._delivery.received(message, answered, outbox.stream, outbox.next_seq, self._now())
        if verdict.anchor is not None and (
            self._anchor is None or verdict.anchor.error_ms <= self._anchor.error_ms * 2
        ):
            self._anchor = verdict.anchor
        for ref in got:
            outbox.mark(ref, EVICTABLE)
        if self._retried & {ref.id for ref in got}:  # one is taken now that was refused: the others may be, too
            self._retried = {ref.id for ref in outbox.retry_refused(WINDOW)}
        for ref, reason in rejected:
            self._on_reject(ref, reason)
        if verdict.shows_fork and message.stream == outbox.stream:
            LOG.warning("the collector knows more of stream %s than we do: new stream", message.stream.hex())
            outbox.fork()
            self._delivery.forked()
        elif verdict.answers_ask:
            self._retried = {ref.id for ref in outbox.retry_refused(1)}
            forgotten = outbox.unsettle(message)
            if forgotten:
                LOG.warning("the collector has forgotten %d batches: they go out again", forgotten)

    def _on_reject(self, ref: Ref, reason: str) -> None:
        LOG.warning("batch %d rejected: %s", ref.seq, reason)
        match REASONS.get(reason, "keep"):
            case "settled":
                self._outbox.mark(ref, EVICTABLE)
            case "reseal":
                self._outbox.reseal(ref)
                self._delivery.forked()
            case _:
                self._outbox.mark(ref, REFUSED)

    def _count_tries(self, tried: list[Ref]) -> None:
        for ref in tried:
            tries = ref.tries + 1
            self._outbox.mark(ref, SET_ASIDE if tries >= MAX_TRIES else WAITING, tries=tries)
            if tries >= MAX_TRIES:
                self._outbox.note("batch_set_aside", f"{ref.stream.hex()}:{ref.seq} never receipted")

    def _send(self, now: int) -> None:
        plan = self._delivery.plan(now)
        if plan.ask:
            ask = self._outbox.next_ask()
            self._publish_state(ask)
            self._delivery.asked(ask, now)
        if not plan.batches or not self._outbox.waiting:
            return
        busy = self._delivery.busy(now)
        live = self._outbox.newest(plan.live, without=busy)
        without = busy | {ref.id for ref in live}
        for ref in [*live, *self._outbox.oldest(plan.batches - len(live), without=without)]:
            message = self._outbox.message(ref)
            if message is None:
                continue
            mid = self._uplink.publish(topic(self._config.name, "batch"), message)
            self._checkpoint("after_publish")
            if not mid:
                return
            self._mids[mid] = ref
            self._delivery.sent(ref, now)

    def _finish(self) -> None:
        """Seal what there is and leave the broker in order; what is not receipted waits on disk."""
        self._outbox.note("clean_stop", "asked to stop")
        self._seal(self._now())
        if self._delivery.is_connected:
            self._uplink.publish(
                topic(self._config.name, "state"), self._state(self._ask_to_come, online=False), retain=True
            )
        self._uplink.close()


def notify(state: str) -> None:
    """Tell systemd, where it listens (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.sendall(state.encode())


def run(config: Config) -> int:
    """Run the probe that `config` describes until SIGTERM or SIGINT; ConfigError or OutboxError says what is wrong."""
    logging.basicConfig(level=config.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    owner = Owner(config.name, read_secret(Path(config.key_file)), clock.boot_id(), clock.boottime_ms)
    max_bytes = config.outbox.max_mb * 1_000_000
    checkpoint = crash_point()
    with Outbox(config.outbox_file, owner, max_bytes=max_bytes, checkpoint=checkpoint) as outbox:
        probe = Probe(config, outbox, owner, random.Random(), checkpoint=checkpoint)  # noqa: S311 (jitter)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, probe.stop)
        probe.run()
    return 0
