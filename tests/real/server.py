"""What every real server started by a test has in common: a process of our own, a log file, a readiness poll."""

from __future__ import annotations

import abc
import socket
import subprocess
import time
from typing import TYPE_CHECKING, ClassVar, Self

from banua_lab.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType


class Server(abc.ABC):
    """A server with its files in `folder`. It may be stopped or killed and started again on the same port and files."""

    name: ClassVar[str]
    host: ClassVar[str] = "127.0.0.1"
    started: ClassVar[list[Server]] = []  # their logs are shown when a test fails

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.log = folder / f"{self.name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    @abc.abstractmethod
    def command(self) -> Sequence[str]: ...

    @abc.abstractmethod
    def ready(self) -> bool: ...

    def start(self, deadline_s: float = 30) -> None:
        if self.running:
            return
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder
            )
        if self not in Server.started:
            Server.started.append(self)
        end = time.monotonic() + deadline_s
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"{self.name} did not become ready\n{self.tail()}")
            time.sleep(0.02)

    def stop(self, deadline_s: float = 15) -> None:
        """Ask it to end, so that it may save its state."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self.kill()
        self.process = None

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process is None:
            return
        self.process.kill()
        self.process.wait()
        self.process = None

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def tail(self, lines: int = 60) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def listening(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=1):
                return True
        except OSError:
            return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self in Server.started:
            Server.started.remove(self)
