"""What a document tells people to type must work: each line of an `sh` block is run here or proven elsewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.real.parts import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCUMENTS = ("README.md", "CONTRIBUTING.md")
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
SHELLS = {"bash", "shell", "console", "zsh", "terminal", ""}

PROVEN_ELSEWHERE = {
    "make run": "tests/system",
    "make test": "this very run",
    "make check": ".ci/run",
}


def blocks(document: str) -> list[tuple[str, str]]:
    text = (ROOT / document).read_text()
    return [(tag, body) for _, tag, body in FENCE.findall(text)]


def shell_lines() -> Iterator[str]:
    for document in DOCUMENTS:
        for tag, body in blocks(document):
            if tag == "sh":
                yield from filter(None, (line.split(" #")[0].strip() for line in body.splitlines()))


def is_safe_to_run(line: str) -> bool:
    """Say whether a line only reads: a help page, or make's list."""
    return line == "make help" or (line.startswith(".venv/bin/banua-") and line.endswith("--help"))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_any_other_block_of_commands_is_tagged_text(document: str) -> None:
    assert [tag for tag, _ in blocks(document) if tag in SHELLS] == []


@pytest.mark.parametrize("line", sorted(set(shell_lines())))
def test_each_line_works(line: str) -> None:
    if line in PROVEN_ELSEWHERE:
        return
    assert is_safe_to_run(line), f"prove this line, or tag its block `text`: {line}"
    words = shlex.split(line.replace(".venv/bin", str(Path(sys.executable).parent)))
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_make_help_lists_every_command() -> None:
    listed = subprocess.check_output(["make"], cwd=ROOT, text=True)
    [phony] = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert re.findall(r"^make ([a-z-]+) ", listed, re.MULTILINE) == phony.split()
