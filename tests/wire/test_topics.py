"""Topics: a probe under its own name only, and nothing else parses."""

from __future__ import annotations

import pytest

from banua_wire.errors import WireError
from banua_wire.topics import LEAVES, is_name, parse, topic

NAMES = ["a", "0", "kalsel-0001", "a-b--c", "a" * 32]
NO_NAMES = ["", "-a", "a-", "A", "a_b", "a.b", "a" * 33, "+", "#", "a/b", "a\n", "á", "٣", "a b"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_and_each_leaf_come_back(name: str) -> None:
    assert is_name(name)
    for leaf in LEAVES:
        assert topic(name, leaf) == f"banua/v1/{name}/{leaf}"
        assert parse(f"banua/v1/{name}/{leaf}") == (name, leaf)


@pytest.mark.parametrize("name", NO_NAMES)
def test_no_name(name: str) -> None:
    assert not is_name(name)
    with pytest.raises(WireError):
        parse(f"banua/v1/{name}/batch")


@pytest.mark.parametrize("text", [
    "", "batch", "a/batch", "/a/batch", "banua/v1/a", "banua/v1/a/",
    "banua/v1//batch", "banua/v1/a/nosuch", "banua/v1/a/batch/",
    "banua/v1/a/batch/x", "banua/v2/a/batch", "/banua/v1/a/batch", "xbanua/v1/a/batch", "banua/v1/banua/v1/a/batch",
    "banua/v1/a/b/batch", "BANUA/v1/a/batch", "banua/v1/a/Batch", "banua/v1/a/batch\n", "$SYS/broker",
])  # fmt: skip
def test_no_topic_of_ours(text: str) -> None:
    with pytest.raises(WireError, match="is not banua/v1/NAME/LEAF"):
        parse(text)
