"""A broker of a few lines, for what no real one does on demand: refusing a topic, hanging up, saying nothing."""

from __future__ import annotations

import socket
import threading
from typing import Any, Final, Self

CONNECT: Final = 0x10
SUBSCRIBE: Final = 0x80
DISCONNECT: Final = 0xE0


class SmallBroker:
    """Answers CONNECT, and each SUBSCRIBE with `codes`; knows nothing else of MQTT, and notes what it got.

    It says nothing to a CONNECT of a version in `silent_to`; after a SUBACK it sends `then`, and hangs up if `then` is
    not empty.
    """

    def __init__(self, *codes: int, silent_to: tuple[int, ...] = (), then: bytes = b"", port: int = 0) -> None:
        self.codes, self.silent_to, self.then = bytes(codes), silent_to, then
        self.got, self.versions, self.connections = list[int](), list[int](), 0
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with client, client.makefile("rb") as stream:
                self._talk(client, stream)

    def _talk(self, client: socket.socket, stream: Any) -> None:
        version = b"\x00"
        while first := stream.read(1):
            size, shift = 0, 0
            while True:
                byte = stream.read(1)[0]
                size |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
            body = stream.read(size)
            self.got.append(first[0] & 0xF0)
            if self.got[-1] == CONNECT:
                version = body[6:7]
                self.versions.append(version[0])
                if version[0] in self.silent_to:
                    continue
                client.sendall(b"\x20\x03\x00\x00\x00" if version == b"\x05" else b"\x20\x02\x00\x00")
            elif self.got[-1] == SUBSCRIBE:
                rest = body[:2] + (b"\x00" if version == b"\x05" else b"") + self.codes
                client.sendall(bytes([0x90, len(rest)]) + rest + self.then)
                if self.then:
                    return
            elif self.got[-1] == DISCONNECT:
                return
