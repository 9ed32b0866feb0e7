"""A real Mosquitto 2.0: TLS, client certificates, and the access list and limits that the project ships."""

from __future__ import annotations

import os
import shutil
import signal
from typing import TYPE_CHECKING, ClassVar

from tests.real.parts import ROOT, require_real
from tests.real.server import Server

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from banua_lab.ca import Authority

ACL = ROOT / "deploy/mosquitto/acl"
LIMITS = ROOT / "deploy/mosquitto/limits.conf"


class Mosquitto(Server):
    name: ClassVar[str] = "mosquitto"
    protocols: ClassVar[tuple[str, ...]] = ("3.1.1", "5")

    def __init__(self, folder: Path, authority: Authority, extra: str = "") -> None:
        super().__init__(folder)
        self.program = require_real("mosquitto")
        self.cafile = authority.cafile
        self.state = folder / "state"
        self.config = folder / "mosquitto.conf"
        server = authority.issue_server("mosquitto")
        self.config.write_text(
            f"""\
listener {self.port} {self.host}
cafile {authority.cafile}
certfile {server.cert}
keyfile {server.key}
require_certificate true
use_identity_as_username true
allow_anonymous false
acl_file {ACL}
persistence true
persistence_location {self.state}/
log_dest stderr
log_type all
{"user root" if os.geteuid() == 0 else ""}
{LIMITS.read_text()}
{extra}
"""
        )

    def command(self) -> Sequence[str]:
        self.state.mkdir(exist_ok=True)
        return [self.program, "-c", str(self.config)]

    def ready(self) -> bool:
        return self.listening()

    def save(self) -> None:
        """Make it write its sessions, queues and retained messages to disk now; it is lazy otherwise."""
        if self.process is not None:
            self.process.send_signal(signal.SIGUSR1)

    def wipe(self) -> None:
        """Lose every session, queue and retained message: what a broker without backup does. Only while stopped."""
        assert not self.running
        shutil.rmtree(self.state, ignore_errors=True)
