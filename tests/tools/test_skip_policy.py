from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.real.parts import ROOT
from tests.skip_policy import matches, read_allowed

if TYPE_CHECKING:
    from pathlib import Path

SESSION = """
import pytest

def test_runs(): pass

@pytest.mark.skipif(True, reason="cannot be had")
def test_skipped(): pass

@pytest.mark.xfail(strict=False)
def test_xpasses(): pass

@pytest.mark.parametrize("case", ["a[1]", "b"])
@pytest.mark.xfail(strict=True)
def test_xfails(case): assert False
"""
SKIPPED = ["skipped", "xfails[a[1]]", "xfails[b]", "xpasses"]
WHOLE_MODULE = "import pytest\npytest.skip('all of it', allow_module_level=True)\n"
NEEDS_A_PART = """
from tests.real import parts

def test_needs(): parts.require_real("influxd")
"""


def run(
    tmp_path: Path, source: str, allowed: str, *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    (tmp_path / "test_it.py").write_text(source)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/allowed_skips.txt").write_text(allowed)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.skip_policy", "-c", "/dev/null", "--rootdir=.", *options],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def refused(output: str) -> list[str]:
    mark = "skipped or xfailed without being listed in tests/allowed_skips.txt: "
    return [line.removeprefix(mark) for line in output.splitlines() if line.startswith(mark)]


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "xdist"])
class TestSession:
    def test_unlisted_skips_fail_it_by_name(self, tmp_path: Path, options: tuple[str, ...]) -> None:
        done = run(tmp_path, SESSION, "", *options)
        assert refused(done.stdout) == [f"test_it.py::test_{name}" for name in SKIPPED]
        assert done.returncode == 1

    def test_listed_skips_do_not(self, tmp_path: Path, options: tuple[str, ...]) -> None:
        allowed = "test_it.py::test_skipped # why\ntest_it.py::test_x* # why\n"
        done = run(tmp_path, SESSION, allowed, *options)
        assert (refused(done.stdout), done.returncode) == ([], 0)

    def test_a_module_skipped_whole_counts(self, tmp_path: Path, options: tuple[str, ...]) -> None:
        done = run(tmp_path, WHOLE_MODULE, "", *options)
        assert (refused(done.stdout), done.returncode) == (["test_it.py"], 1)

    def test_a_missing_part_fails_by_name(self, tmp_path: Path, options: tuple[str, ...]) -> None:
        done = run(tmp_path, NEEDS_A_PART, "", *options)
        assert "real part missing: influxd; get it with: tools/get-influxd" in done.stdout
        assert done.returncode == 1

    def test_a_missing_part_may_be_allowed_and_is_told(self, tmp_path: Path, options: tuple[str, ...]) -> None:
        done = run(tmp_path, NEEDS_A_PART, "", *options, BANUA_ALLOW_MISSING="1")
        assert "not proven, a real part is missing: test_it.py::test_needs" in done.stdout
        assert done.returncode == 0


def test_continuous_integration_allows_nothing_missing(tmp_path: Path) -> None:
    done = run(tmp_path, SESSION, "", BANUA_ALLOW_MISSING="1", CI="true")
    assert "BANUA_ALLOW_MISSING is refused in continuous integration" in done.stdout + done.stderr
    assert done.returncode == 4


def test_brackets_are_literal() -> None:
    assert matches("t.py::test[a-*]", "t.py::test[a-1]")
    assert not matches("t.py::test[ab]", "t.py::testa")


def test_each_allowed_skip_needs_its_reason() -> None:
    assert list(read_allowed("# about\n\nt.py::test[#1] # no kernel module\n")) == ["t.py::test[#1]"]
    with pytest.raises(ValueError, match=r"no reason given: t\.py::test"):
        list(read_allowed("t.py::test\n"))
