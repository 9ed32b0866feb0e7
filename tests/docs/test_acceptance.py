"""What the documents claim names its proof, and the proof is there: acceptance, README, architecture, decisions."""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import Final

import pytest

from tests.real.parts import ROOT

ACCEPTANCE: Final = "docs/acceptance.md"
COLUMNS: Final = ["id", "must be true", "shown by", "last output"]
NODE: Final = re.compile(r"\b(tests/[\w/.-]+\.py)(?:::(\w+(?:::\w+)?))?")
TARGET: Final = re.compile(r"`make ([a-z-]+)\b[^`]*`")
DOCUMENTS: Final = sorted(
    str(file.relative_to(ROOT)) for pattern in ("*.md", "docs/**/*.md", "wire/*.md") for file in ROOT.glob(pattern)
)


@cache
def functions(path: str) -> frozenset[str]:
    """Return the tests in a file, those of classes as ``Class::test``; none when there is no such file."""
    file = ROOT / path
    if not file.is_file():
        return frozenset()
    found: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return frozenset(found)


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def absent(text: str) -> list[str]:
    """Return the tests and make targets that `text` names and that do not exist."""
    wrong = []
    for path, name in NODE.findall(text):
        if not (ROOT / path).is_file() or (name and name not in functions(path)):
            wrong.append(f"{path}::{name}" if name else path)
    return wrong + [f"make {name}" for name in TARGET.findall(text) if name not in targets()]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def accepted() -> dict[str, list[str]]:
    """Return the rows of the acceptance page by id."""
    lines = [line for line in (ROOT / ACCEPTANCE).read_text().splitlines() if line.startswith("|")]
    tables = [cells(line) for line in lines if not re.fullmatch(r"[|\s:-]+", line)]
    assert COLUMNS in tables, f"{ACCEPTANCE}: no table with the columns {COLUMNS}"
    rows = [row for row in tables if len(row) == len(COLUMNS) and row != COLUMNS]
    assert len({row[0].strip("`* ") for row in rows}) == len(rows), f"{ACCEPTANCE}: an id stands twice"
    return {row[0].strip("`* "): row for row in rows}


def test_each_line_of_acceptance_names_a_test_or_a_command_that_exists() -> None:
    rows = accepted()
    assert rows
    for number, (_, claim, shown_by, _) in rows.items():
        assert claim, number
        assert TARGET.search(shown_by) or NODE.search(shown_by), f"{number}: {shown_by}"
        assert absent(shown_by) == [], number


def works_today() -> list[str]:
    """Return the items of the README's list of what works, each on one line."""
    section = (ROOT / "README.md").read_text().partition("\n## What works today\n")[2].partition("\n## ")[0]
    return [" ".join(item.split()) for item in section.partition("\n- ")[2].split("\n- ") if item]


def test_each_thing_that_works_today_is_accepted() -> None:
    items, known = works_today(), accepted()
    assert len(items) >= 3
    for item in items:
        match = re.search(r"\(([^()]+)\)\.?$", item)
        assert match, f"no ids in brackets at the end: {item}"
        named = [number.strip("` ") for number in match[1].split(",")]
        assert [number for number in named if number not in known] == [], item


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_test_that_a_document_names_exists(document: str) -> None:
    assert absent((ROOT / document).read_text()) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: str) -> None:
    text = (ROOT / document).read_text()
    folder = (ROOT / document).parent
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (folder / link).exists()] == []


def test_every_decision_has_context_decision_and_consequences() -> None:
    pages = sorted((ROOT / "docs/decisions").glob("*.md"))
    assert [page.name[:4] for page in pages] == [f"{n:04}" for n in range(1, len(pages) + 1)]
    for page in pages:
        text = page.read_text()
        assert text.startswith(f"# {page.name[:4]}: "), page.name
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"], page.name
