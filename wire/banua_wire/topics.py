"""MQTT topics: ``banua/v1/{probe}/{leaf}``, a probe under its own name only."""

import re
from typing import Final, Literal

from banua_wire.errors import WireError

Leaf = Literal["batch", "state", "receipt", "config", "command", "reply"]

PREFIX: Final = "banua/v1"
LEAVES: Final[tuple[Leaf, ...]] = ("batch", "state", "receipt", "config", "command", "reply")
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?", re.ASCII)


def is_name(text: str) -> bool:
    """Say whether `text` can name a probe: 1 to 32 of a–z, 0–9 and '-', no '-' at either end."""
    return _NAME.fullmatch(text) is not None


def topic(probe: str, leaf: Leaf) -> str:
    """Return the topic of `probe` (or of all, with ``+``) for `leaf`."""
    return f"{PREFIX}/{probe}/{leaf}"


def parse(text: str) -> tuple[str, Leaf]:
    """Return probe name and leaf of a topic; WireError when it is none of ours."""
    probe, _, leaf = text.removeprefix(f"{PREFIX}/").partition("/")
    for known in LEAVES:
        if leaf == known and is_name(probe) and text == topic(probe, known):
            return probe, known
    raise WireError(f"topic {text!r:.80} is not {PREFIX}/NAME/LEAF")
