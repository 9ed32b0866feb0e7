"""`banua-lab`: demo, modem, load, link, fault, bench. Errors are one line on standard error, exit 1."""

import argparse
import importlib
import ipaddress
import math
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from banua_lab.bench import BENCHES

T = TypeVar("T")

_DNS_MODES = ("table", "hijack", "nxdomain", "servfail", "silent", "truncated", "wrong-id", "garbage")
_WEB_MODES = ("204", "200", "portal-redirect", "portal-page", "silent")


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
    return int(
        load.run(
            configs,
            arguments.truth,
            seed=arguments.seed,
            period_ms=arguments.period_ms,
            drain=arguments.drain,
            clock_file=arguments.clock,
        )
    )


def _link(arguments: argparse.Namespace) -> int:
    link: Any = importlib.import_module("banua_lab.link")
    impairment: Any = importlib.import_module("banua_lab.impairment")
    profiles = tuple(
        impairment.Profile(
            delay_ms=arguments.delay_ms[way],
            jitter_ms=arguments.jitter_ms[way],
            loss=arguments.loss[way],
            duplicate=arguments.duplicate[way],
            reorder=arguments.reorder[way],
            rate_kbit=arguments.rate_kbit[way],
            queue_packets=arguments.queue_packets[way],
            outages=tuple(arguments.outage),
            blocked=frozenset().union(*arguments.block_port),
        )
        for way in (0, 1)
    )
    subnets = arguments.net or [ipaddress.ip_network("10.77.255.0/30")]
    return int(
        link.serve(
            (arguments.a, arguments.b),
            subnets,
            profiles,
            seed=arguments.seed,
            mtu=arguments.mtu,
            log_path=arguments.log,
        )
    )


def _fault_dns(arguments: argparse.Namespace) -> int:
    faults: Any = importlib.import_module("banua_lab.faults")
    table: dict[str, list[str]] = {}
    for name, address in arguments.answer:
        table.setdefault(name, []).append(address)
    server = faults.DnsFault(
        faults.DnsMode(arguments.mode),
        table,
        hijack_to=arguments.hijack_to,
        host=arguments.host,
        port=arguments.port,
        log_path=arguments.log,
    )
    return int(faults.serve(server))


def _fault_web(arguments: argparse.Namespace) -> int:
    faults: Any = importlib.import_module("banua_lab.faults")
    server = faults.WebFault(
        faults.WebMode(arguments.mode),
        body=arguments.body.encode(),
        host=arguments.host,
        port=arguments.port,
        log_path=arguments.log,
    )
    return int(faults.serve(server))


def _bench(arguments: argparse.Namespace) -> int:
    bench: Any = importlib.import_module(f"banua_lab.bench.{arguments.name}")
    figures: Any = importlib.import_module("banua_lab.bench.figures")
    parser = argparse.ArgumentParser(prog=f"banua-lab bench {arguments.name}", description=bench.__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object: the command and its figures")
    bench.add_arguments(parser)
    words = parser.parse_args(arguments.words)
    command = shlex.join(["banua-lab", "bench", arguments.name, *arguments.words])
    return int(figures.tell(command, bench.run(words), as_object=words.json))


def _whole(low: int, high: int) -> Callable[[str], int]:
    """Return what reads a whole number within `low`…`high` from the command line."""

    def read(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r:.40} is not a whole number within {low}…{high}")
        return int(text)

    return read


def _number(low: float, high: float) -> Callable[[str], float]:
    """Return what reads a number within `low`…`high` from the command line."""

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text!r:.40} is not a number within {low:g}…{high:g}")
        return number

    return read


def _each_way(read: Callable[[str], T]) -> Callable[[str], tuple[T, T]]:
    """Return what reads one value for both directions, or two as ``40/60``: from a to b, and back."""

    def read_both(text: str) -> tuple[T, T]:
        there, slash, back = text.partition("/")
        return (read(there), read(back if slash else there))

    return read_both


def _outage(text: str) -> tuple[float, float]:
    start, _, end = text.partition("-")
    second = _number(0, 86_400)
    outage = (second(start), second(end))
    if outage[0] >= outage[1]:
        raise argparse.ArgumentTypeError(f"{text!r:.40} does not end after it starts")
    return outage


def _blocked(text: str) -> frozenset[tuple[str, int]]:
    name, slash, port = text.rpartition("/")
    protocols = (name,) if slash else ("tcp", "udp")
    if name not in ("", "tcp", "udp"):
        raise argparse.ArgumentTypeError(f"{text!r:.40} is not a port, nor tcp/PORT or udp/PORT")
    return frozenset((protocol, _whole(1, 65535)(port)) for protocol in protocols)


