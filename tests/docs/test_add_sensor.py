"""CONTRIBUTING's "Add a sensor" is true: a patch that follows it is applied to a copy, and that copy's checks pass."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.real.parts import ROOT
from tools.sabotage import PYTHON, Copy

if TYPE_CHECKING:
    from collections.abc import Iterator

PATCH = ROOT / "tests/add_sensor.patch"
PLACES = {
    "its file": r"probe/banua_probe/sensors/\w+\.py",
    "the registry": r"probe/banua_probe/sensors/__init__\.py",
    "the dictionary and its words": r"wire/banua_wire/fields\.py|collector/banua_collector/web/locale/.*\.po",
    "a fixture and its test": r"tests/(probe|captures)/.*",
    "its settings": r"probe/banua_probe/config\.py|deploy/probe\.example\.toml",
}
RUFF = PYTHON.parent / "ruff"


@pytest.fixture(scope="module")
def copy() -> Iterator[Copy]:
    with Copy() as made:
        applied = made.run("git", "apply", PATCH)
        assert applied.returncode == 0, applied.stdout
        for tool in ("tests/wire/make_golden.py", "tools/make_dictionary.py"):
            done = made.run("env", f"PYTHONPATH={made.environment['PYTHONPATH']}:{made.folder}", PYTHON, tool)
            assert done.returncode == 0, done.stdout
        yield made


def test_the_patch_touches_no_place_that_contributing_does_not_name() -> None:
    touched = re.findall(r"^\+\+\+ b/(.+)$", PATCH.read_text(), re.MULTILINE)
    placed = {name: [file for file in touched if re.fullmatch(where, file)] for name, where in PLACES.items()}
    assert sorted(touched) == sorted({file for files in placed.values() for file in files})
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("## Add a sensor")[2].partition("\n## ")[0]
    assert len(re.findall(r"^\d\. ", section, re.MULTILINE)) == len(PLACES) == 5


@pytest.mark.real  # a copy is made by git, which nobody's copy of the tree has not
@pytest.mark.slow
@pytest.mark.parametrize("command", [
    [RUFF, "check", "."], [RUFF, "format", "--check", "."], [PYTHON.parent / "mypy", "wire", "probe"],
], ids=["lint", "format", "types"])  # fmt: skip
def test_the_copy_reads_well(copy: Copy, command: list[str]) -> None:
    done = copy.run(*command)
    assert done.returncode == 0, done.stdout


@pytest.mark.real  # a copy is made by git, which nobody's copy of the tree has not
@pytest.mark.slow
def test_the_copys_tests_pass_and_the_new_sensor_is_among_them(copy: Copy) -> None:
    done = copy.test(
        "tests/probe/test_air.py", "tests/probe/test_cli.py", "tests/probe/test_config.py", "tests/wire/test_golden.py",
        "tests/docs/test_wire_docs.py", "tests/collector/test_web.py", "tests/collector/test_points.py",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout
    ran = copy.run(PYTHON, "-c", "from banua_probe.sensors import SENSORS; print(*SENSORS)")
    assert "air" in ran.stdout.split()
