"""Every `banua-…` command in a document is one that the real parsers take; both languages show the same ones."""

from __future__ import annotations

import argparse
import re
import shlex
from typing import TYPE_CHECKING, Final

import pytest

from banua_collector import cli as collector_cli
from banua_collector.errors import RegistryError
from banua_lab import cli as lab_cli
from banua_probe import cli as probe_cli
from tests.real.parts import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PARSERS: Final = {
    "banua-probe": probe_cli._parser,
    "banua-collector": collector_cli._parser,
    "banua-lab": lab_cli._parser,
}
DOCUMENTS: Final = sorted(
    file for pattern in ("*.md", "docs/**/*.md", "wire/*.md", "deploy/**/*.md") for file in ROOT.glob(pattern)
)
PAIRS: Final = [(file, file.with_suffix(".en.md")) for file in DOCUMENTS if file.with_suffix(".en.md").exists()]
FENCED: Final = re.compile(r"^( *)```\w*[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
INLINE: Final = re.compile(r"`((?:\.venv/bin/)?banua-(?:probe|collector|lab)\b[^`\n]*)`")
PLACEHOLDER: Final = re.compile(r"[A-Z][A-Z_]+")
MEANT: Final = {"ID": "1", "N": "1", "DEGREES": "1.5", "PORT": "8080", "TIME": "2026-11-24T08:00+08:00"}
"""What stands for a placeholder whose type the parser checks."""


def words_of(line: str) -> list[str]:
    """Return the words of a command line up to a comment, pipe or redirection, without the folder of the program."""
    words: list[str] = []
    for word in shlex.split(line.removeprefix(".venv/bin/"), comments=True):
        if word in {"|", "<", ">", "&&"}:
            break
        words.append(word)
    return words


def shown(text: str) -> Iterator[list[str]]:
    """Yield the commands that stand on lines of their own in fenced blocks."""
    for _, body in FENCED.findall(text):
        for line in body.replace("\\\n", " ").splitlines():
            if re.match(r"(\.venv/bin/)?banua-", line.strip()):
                yield words_of(line.strip())


def every(commands: str) -> list[tuple[str, list[str]]]:
    """Return (document, words) of every command of one sort: `shown` in blocks, or `named` in running text."""
    found = []
    for file in DOCUMENTS:
        text = file.read_text()
        told = shown(text) if commands == "shown" else map(words_of, INLINE.findall(FENCED.sub("", text)))
        found += [(str(file.relative_to(ROOT)), words) for words in told]
    return found


def parse(words: list[str]) -> argparse.Namespace:
    """Parse a command as the program would, each placeholder replaced by something of its type."""
    program, *arguments = [MEANT.get(word, word) if PLACEHOLDER.fullmatch(word) else word for word in words]
    return PARSERS[program]().parse_args(arguments)


def named_part(words: list[str]) -> list[str]:
    """Return the names of commands at the beginning of `words` that the program knows."""
    parser, known = PARSERS[words[0]](), [words[0]]
    for word in words[1:]:
        levels = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if not levels:
            return known
        if word not in levels[0].choices:
            return known
        parser = levels[0].choices[word]
        known.append(word)
    return known


@pytest.mark.parametrize(("document", "words"), every("shown"), ids=lambda value: str(value)[:70])
def test_each_shown_command_parses(document: str, words: list[str]) -> None:
    if words[-1] == "--help":
        assert named_part(words) == words[:-1], document
        return
    try:
        parse(words)
    except (SystemExit, RegistryError) as refused:
        pytest.fail(f"{document}: {' '.join(words)}: {refused}")


@pytest.mark.parametrize(("document", "words"), every("named"), ids=lambda value: str(value)[:70])
def test_each_command_named_in_running_text_exists(document: str, words: list[str]) -> None:
    known = named_part(words)
    names = [word for word in words[1:] if re.fullmatch(r"[a-z][a-z-]*", word)]
    assert known[1:] == names[: len(known) - 1], document
    assert len(known) > 1 or not names, f"{document}: {' '.join(words)}: no such command"


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=lambda file: file.name)
def test_both_languages_show_the_same_commands(first: Path, second: Path) -> None:
    assert list(shown(first.read_text())) == list(shown(second.read_text()))


def test_pages_for_people_are_in_both_languages() -> None:
    assert {"administrator.md", "noc.md"} <= {first.name for first, _ in PAIRS}


def test_the_administrators_guide_shows_every_command_of_the_collector() -> None:
    commands = shown((ROOT / "docs/administrator.md").read_text())
    told = {tuple(named_part(words)[1:]) for words in commands if words[0] == "banua-collector"}
    assert told == set(_leaves(PARSERS["banua-collector"]()))


def _leaves(parser: argparse.ArgumentParser) -> Iterator[tuple[str, ...]]:
    levels = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not levels:
        yield ()
    for level in levels:
        for name, below in level.choices.items():
            yield from ((name, *rest) for rest in _leaves(below))


def test_a_wrong_command_is_noticed() -> None:
    """The proof that the proof works: an option that is none, a missing argument, a time without offset."""
    for line in (
        "banua-collector probes add NAME --kee HEX",
        "banua-collector probes boots",
        "banua-collector deployments add NAME PLACE --from 2026-11-24T08:00",
    ):
        with pytest.raises((SystemExit, RegistryError)):
            parse(words_of(line))
