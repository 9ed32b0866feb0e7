from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.real.parts import ROOT

if TYPE_CHECKING:
    from pathlib import Path

DOUBLE = "def double(n: int) -> int:\n    return n * 2\n"
TEST = """
import subprocess, sys
IN_A_CHILD = "from tiny import double; assert double(3) == 6"
from tiny import double

def test_double(): assert double(3) == 6
def test_weak(): assert double(0) == 0
def test_in_a_child(): subprocess.run([sys.executable, "-c", IN_A_CHILD], check=True)
"""
PATCH = """\
# test: tests/test_tiny.py::{test}
# why: doubles by adding two
--- a/wire/tiny.py
+++ b/wire/tiny.py
@@ -1,2 +1,2 @@
 def double(n: int) -> int:
-    return n {sound}
+    return n {broken}
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for folder in ("wire", "tests/sabotage", "tools"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "wire/tiny.py").write_text(DOUBLE)
    (tmp_path / "tests/test_tiny.py").write_text(TEST)
    (tmp_path / ".gitignore").write_text("/.venv\n")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    shutil.copy(ROOT / "tools/sabotage.py", tmp_path / "tools")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    return tmp_path


def sabotage(tree: Path, *names: str) -> tuple[int, str]:
    command = [sys.executable, "tools/sabotage.py", *names]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def patch(tree: Path, name: str, test: str, sound: str = "* 2", broken: str = "+ 2") -> None:
    text = PATCH.format(test=test, sound=sound, broken=broken)
    (tree / f"tests/sabotage/{name}.patch").write_text(text)


@pytest.mark.parametrize("test", ["test_double", "test_in_a_child"])
def test_a_test_that_notices_is_red(tree: Path, test: str) -> None:
    patch(tree, "adds", test)
    status, said = sabotage(tree)
    assert said.splitlines() == ["red  adds: doubles by adding two", "sabotage: 1 of 1 noticed"]
    assert status == 0
    assert (tree / "wire/tiny.py").read_text() == DOUBLE


def test_one_that_stays_green_fails_the_run(tree: Path) -> None:
    patch(tree, "adds", "test_double")
    patch(tree, "triples", "test_weak", broken="* 3")
    status, said = sabotage(tree)
    assert "STILL GREEN triples: tests/test_tiny.py::test_weak" in said
    assert "sabotage: 1 of 2 noticed" in said
    assert status == 1


@pytest.mark.parametrize(
    ("name", "test", "sound", "broken", "complaint"),
    [
        ("stale", "test_double", "* 4", "+ 2", "DOES NOT APPLY stale"),
        ("renamed", "test_gone", "* 2", "+ 2", "the named tests do not pass on the sound code"),
        ("garbled", "test_double", "* 2", "* (", "DID NOT RUN (pytest exit 4) garbled"),
    ],
)
def test_a_patch_that_proves_nothing_fails_the_run(
    tree: Path, name: str, test: str, sound: str, broken: str, complaint: str
) -> None:
    patch(tree, name, test, sound, broken)
    status, said = sabotage(tree)
    assert complaint in said
    assert status == 1


def test_a_patch_says_what_it_breaks(tree: Path) -> None:
    (tree / "tests/sabotage/mute.patch").write_text(PATCH.replace("# why", "# because"))
    status, said = sabotage(tree)
    assert "mute.patch: needs a `# test:` and a `# why:` line" in said
    assert status == 1
