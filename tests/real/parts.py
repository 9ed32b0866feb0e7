"""The real servers that tests need: found, or the test fails by naming the part and the command that brings it.

With BANUA_ALLOW_MISSING=1 such a test is skipped instead, and the session lists it. Continuous integration refuses that
variable.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOW_MISSING = "BANUA_ALLOW_MISSING"

HOW_TO_GET = {
    "mosquitto": "tools/debian-packages install",
    "mosquitto_pub": "tools/debian-packages install",
    "strace": "tools/debian-packages install",
    "ip": "tools/debian-packages install",
    "ping": "tools/debian-packages install",
    "fping": "tools/debian-packages install",
    "runuser": "apt-get install util-linux",
    "chromium": "tools/debian-packages install",
    "influxd": "tools/get-influxd",
    "initdb": "tools/debian-packages install",
}

_ELSEWHERE = ":/usr/sbin:/sbin:" + ":".join(sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True))
"""Where Debian keeps servers that are not on a plain user's PATH."""


def missing_allowed() -> bool:
    return os.environ.get(ALLOW_MISSING, "") not in ("", "0")


def require_real(name: str) -> str:
    """Return the path of a real part's program; fail the test if this machine has none."""
    path = _influxd() if name == "influxd" else shutil.which(name, path=os.environ["PATH"] + _ELSEWHERE)
    if path:
        return path
    message = f"real part missing: {name}; get it with: {HOW_TO_GET[name]}"
    if missing_allowed():
        pytest.skip(f"{ALLOW_MISSING}: {message}")
    pytest.fail(message, pytrace=False)


@cache
def _influxd() -> str | None:
    found = subprocess.run([ROOT / "tools/get-influxd", "--no-build"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None
