"""`banua-lab`: demo, modem, load. Errors are one line on standard error, exit 1."""

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _demo(arguments: argparse.Namespace) -> int:
    demo: Any = importlib.import_module("banua_lab.demo")
    return int(demo.run(arguments.state or demo.default_state(), arguments.port, arguments.broker))


def _modem(arguments: argparse.Namespace) -> int:
    modem: Any = importlib.import_module("banua_lab.modem")
    return int(modem.serve(arguments.scenario, arguments.link, arguments.truth))


def _load(arguments: argparse.Namespace) -> int:
    load: Any = importlib.import_module("banua_lab.load")
    config: Any = importlib.import_module("banua_probe.config")
    configs = [config.load(file) for file in arguments.config]
    return int(load.run(configs, arguments.truth, seed=arguments.seed, period_ms=arguments.period_ms))


def _whole(low: int, high: int) -> Callable[[str], int]:
    """Return what reads a whole number within `low`…`high` from the command line."""

    def read(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r:.40} is not a whole number within {low}…{high}")
        return int(text)

    return read


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="banua-lab", description="Try, test and load Sinyal Banua.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="broker, collector and this machine's own probe, without root")
    demo.set_defaults(run=_demo)
    demo.add_argument("--state", type=Path, help="folder that keeps everything (default: below ~/.local/state)")
    demo.add_argument("--port", type=_whole(1, 65535), default=8080, help="port of the page (default 8080)")
    demo.add_argument("--broker", choices=("auto", "mosquitto", "amqtt"), default="auto")

    modem = commands.add_parser("modem", help="emulate an AT modem on a pty")
    modem.set_defaults(run=_modem)
    modem.add_argument("scenario", help="a file, or the name of a shipped scenario")
    modem.add_argument("link", type=Path, help="symbolic link to make to the pty")
    modem.add_argument("--truth", type=Path, help="file that every reply is written to first")

    load = commands.add_parser("load", help="run many signed probes that write each row to a truth file first")
    load.set_defaults(run=_load)
    load.add_argument("config", type=Path, nargs="+", help="one probe configuration each")
    load.add_argument("--truth", type=Path, required=True)
    load.add_argument("--seed", type=int, required=True)
    load.add_argument(
        "--period-ms", type=_whole(10, 86_400_000), default=1000, help="one row a modem this often (default 1000)"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except ModuleNotFoundError as error:
        print(f"banua-lab: {error.name} is missing; pip install 'sinyal-banua[lab]'", file=sys.stderr)
    except (OSError, ValueError) as error:
        print(f"banua-lab: {error}", file=sys.stderr)
    except Exception as error:
        if not type(error).__module__.startswith("banua_"):
            raise
        print(f"banua-lab: {error}", file=sys.stderr)
    return 1
