"""`banua-probe`: init, run, check-config, doctor, measure, trace, diagnose, decode, outbox.

Errors are one line on standard error, exit 1.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from banua_probe.errors import ConfigError, ProbeError
from banua_probe.modem.dialects import DIALECTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from banua_probe.config import Config, PathTarget
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
    targets = len(config.targets) + len(config.dns) + len(config.web)
    print(f"{arguments.config}: good; probe {config.name}, {len(config.modem)} modem(s), {targets} target(s)")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    """Say what on this board would keep the sensors from measuring; 1 if anything would."""
    from banua_probe.doctor import examine  # noqa: PLC0415

    findings = list(examine(_config(arguments)))
    print("\n".join(map(str, findings)))
    return int(any(finding.advice for finding in findings))


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


def _trace(arguments: argparse.Namespace) -> int:
    """Trace one configured path target now and print the rows; nothing is kept or sent."""
    from banua_probe import clock  # noqa: PLC0415
    from banua_probe.sensors.hops import measure_hops  # noqa: PLC0415

    config = _config(arguments)
    show = _as_json if arguments.json else _as_text
    ways = {(target.modem, target.interface): target for target in _targets(config, arguments.target)}
    for target in ways.values():
        for row in measure_hops(target, config.interface_of(target), "demand", clock.boottime_ms):
            print(show(row), flush=True)
    return 0


def _targets(config: "Config", name: str | None) -> "list[PathTarget]":
    """Return the path targets of that name, all with None; ConfigError when there is none."""
    found = [target for target in config.targets if name in (None, target.target)]
    if not found:
        known = ", ".join(sorted({target.target for target in config.targets})) or "none"
        raise ConfigError(f"path: there is no target{f' {name!r}' if name else ''}; there are: {known}")
    return found


def _diagnose(arguments: argparse.Namespace) -> int:
    """Look at paths with raw packets and print a report for an engineer."""
    diagnosis = importlib.import_module("banua_probe.diagnosis")  # needs the extra `diagnose`
    from banua_probe.diagnose import report  # noqa: PLC0415

    diagnosis.check_privileges()
    ports = tuple(arguments.port or diagnosis.USUAL_PORTS)
    if arguments.host:
        subjects = [diagnosis.Subject(arguments.host, arguments.host, arguments.interface, ports)]
    else:
        config = _config(arguments)
        subjects = [
            diagnosis.Subject(
                target.target,
                target.host,
                arguments.interface or config.interface_of(target),
                (target.port,) if target.port and not arguments.port else ports,
            )
            for target in _targets(config, arguments.target)
        ]
    for subject in subjects:
        print(report(diagnosis.diagnose(subject)), flush=True)
    return 0


def _tcp_port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65_536:  # noqa: PLR2004 (16 bits)
        raise argparse.ArgumentTypeError(f"{text!r} is not a port number, 1 to 65535")
    return int(text)


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
    """Say what the outbox holds, from a copy: the daemon that may run keeps the file locked."""
    from banua_probe.outbox_file import copied, counts  # noqa: PLC0415

    file = _config(arguments).outbox_file
    if not file.exists():
        raise ConfigError(f"state_dir: no outbox yet at {file}")
    with copied(file) as db:
        told = counts(db)
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
    add("doctor", _doctor, "say what on this board would keep the sensors from measuring, and what to do about it")
    add("measure", _measure, "run every sensor once and print what it says").add_argument("--json", action="store_true")
    trace = add("trace", _trace, "trace the hops and the MTU to a path target now, and print the rows")
    trace.add_argument("target", metavar="TARGET", help="name of a target in the configuration")
    trace.add_argument("--json", action="store_true")
    diagnose = add("diagnose", _diagnose, "look at the paths with raw packets and report in words; needs root")
    which = diagnose.add_mutually_exclusive_group()
    which.add_argument("--target", metavar="NAME", help="only this target of the configuration")
    which.add_argument("--host", metavar="ADDRESS", help="this host, without a configuration")
    diagnose.add_argument("--interface", default="", metavar="NAME", help="bind to this network interface")
    diagnose.add_argument("--port", type=_tcp_port, action="append", metavar="N", help="TCP port; default 443 and 8883")
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
        extra = "diagnose" if name == "scapy" else "probe"
        print(f"banua-probe: {name} is missing; pip install 'sinyal-banua[{extra}]'", file=sys.stderr)
    return 1
