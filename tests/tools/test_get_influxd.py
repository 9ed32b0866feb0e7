from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests.real.parts import ROOT

if TYPE_CHECKING:
    from pathlib import Path

DEBIAN_1_6 = "InfluxDB v1.6.7~rc0 (git: unknown unknown)"
OURS = "InfluxDB v2.7.12 (git: none) build_date: 2025-01-01T00:00:00Z"


def fake(folder: Path, version: str) -> Path:
    folder.mkdir(exist_ok=True)
    program = folder / "influxd"
    program.write_text(f"#!/bin/sh\necho '{version}'\n")
    program.chmod(0o755)
    return program


def get(tmp_path: Path, path: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": f"{path or tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path), **more}
    tool = ROOT / "tools/get-influxd"
    return subprocess.run([tool, "--no-build"], env=env, capture_output=True, text=True, check=False)


def test_takes_2_7_from_path(tmp_path: Path) -> None:
    program = fake(tmp_path / "bin", OURS)
    answer = get(tmp_path, program.parent)
    assert (answer.returncode, answer.stdout.strip()) == (0, str(program))


def test_refuses_debians_1_6_of_the_same_name(tmp_path: Path) -> None:
    program = fake(tmp_path / "bin", DEBIAN_1_6)
    answer = get(tmp_path, program.parent)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert f"{program} is not v2.7: ignored" in answer.stderr


def test_passes_over_1_6_to_the_cache(tmp_path: Path) -> None:
    fake(tmp_path / "bin", DEBIAN_1_6)
    cache = tmp_path / "cache/sinyal-banua"
    cache.mkdir(parents=True)
    built = fake(tmp_path / "built", OURS).rename(cache / "influxd-v2.7.12")
    answer = get(tmp_path, tmp_path / "bin", XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert (answer.returncode, answer.stdout.strip()) == (0, str(built))


def test_a_named_influxd_of_another_version_is_an_error_even_if_the_path_has_one(tmp_path: Path) -> None:
    old, new = fake(tmp_path / "old", DEBIAN_1_6), fake(tmp_path / "new", OURS)
    answer = get(tmp_path, new.parent, BANUA_INFLUXD=str(old))
    assert (answer.returncode, answer.stdout) == (1, "")
    assert f"BANUA_INFLUXD={old} is not an influxd v2.7" in answer.stderr


def test_says_in_one_line_what_is_missing(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("bash", "dirname", "id", "getent", "cut", "mkdir", "flock", "sed", "mktemp", "rm", "chmod"):
        (folder / tool).symlink_to(f"/usr/bin/{tool}")
    (folder / "go").write_text("#!/bin/sh\necho go1.19.8\n")
    (folder / "go").chmod(0o755)
    env = {"PATH": str(folder), "HOME": str(tmp_path)}
    answer = subprocess.run([ROOT / "tools/get-influxd"], env=env, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout) == (1, "")
    [line] = answer.stderr.splitlines()
    assert "missing go >= 1.23," in line
    assert "clang" in line
    assert "no docker" in line