def _subnet(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        subnet = ipaddress.ip_network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if subnet.num_addresses < 4:  # noqa: PLR2004 (two ends, and the two addresses that name the subnet)
        raise argparse.ArgumentTypeError(f"{text!r:.40} has no room for two ends")
    return subnet


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _known_name(text: str) -> tuple[str, str]:
    name, _, address = text.partition("=")
    return name, _address(address)


def _add_link(commands: Any) -> None:
    link = commands.add_parser(
        "link",
        help="emulate a link between two network namespaces, and write what became of each packet",
        description="Emulate a link between two network namespaces. A value that may differ between the directions is "
        "one number, or two as 40/60: from a to b, and back.",
    )
    link.set_defaults(run=_link)
    link.add_argument("--a", required=True, metavar="NETNS", help="network namespace of one end")
    link.add_argument("--b", required=True, metavar="NETNS", help="network namespace of the other end")
    link.add_argument("--log", type=Path, required=True, help="file for one JSON line a packet, written at the end")
    link.add_argument(
        "--net",
        type=_subnet,
        action="append",
        help="subnet whose first two addresses the ends get; once more for IPv6 (default 10.77.255.0/30)",
    )
    probability, delay_ms = _each_way(_number(0, 1)), _each_way(_number(0, 60_000))
    link.add_argument("--delay-ms", type=delay_ms, default=(0, 0), help="one-way delay")
    link.add_argument("--jitter-ms", type=delay_ms, default=(0, 0), help="the delay varies by up to this, either way")
    link.add_argument("--loss", type=probability, default=(0, 0), help="probability, within 0…1")
    link.add_argument("--duplicate", type=probability, default=(0, 0), help="probability")
    link.add_argument("--reorder", type=probability, default=(0, 0), help="probability of going without the delay")
    link.add_argument(
        "--rate-kbit", type=_each_way(_whole(0, 10_000_000)), default=(0, 0), help="kbit/s, 0 for no limit"
    )
    link.add_argument(
        "--queue-packets", type=_each_way(_whole(1, 10_000)), default=(100, 100), help="room at the rate (default 100)"
    )
    link.add_argument(
        "--outage", type=_outage, action="append", default=[], metavar="START-END", help="seconds from the start"
    )
    link.add_argument(
        "--block-port", type=_blocked, action="append", default=[], metavar="PORT", help="or tcp/PORT, udp/PORT"
    )
    link.add_argument("--seed", type=_whole(0, 2**63), default=1, help="decides all that is random (default 1)")
    link.add_argument("--mtu", type=_whole(68, 65535), default=1500, help="of both devices (default 1500)")


def _add_fault(commands: Any) -> None:
    fault = commands.add_parser("fault", help="serve wrong answers on purpose, and write down what was asked")
    kinds = fault.add_subparsers(required=True, metavar="KIND")

    dns = kinds.add_parser("dns", help="a name server over UDP and TCP")
    dns.set_defaults(run=_fault_dns)
    dns.add_argument("--mode", default="table", choices=_DNS_MODES, help="how it answers (default table)")
    dns.add_argument(
        "--answer", type=_known_name, action="append", default=[], metavar="NAME=ADDRESS", help="a name that it knows"
    )
    dns.add_argument("--hijack-to", type=_address, default="192.0.2.1", help="address for every name (mode hijack)")

    web = kinds.add_parser("web", help="a web server")
    web.set_defaults(run=_fault_web)
    web.add_argument("--mode", default="204", choices=_WEB_MODES, help="how it answers (default 204)")
    web.add_argument("--body", default="ok\n", help="what mode 200 answers")

    for kind in (dns, web):
        kind.add_argument("--host", type=_address, default="127.0.0.1", help="address (default 127.0.0.1)")
        kind.add_argument("--port", type=_whole(0, 65535), default=0, help="port (default 0: a free one)")
        kind.add_argument("--log", type=Path, help="file for one JSON line a question, written before the answer")


def _add_bench(commands: Any) -> None:
    bench = commands.add_parser(
        "bench",
        help="measure, and print the figures beside their goals (exit 2: a goal is missed)",
        description="Measure, and print the figures beside their goals; exit 2 names those that are missed.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="benches:\n" + "\n".join(f"  {name:10} {about}" for name, about in BENCHES.items()),
    )
    bench.set_defaults(run=_bench)
    bench.add_argument(
        "name", choices=BENCHES, metavar="BENCH", help="one of those below; BENCH --help has its options"
    )
    bench.add_argument("words", nargs=argparse.REMAINDER, metavar="…", help="--json, and its options")


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
    load.add_argument("--drain", action="store_true", help="measure nothing: deliver what is left")
    load.add_argument("--clock", type=Path, metavar="FILE", help="STEP_MS ERROR_MS of the clock that dates the rows")

    _add_link(commands)
    _add_fault(commands)
    _add_bench(commands)
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
