"""A serial device or pty on which a modem answers AT commands: the one file of this package that does I/O."""

import fcntl
import os
import select
import termios
import time
import tty
from collections.abc import Callable
from typing import Final

from banua_probe.modem.errors import ModemUnavailable
from banua_probe.modem.line import clean, is_final

MAX_REPLY: Final = 16 * 1024
"""Longest reply to one command, in bytes; a modem that sends more is babbling."""
_CHUNK: Final = 4096
_QUIET_S: Final = 0.05
_SETTLE_S: Final = 0.5


class AtPort:
    """One modem's AT port, opened when first used and again after each failure.

    Whatever goes wrong is a `ModemUnavailable`, and closes the port: a reply that comes too late is thrown away at the
    next opening. Not for use from two threads.
    """

    def __init__(self, device: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._device = device
        self._monotonic = monotonic
        self._fd: int | None = None
        self.session = 0
        """How often the port has been opened."""

    def exchange(self, command: str, timeout_s: float) -> list[str]:
        """Send `command` and return the lines of its reply, echo and final result code included, blanks left out.

        Raises `ModemUnavailable` if the device fails, or no reply is complete within `timeout_s` and `MAX_REPLY`.
        """
        deadline = self._monotonic() + timeout_s
        try:
            fd = self.open()
            self._discard(fd)
            self._send(fd, command.encode("ascii") + b"\r", deadline)
            return self._reply(fd, deadline)
        except OSError as error:
            self.close()
            raise self._unavailable(error) from error
        except ModemUnavailable:
            self.close()
            raise

    def open(self) -> int:
        """Open the device if it is not open, and return its descriptor; raises `ModemUnavailable`."""
        if self._fd is None:
            try:
                self._fd = _open_raw(self._device)
                self.session += 1
                self._settle(self._fd)
            except (OSError, termios.error) as error:
                self.close()
                raise self._unavailable(error) from error
        return self._fd

    def close(self) -> None:
        """Close the device; harmless if it is closed."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _unavailable(self, error: Exception) -> ModemUnavailable:
        return ModemUnavailable(f"{self._device}: {error.args[-1]}")

    def _settle(self, fd: int) -> None:
        """Throw away what the modem still had to say to whoever was here before."""
        end = self._monotonic() + _SETTLE_S
        while self._monotonic() < end and select.select([fd], [], [], _QUIET_S)[0]:
            _read(fd)

    @staticmethod
    def _discard(fd: int) -> None:
        if select.select([fd], [], [], 0)[0]:
            _read(fd)

    def _send(self, fd: int, message: bytes, deadline: float) -> None:
        while message:
            if not select.select([], [fd], [], max(0.0, deadline - self._monotonic()))[1]:
                raise ModemUnavailable(f"{self._device}: does not take commands")
            message = message[os.write(fd, message) :]

    def _reply(self, fd: int, deadline: float) -> list[str]:
        received = b""
        while True:
            if not select.select([fd], [], [], max(0.0, deadline - self._monotonic()))[0]:
                raise ModemUnavailable(f"{self._device}: no complete reply in time")
            received += _read(fd)
            if len(received) > MAX_REPLY:
                raise ModemUnavailable(f"{self._device}: a reply of more than {MAX_REPLY} bytes")
            *lines, _unfinished = received.decode("latin-1").replace("\r", "\n").split("\n")
            told = [text for line in lines if (text := clean(line))]
            if any(map(is_final, told)):
                return told


def _open_raw(device: str) -> int:
    fd = os.open(device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # one owner a port; unlike TIOCEXCL it ends with its holder
        tty.setraw(fd)
        attributes = termios.tcgetattr(fd)
        attributes[2] |= termios.CLOCAL | termios.CREAD
        attributes[4] = attributes[5] = termios.B115200
        termios.tcsetattr(fd, termios.TCSANOW, attributes)
        termios.tcflush(fd, termios.TCIOFLUSH)
    except (OSError, termios.error):
        os.close(fd)
        raise
    return fd


def _read(fd: int) -> bytes:
    chunk = os.read(fd, _CHUNK)
    if not chunk:
        raise OSError("the device hung up")
    return chunk
