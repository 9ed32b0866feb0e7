"""A real amqtt 0.12 broker: MQTT 3.1.1 only, so it proves that nothing needs more.

It has no access list and keeps no sessions.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, ClassVar

from tests.real.server import Server

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from banua_lab.ca import Authority


class Amqtt(Server):
    name: ClassVar[str] = "amqtt"
    protocols: ClassVar[tuple[str, ...]] = ("3.1.1",)

    def __init__(self, folder: Path, authority: Authority) -> None:
        super().__init__(folder)
        self.cafile = authority.cafile
        self.config = folder / "amqtt.yaml"
        server = authority.issue_server("amqtt")
        listener = {
            "type": "tcp",
            "bind": f"{self.host}:{self.port}",
            "ssl": True,
            "cafile": str(authority.cafile),
            "certfile": str(server.cert),
            "keyfile": str(server.key),
        }
        anonymous = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
        # JSON is YAML
        self.config.write_text(json.dumps({"listeners": {"default": listener}, "plugins": anonymous}))

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "amqtt.scripts.broker_script", "-c", str(self.config)]

    def ready(self) -> bool:
        return self.listening()
