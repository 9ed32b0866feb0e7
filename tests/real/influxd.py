"""A real InfluxDB 2.7, set up without a client library."""

from __future__ import annotations

import json
import secrets
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any, ClassVar

from tests.real.parts import require_real
from tests.real.server import Server

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Row = dict[str, Any]


class Influxd(Server):
    """Ready means set up: `org`, `bucket` and `token` work. Its data survives stop, kill and start."""

    name: ClassVar[str] = "influxd"
    org: ClassVar[str] = "banua"

    def __init__(self, folder: Path, bucket: str = "banua") -> None:
        super().__init__(folder)
        self.program = require_real("influxd")
        self.bucket = bucket
        self.token = secrets.token_urlsafe(32)
        self.url = f"http://{self.host}:{self.port}"
        self._set_up = False

    def command(self) -> Sequence[str]:
        return [
            self.program,
            f"--bolt-path={self.folder / 'influxd.bolt'}",
            f"--engine-path={self.folder / 'engine'}",
            f"--sqlite-path={self.folder / 'influxd.sqlite'}",
            f"--http-bind-address={self.host}:{self.port}",
            "--reporting-disabled",
        ]

    def ready(self) -> bool:
        try:
            healthy = bool(self._call("GET", "/health")["status"] == "pass")
        except OSError:
            return False
        if healthy and not self._set_up:
            setup = {
                "username": "admin",
                "password": secrets.token_urlsafe(16),
                "org": self.org,
                "bucket": self.bucket,
                "token": self.token,
            }
            self._call("POST", "/api/v2/setup", json.dumps(setup).encode())
            self._set_up = True
        return healthy

    def create_bucket(self, name: str) -> str:
        [org] = self._call("GET", f"/api/v2/orgs?org={self.org}")["orgs"]
        self._call("POST", "/api/v2/buckets", json.dumps({"orgID": org["id"], "name": name}).encode())
        return name

    def write(self, lines: str, bucket: str | None = None) -> None:
        """Write line protocol with times in ms."""
        query = urllib.parse.urlencode({"org": self.org, "bucket": bucket or self.bucket, "precision": "ms"})
        self._call("POST", f"/api/v2/write?{query}", lines.encode())

    def query(self, influxql: str, bucket: str | None = None) -> list[Row]:
        """Run InfluxQL; a row is its columns and group tags, `time` in ns, and its measurement as `_measurement`."""
        query = urllib.parse.urlencode({"db": bucket or self.bucket, "q": influxql, "epoch": "ns"})
        [result] = self._call("GET", f"/query?{query}")["results"]
        if "error" in result:
            raise ValueError(result["error"])
        return [
            {
                "_measurement": series.get("name"),
                **series.get("tags", {}),
                **dict(zip(series["columns"], values, strict=True)),
            }
            for series in result.get("series", [])
            for values in series.get("values", [])
        ]

    def _call(self, method: str, path: str, body: bytes | None = None) -> Any:
        request = urllib.request.Request(self.url + path, data=body, method=method)
        request.add_header("Authorization", f"Token {self.token}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                error.add_note(error.read().decode(errors="replace"))
            raise
