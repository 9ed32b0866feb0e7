"""A day of rows: every sensor of a probe with two modems at its default rate, in virtual time, made up under a seed."""

import random
from collections.abc import Callable
from typing import Final

from banua_lab.bench.radio import MINUTE_MS, MODEMS, Radio
from banua_probe.schedule import Periodic
from banua_wire.fields import Value
from banua_wire.rows import Row

_P_LOST: Final = 0.03
_STATES: Final = ("registered", "limited")


class Senses:
    """The sensors; `rows` is called as time goes on.

    Board, radio, neighbours, path by ICMP and TCP, two DNS questions, one page. No trace (they follow failures), and no
    scan for operators or Wi-Fi networks (off unless asked for). The second modem's state changes once an hour.
    """

    def __init__(self, seed: int, start_ms: int) -> None:
        """Start all of them at a random phase after `start_ms`, CLOCK_BOOTTIME in ms."""
        self._rng = rng = random.Random(seed)  # noqa: S311 (a seed, not a secret)
        self._start_ms = start_ms
        self._radios = {modem: Radio(modem, rng) for modem in MODEMS}
        makers: list[tuple[int, Callable[[int], list[Row]]]] = [
            (300, self._board),
            *((60, self._radio(modem)) for modem in MODEMS),
            *((600, self._neighbours(modem)) for modem in MODEMS),
            *((600, self._path(target, method)) for target, method in (("collector", "icmp"), ("office", "tcp"))),
            *((900, self._dns(name)) for name in ("mqtt.example.org", "sinyal-banua.invalid")),
            (3600, self._web),
        ]
        self._due = [(Periodic(period_s * 1000, start_ms, rng), make) for period_s, make in makers]

    def rows(self, now_ms: int) -> list[Row]:
        """Return the rows of every sensor that is due by `now_ms`."""
        made: list[Row] = []
        for due, make in self._due:
            if now_ms >= due.next_ms:
                made += make(now_ms)
                due.advance(now_ms)
        return made

    def _radio(self, modem: str) -> Callable[[int], list[Row]]:
        radio = self._radios[modem]

        def make(now_ms: int) -> list[Row]:
            if modem == MODEMS[1]:
                radio.state = _STATES[(now_ms - self._start_ms) // (60 * MINUTE_MS) % 2]
            return [radio.row(now_ms)]

        return make

    def _board(self, now_ms: int) -> list[Row]:
        rng = self._rng
        values: dict[str, Value] = {
            "uptime_s": now_ms // 1000,
            "load1": rng.randrange(5, 60) / 100,
            "memory_available_mb": rng.randrange(280, 300),
            "disk_free_mb": 24_310 - now_ms // 86_400_000,
            "temperature_c": 48 + rng.randrange(60) / 10,
            "undervoltage": 0,
            "mains": 1,
            "outbox_waiting": 0,
            "outbox_kb": 500 + now_ms // 300_000,
        }
        return [Row("board", now_ms, values)]

    def _neighbours(self, modem: str) -> Callable[[int], list[Row]]:
        def make(now_ms: int) -> list[Row]:
            mark: dict[str, Value] = {"modem": modem, "outcome": "measured"}
            cells: list[dict[str, Value]] = [
                {"earfcn": 1850, "pci": pci, "rat": "lte", "relation": "intra", **self._neighbour()}
                for pci in (84, 305)
            ]
            cells.append({"earfcn": 3500, "pci": 211, "rat": "lte", "relation": "inter", **self._neighbour()})
            cells.append({"count": len(cells)})
            return [Row("neighbours", now_ms, mark | cell) for cell in cells]

        return make

    def _neighbour(self) -> dict[str, Value]:
        rng = self._rng
        return {
            "rsrp_dbm": rng.randint(-118, -104),
            "rsrq_db": rng.randint(-19, -12),
            "rssi_dbm": rng.randint(-90, -78),
        }

    def _path(self, target: str, method: str) -> Callable[[int], list[Row]]:
        def make(now_ms: int) -> list[Row]:
            rtts: list[int | float | None] = [
                self._rtt_us() if self._rng.random() >= _P_LOST else None for _ in range(10)
            ]
            values: dict[str, Value] = {
                "target": target,
                "method": method,
                "outcome": "measured",
                "address": "192.0.2.10",
                "rtt_us": rtts,
                "wake_rtt_us": self._rtt_us() + 90_000,
                "interval_ms": 1000,
                "timestamp_source": "user",
            }
            echo: dict[str, Value] = {"payload_bytes": 16, "reply_ttl": 53, "timestamp_source": "kernel"}
            return [Row("path", now_ms, values | (echo if method == "icmp" else {}))]

        return make

    def _rtt_us(self) -> int:
        return round(self._rng.lognormvariate(11, 0.3))

    def _dns(self, name: str) -> Callable[[int], list[Row]]:
        def make(now_ms: int) -> list[Row]:
            values: dict[str, Value] = {
                "name": name,
                "resolver": "192.0.2.53",
                "outcome": "measured",
                "rcode": "NXDOMAIN",
                "lookup_us": self._rtt_us(),
                "tries": 1,
                "answers": 0,
                "transport": "udp",
                "hijacked": 0,
            }
            found: dict[str, Value] = {"rcode": "NOERROR", "answers": 1, "address": "192.0.2.10"}
            return [Row("dns", now_ms, values | ({} if name.endswith(".invalid") else found))]

        return make

    def _web(self, now_ms: int) -> list[Row]:
        phases_us: dict[str, Value] = {f"{phase}_us": self._rtt_us() for phase in ("dns", "connect", "first_byte")}
        values: dict[str, Value] = {
            "target": "responder",
            "outcome": "measured",
            "status": 204,
            "ok": 1,
            "portal": 0,
            "address": "192.0.2.10",
            "total_us": self._rtt_us() * 3,
            "body_bytes": 0,
        }
        return [Row("web", now_ms, values | phases_us)]
