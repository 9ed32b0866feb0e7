"""An AT modem on a pty that plays a scenario and writes down every reply before it sends it.

The truth file is the outside witness of a trial: what the modem really said, whoever asked and whatever became of it.
"""

import json
import os
import select
import signal
import threading
import time
import tty
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TextIO

from banua_lab.scenario import Player, Scenario, load

_NAP_S: Final = 0.02
_WRITE_S: Final = 0.5
_LONGEST_COMMAND: Final = 1024


class EmulatedModem:
    """A modem that answers on the pty `device` while the context is entered, from a thread of its own.

    `truth_path` is appended to, one JSON object a reply: ``wall_ns``, ``boottime_ms`` (CLOCK_BOOTTIME), ``command``,
    ``reply`` (the lines, final result code included). `link_path` becomes a symbolic link to the pty, the same after a
    restart. `delays_s` says by command how many seconds a reply takes, during which nothing else is listened to.
    """

    def __init__(
        self,
        scenario: Scenario,
        truth_path: str | Path | None = None,
        link_path: str | Path | None = None,
        delays_s: Mapping[str, float] | None = None,
    ) -> None:
        self._player = Player(scenario)
        self._truth_path = truth_path
        self._delays_s = delays_s or {}
        self._link = None if link_path is None else Path(link_path)
        self._hung = threading.Event()
        self._stop = threading.Event()
        self._at_work = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="emulated-modem", daemon=True)
        self._echo = True
        self._truth: TextIO | None = None

    def __enter__(self) -> Self:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        if self._truth_path is not None:
            self._truth = Path(self._truth_path).open("a", encoding="utf-8")
        if self._link is not None:
            fresh = self._link.with_name(self._link.name + ".new")
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(os.ttyname(self._slave))
            fresh.replace(self._link)
        self._started = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._link is not None:
            self._link.unlink(missing_ok=True)
        os.close(self._master)
        os.close(self._slave)
        if self._truth is not None:
            self._truth.close()

    @property
    def device(self) -> str:
        """The path to open: the link if there is one, else the pty."""
        return os.ttyname(self._slave) if self._link is None else str(self._link)

    def hang(self) -> None:
        """Stop listening and answering, as a modem whose firmware is stuck; commands pile up in the port."""
        with self._at_work:
            self._hung.set()

    def resume(self) -> None:
        """Listen again; what piled up is answered, late."""
        self._hung.clear()

    def say(self, message: bytes) -> None:
        """Send bytes that nobody asked for: an unsolicited result code or garbage. Not written down as truth."""
        self._write(message)

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._started

    def _serve(self) -> None:
        heard = b""
        while not self._stop.is_set():
            if not select.select([self._master], [], [], _NAP_S)[0]:
                continue
            with self._at_work:
                awake = not self._hung.is_set() and not self._player.hangs(self._elapsed_s())
                if awake:
                    heard = self._listen(heard)
            if not awake:
                self._stop.wait(_NAP_S)

    def _listen(self, heard: bytes) -> bytes:
        """Answer the commands that are complete with what can be read now; return the incomplete rest."""
        heard += os.read(self._master, 4096)
        *commands, rest = heard.replace(b"\n", b"").split(b"\r")
        for command in filter(None, commands):
            self._answer(command.decode("latin-1"))
        return rest[-_LONGEST_COMMAND:]

    def _answer(self, command: str) -> None:
        self._stop.wait(self._delays_s.get(command, 0))
        reply = self._player.reply(command, self._elapsed_s())
        if self._truth is not None:
            told = {
                "wall_ns": time.time_ns(),
                "boottime_ms": time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000,
                "command": command,
                "reply": reply,
            }
            self._truth.write(json.dumps(told) + "\n")
            self._truth.flush()
        echo = f"{command}\r" if self._echo else ""
        *information, final = reply
        body = "\r\n".join(("", *information, "")) if information else ""
        self._write(f"{echo}{body}\r\n{final}\r\n".encode("latin-1"))
        self._echo = {"ATE0": False, "ATE1": True}.get(command, self._echo)

    def _write(self, message: bytes) -> None:
        """Write `message`, or lose the rest of it where nobody reads, as a serial line does."""
        while message and select.select([], [self._master], [], _WRITE_S)[1]:
            message = message[os.write(self._master, message) :]


def serve(scenario_path: str | Path, link_path: str | Path, truth_path: str | Path | None) -> int:
    """Emulate a modem until SIGTERM or SIGINT, then return 0; to be called from the main thread.

    `scenario_path` is a file or the name of a shipped scenario; raises `ScenarioError`.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    with EmulatedModem(load(scenario_path), truth_path, link_path) as modem:
        print(f"modem on {modem.device}", flush=True)
        stop.wait()
    return 0
