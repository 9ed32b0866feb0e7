"""The command line: what can be said. What it does is in ``commands``, imported only when something is to be done.

This module needs the standard library alone, so that a missing extra is one line and not a traceback.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from banua_collector.errors import CollectorError, RegistryError

PROGRAM: Final = "banua-collector"
CONFIG_VARIABLE: Final = "BANUA_COLLECTOR_CONFIG"
DEFAULT_CONFIG: Final = "/etc/banua-collector.toml"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 refused or failed; wrong usage exits with 2."""
    try:
        return _perform(_parser().parse_args(argv))
    except CollectorError as error:
        for line in str(error).splitlines():
            print(f"{PROGRAM}: {line}", file=sys.stderr)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("banua_"):
            raise
        print(f"{PROGRAM}: {error.name} is missing; pip install 'sinyal-banua[collector]'", file=sys.stderr)
    except BrokenPipeError:
        sys.stderr.close()
    return 1


def _perform(args: argparse.Namespace) -> int:
    commands: Any = importlib.import_module("banua_collector.commands")  # needs the extra
    return int(commands.perform(args))


def moment(text: str) -> int:
    """Return the ms UTC of an ISO 8601 time; RegistryError when it is none, or does not say its offset."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise RegistryError(f"{text!r:.60} is not a time like 2026-11-24T08:00+08:00") from None
    if found.tzinfo is None:
        raise RegistryError(f"{text!r:.60} has no offset: write it like {found:%Y-%m-%dT%H:%M}+08:00 (WITA)")
    if found < _EPOCH:
        raise RegistryError(f"{text!r:.60} is before 1970")
    return (found - _EPOCH) // timedelta(milliseconds=1)


class _Commands:
    """A level of the command tree: names, each a command or a further level."""

    def __init__(self, parser: argparse.ArgumentParser, *, required: bool = True) -> None:
        self._names = parser.add_subparsers(metavar="COMMAND", required=required)

    def level(self, name: str, about: str) -> argparse.ArgumentParser:
        """Add a name with commands of its own below."""
        return self._names.add_parser(name, help=about, description=about)

    def add(self, name: str, command: str, about: str, *, lists: bool = False) -> argparse.ArgumentParser:
        """Add the name of `command`, which works on the database; with ``--json`` if it lists."""
        parser = self.level(name, about)
        settle(parser, command, lists=lists)
        return parser


def settle(parser: argparse.ArgumentParser, command: str, *, lists: bool = False) -> None:
    """Make `parser` the end of a command: which function, which settings."""
    parser.set_defaults(command=command)
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        default=Path(os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG),
        help=f"the settings (default: ${CONFIG_VARIABLE}, else {DEFAULT_CONFIG})",
    )
    if lists:
        parser.add_argument("--json", action="store_true", help="for machines: JSON, one object a line")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Keeps what the probes send, and shows where there is no signal."
    )
    commands = _Commands(parser)
    commands.add("run", "run", "run the collector until it is told to stop")
    commands.add("check-config", "check-config", "say whether the settings are right")
    _villages(commands.level("villages", "the official list of villages"))
    _places(_Commands(commands.level("places", "the points where is measured")))
    _deployments(_Commands(commands.level("deployments", "which probe stands where, from when to when")))
    _probes(_Commands(commands.level("probes", "who may speak")))
    _journal(_Commands(commands.level("journal", "what has come")))
    return parser


def _villages(parser: argparse.ArgumentParser) -> None:
    villages = _Commands(parser)
    villages.add(
        "find", "villages find", "find villages by part of the name or start of the code", lists=True
    ).add_argument("text", metavar="TEXT")
    villages.add("load", "villages load", "bring the list to the one this version ships")


def _places(places: _Commands) -> None:
    add = places.add("add", "places add", "register a place")
    add.add_argument("village", metavar="VILLAGE_CODE")
    add.add_argument("name", metavar="NAME", help="a short name for machines: a–z, 0–9 and '-'")
    add.add_argument("title", metavar="TITLE", help="what people call the point")
    add.add_argument("--lat", type=float, metavar="DEGREES")
    add.add_argument("--lon", type=float, metavar="DEGREES")
    places.add("list", "places list", "list the places", lists=True)


def _deployments(deployments: _Commands) -> None:
    add = deployments.add("add", "deployments add", "say that a probe stands at a place")
    add.add_argument("probe", metavar="PROBE")
    add.add_argument("place", metavar="PLACE")
    add.add_argument("--from", dest="from_ms", type=moment, required=True, metavar="TIME")
    add.add_argument("--to", dest="to_ms", type=moment, metavar="TIME", help="default: it still stands there")
    add.add_argument("--end-open", action="store_true", help="end the probe's open deployment at --from")
    _details(add)
    correct = deployments.add("correct", "deployments correct", "change what was said of a deployment")
    correct.add_argument("id", type=int, metavar="ID")
    correct.add_argument("--place")
    correct.add_argument("--from", dest="from_ms", type=moment, metavar="TIME")
    until = correct.add_mutually_exclusive_group()
    until.add_argument("--to", dest="to_ms", type=moment, metavar="TIME")
    until.add_argument("--open", action="store_true", help="it still stands there")
    _details(correct)
    end = deployments.add("end", "deployments end", "end an open deployment")
    end.add_argument("id", type=int, metavar="ID")
    end.add_argument("--at", dest="to_ms", type=moment, required=True, metavar="TIME")
    deployments.add("list", "deployments list", "list the deployments", lists=True)


def _details(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--power-source", metavar="TEXT", help="for example: PLN, PLTS")
    parser.add_argument("--supply-hours", metavar="TEXT", help="when the place has power, for example: 18-06")
    parser.add_argument("--antenna", metavar="TEXT")
    parser.add_argument("--connectivity", metavar="HOW", help="online, sometimes or by_hand")


def _probes(probes: _Commands) -> None:
    add = probes.add("add", "probes add", "register a probe with its key, or give one a further key")
    add.add_argument("name", metavar="NAME")
    add.add_argument("--key", required=True, metavar="HEX", help="the public key, as banua-probe init prints it")
    add.add_argument("--simulated", action="store_true", help="mark all it sends as simulated, wherever it shows")
    probes.add("list", "probes list", "list the probes and their keys", lists=True)
    for name, about in (
        ("key-retire", "end a key: boots begun before now are still believed"),
        ("key-revoke", "end a stolen or lost key: nothing it signed is believed from now on"),
    ):
        ending = probes.add(name, f"probes {name}", about)
        ending.add_argument("name", metavar="NAME")
        ending.add_argument("key", metavar="KEYPREFIX", help="the key, or as many of its first digits as tell it apart")
    probes.add("boots", "probes boots", "list the boots of a probe", lists=True).add_argument("name", metavar="NAME")
    assign = probes.add("assign", "probes assign", "decide for a held boot whether its data counts")
    assign.add_argument("name", metavar="NAME")
    assign.add_argument("boot", metavar="BOOTHEX", help="the boot id, or as many of its first digits as tell it apart")
    assign.add_argument("standing", metavar="STANDING", help="released (it counts) or dropped (kept out for good)")


def _journal(journal: _Commands) -> None:
    journal.add("info", "journal info", "what the journal holds", lists=True)
    listing = journal.add("list", "journal list", "list the newest batches", lists=True)
    listing.add_argument("--probe", metavar="NAME")
    listing.add_argument("--limit", type=int, default=20, metavar="N")
    show = journal.add("show", "journal show", "show one batch and its rows", lists=True)
    show.add_argument("id", type=int, metavar="ID")
    _quarantine(_Commands(journal.level("quarantine", "what could not be believed or read")))
    _refused(_Commands(journal.level("refused", "points that InfluxDB will not take")))
    again = journal.add("replay", "journal replay", "write to InfluxDB anew, for example into an empty bucket")
    again.add_argument("--probe", metavar="NAME", help="of this probe alone")
    again.add_argument("--from", dest="from_ms", type=moment, metavar="TIME", help="what was measured since then")
    again.add_argument("--to", dest="to_ms", type=moment, metavar="TIME", help="what was measured until then")
    journal.add("restored", "journal restored", "after restoring a backup: let probes send again what it lacks")
    _months(journal)


def _months(journal: _Commands) -> None:
    export = journal.add("export", "journal export", "write a month, as received, to a file", lists=True)
    export.add_argument("--month", required=True, metavar="MONTH", help="the month of receipt, UTC, like 2026-08")
    export.add_argument("--to", type=Path, required=True, metavar="DIR", help="the folder to write to")
    export.add_argument(
        "--remove", action="store_true", help="then remove its batches, if it has been over for 90 days"
    )
    back = journal.add("import", "journal import", "journal what exported files hold; again, it changes nothing")
    back.add_argument("files", type=Path, nargs="+", metavar="FILE")
    back.add_argument("--registry", type=Path, metavar="FILE", help="into an empty journal: restore this first")
    check = journal.add("verify", "journal verify", "prove that exported files hold what they say", lists=True)
    check.add_argument("files", type=Path, nargs="+", metavar="FILE")
    retain = journal.add("retain", "journal retain", "export and remove every month that is old enough")
    retain.add_argument("--days", type=int, required=True, metavar="N", help="days since its end, 90 or more")
    retain.add_argument("--to", type=Path, metavar="DIR", help="the folder to write to (default: archive in state_dir)")


def _quarantine(quarantine: _Commands) -> None:
    kept = quarantine.add("list", "journal quarantine list", "list the messages, newest first", lists=True)
    kept.add_argument("--reason", metavar="REASON")
    kept.add_argument("--probe", metavar="NAME")
    show = quarantine.add("show", "journal quarantine show", "show one message and its way out", lists=True)
    show.add_argument("id", type=int, metavar="ID")
    again = quarantine.add("replay", "journal quarantine replay", "judge messages again, as they came", lists=True)
    which = again.add_mutually_exclusive_group(required=True)
    which.add_argument("ids", type=int, nargs="*", default=[], metavar="ID", help="these messages")
    which.add_argument("--reason", metavar="REASON", help="all messages of a reason")
    which.add_argument("--all", action="store_true", help="all messages but conflicts")


def _refused(refused: _Commands) -> None:
    points = refused.add("list", "journal refused list", "list the points, newest first", lists=True)
    points.add_argument("--probe", metavar="NAME")
    show = refused.add("show", "journal refused show", "show one point, as it was sent", lists=True)
    show.add_argument("id", type=int, metavar="ID")
    again = refused.add("replay", "journal refused replay", "send the batches of refused points once more")
    again.add_argument("ids", type=int, nargs="*", default=[], metavar="ID", help="these points (default: all)")
