"""`banua-probe`: init, run, check-config, measure, decode, outbox. Errors are one line on standard error, exit 1."""

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from banua_probe.errors import ConfigError, ProbeError
from banua_probe.modem.dialects import DIALECTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from banua_probe.config import Config
    from banua_wire.rows import Row

DEFAULT_CONFIG: Final = "/etc/banua-probe.toml"


def _config(arguments: argparse.Namespace) -> "Config":
    from banua_probe import config  # noqa: PLC0415 (each command loads only what it needs)

    return config.load(Path(arguments.config))


def _init(arguments: argparse.Namespace) -> int:
    """Make the key, once, and print its public half."""
    from banua_wire import signature  # noqa: PLC0415

    file = Path(_config(arguments).key_file)
    if file.exists():
        from banua_probe.app import read_secret  # noqa: PLC0415

        secret = read_secret(file)
    else:
        secret = signature.new_secret()
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch(mode=0o600, exist_ok=False)
        file.write_text(secret.hex() + "\n", encoding="ascii")
    print(signature.public_of(secret).hex())
    return 0


def _run(arguments: argparse.Namespace) -> int:
    app = importlib.import_module("banua_probe.app")  # needs the extra `probe`
    return int(app.run(_config(arguments)))


def _check_config(arguments: argparse.Namespace) -> int:
    config = _config(arguments)
    print(f"{arguments.config}: good; probe {config.name}, {len(config.modem)} modem(s), {len(config.path)} target(s)")
    return 0


def _measure(arguments: argparse.Namespace) -> int:
    """Run every sensor once and print its rows; nothing is kept or sent."""
    import random  # noqa: PLC0415

    from banua_probe import clock, sensors  # noqa: PLC0415

    around = sensors.Surroundings(clock.boottime_ms, lambda: (0, 0), random.Random())  # noqa: S311
    show = _as_json if arguments.json else _as_text
    for task in sensors.tasks(_config(arguments), around, single=True):
        for row in task.run():
            print(show(row), flush=True)
    return 0


def _as_json(row: "Row") -> str:
    return json.dumps({"kind": row.kind, "boottime_ms": row.boottime_ms, **row.values}, ensure_ascii=False)


def _as_text(row: "Row") -> str:
    from banua_wire.fields import BY_KIND  # noqa: PLC0415

    units = {field.name: field.unit for field in BY_KIND[row.kind].fields}
    return f"{row.kind}: " + ", ".join(f"{name} {value} {units[name]}".rstrip() for name, value in row.values.items())


def _decode(arguments: argparse.Namespace) -> int:
    from banua_probe.decode import bounded_lines, decode_stream  # noqa: PLC0415

    return decode_stream(arguments.dialect, bounded_lines(sys.stdin.buffer), sys.stdout)


def _outbox(arguments: argparse.Namespace) -> int:
    """Say what the outbox holds, without touching it."""
    import sqlite3  # noqa: PLC0415
    from urllib.parse import quote  # noqa: PLC0415

    file = _config(arguments).outbox_file
    if not file.exists():
        raise ConfigError(f"state_dir: no outbox yet at {file}")
    try:
        db = sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=5)
        counts: dict[str, Any] = dict(db.execute("SELECT state, count(*) FROM batches GROUP BY state").fetchall())
        counts["open_rows"] = db.execute("SELECT count(*) FROM open_rows").fetchone()[0]
    except sqlite3.Error as error:
        raise ConfigError(f"outbox {file}: {error}") from error
    names = ("waiting", "evictable", "refused", "set_aside", "open_rows")
    told = {name: counts.get(name, 0) for name in names}
    print(json.dumps(told) if arguments.json else "\n".join(f"{name:10} {n}" for name, n in told.items()))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="banua-probe", description="Measure signal and path here; deliver to the collector."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: "Callable[[argparse.Namespace], int]", text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        if name != "decode":
            command.add_argument("--config", default=DEFAULT_CONFIG, metavar="FILE", help=f"default {DEFAULT_CONFIG}")
        return command

    add("init", _init, "make this probe's key if there is none, and print the public one")
    add("run", _run, "measure, keep and deliver until stopped")
    add("check-config", _check_config, "say whether a configuration is good, and what is wrong with it")
    add("measure", _measure, "run every sensor once and print what it says").add_argument("--json", action="store_true")
    decode = add("decode", _decode, "read modem replies on standard input, print one JSON object a reply")
    decode.add_argument("--dialect", required=True, choices=tuple(DIALECTS))
    add("outbox", _outbox, "say what the outbox holds").add_argument("--json", action="store_true")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except ProbeError as error:
        print(f"banua-probe: {error}", file=sys.stderr)
    except BrokenPipeError:
        sys.stderr.close()
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"banua-probe: {where}{error.strerror or error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        name = (error.name or "a package").partition(".")[0]
        print(f"banua-probe: {name} is missing; pip install 'sinyal-banua[probe]'", file=sys.stderr)
    return 1
