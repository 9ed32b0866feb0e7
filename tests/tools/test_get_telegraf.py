from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests.real.parts import ROOT

if TYPE_CHECKING:
    from pathlib import Path

OURS = "Telegraf 1.37.2"


def fake(program: Path, version: str) -> Path:
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f"#!/bin/sh\necho '{version}'\n")
    program.chmod(0o755)
    return program


def get(tmp_path: Path, *words: str, path: str = "/usr/bin:/bin", **more: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": path, "HOME": str(tmp_path), **more}
    return subprocess.run([ROOT / "tools/get-telegraf", *words], env=env, capture_output=True, text=True, check=False)


def test_takes_what_it_built_before(tmp_path: Path) -> None:
    built = fake(tmp_path / "cache/sinyal-banua/telegraf-1.37.2", OURS)
    answer = get(tmp_path, "--no-build", XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert (answer.returncode, answer.stdout.strip()) == (0, str(built))


def test_does_not_build_when_told_so(tmp_path: Path) -> None:
    answer = get(tmp_path, "--no-build")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr == "get-telegraf: no Telegraf 1.37.2 here\n"


def test_a_named_telegraf_of_another_version_is_an_error(tmp_path: Path) -> None:
    other = fake(tmp_path / "telegraf", "Telegraf 1.37.20")
    answer = get(tmp_path, "--no-build", BANUA_TELEGRAF=str(other))
    assert (answer.returncode, answer.stdout) == (1, "")
    assert f"BANUA_TELEGRAF={other} is not Telegraf 1.37.2" in answer.stderr


def test_says_in_one_line_that_go_is_too_old(tmp_path: Path) -> None:
    fake(tmp_path / "bin/go", "go1.19.8")
    answer = get(tmp_path, path=f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.splitlines() == [
        "get-telegraf: no Telegraf 1.37.2 here, and none can be made: missing go >= 1.25 (from its own site)"
    ]
