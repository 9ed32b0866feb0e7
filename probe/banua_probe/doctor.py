"""`banua-probe doctor`: what on this board would keep the configured sensors from measuring, and what helps."""

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from banua_probe.config import Config
from banua_probe.sensors import icmp


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `advice` is empty where it is in order."""

    what: str
    advice: str = ""

    def __str__(self) -> str:
        """Return it as a line of the report."""
        return f"look  {self.what}: {self.advice}" if self.advice else f"good  {self.what}"


@dataclass(frozen=True, slots=True)
class Board:
    """What is asked of the board; tests give their own answers."""

    icmp_permitted: Callable[[], bool] = icmp.permitted
    interfaces: Callable[[], set[str]] = lambda: {name for _, name in socket.if_nameindex()}
    program: Callable[[str], str | None] = shutil.which
    usable: Callable[[str], bool] = lambda device: os.access(device, os.R_OK | os.W_OK)


def examine(config: Config, board: Board | None = None) -> Iterator[Finding]:
    """Yield a finding for everything that `config` needs of the board."""
    board = board or Board()
    if any(target.method == "icmp" for target in config.targets):
        yield Finding("ICMP echo", "" if board.icmp_permitted() else icmp.ADVICE)
    yield from (_modem(modem.name, modem.device, board) for modem in config.modem)
    there = board.interfaces()
    for name in sorted(_interfaces(config)):
        yield Finding(f"interface {name}", "" if name in there else "not there; `ip link` lists those that are")
    if config.wifi:
        found = board.program("iw") or board.program("/usr/sbin/iw")
        yield Finding("program iw", "" if found else "missing: sudo apt-get install iw")


def _modem(name: str, device: str, board: Board) -> Finding:
    what = f"modem {name} at {device}"
    if not Path(device).exists():
        return Finding(what, "no such device; is the modem plugged in and powered?")
    usable = board.usable(device)
    return Finding(what, "" if usable else f'not permitted: sudo usermod -aG dialout "{_user()}", then log in anew')


def _user() -> str:
    return os.environ.get("USER") or str(os.geteuid())


def _interfaces(config: Config) -> set[str]:
    tests = [*config.targets, *config.dns, *config.web]
    return {config.interface_of(test) for test in tests} - {""} | {wifi.interface for wifi in config.wifi}
