"""Traceroute, path MTU and `diagnose` over real routers: namespaces in a chain, whose addresses are the truth."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.real.cable import pulled
from tests.real.netns import NOBODY, Chain, Namespace, Namespaces, chain, probe_command

pytestmark = [pytest.mark.real, pytest.mark.root]

SERVE = "import socket, sys; s = socket.create_server(('', 8883)); print('up', flush=True); sys.stdin.read()"


class Probe:
    """The command in the probe's namespace, with one configured target."""

    def __init__(self, namespace: Namespace, folder: Path, host: str) -> None:
        self._namespace = namespace
        self._file = folder / "probe.toml"
        self._file.write_text(
            'name = "kalsel-0001"\n[broker]\nhost = "localhost"\ntls = false\n'
            f'[[path]]\ntarget = "web"\nhost = "{host}"\n'
        )

    def trace(self, *before: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the summary and the hops of `banua-probe trace`."""
        words = [*before, *probe_command("trace", "web", "--json", "--config", str(self._file))]
        done = self._namespace.run(words)
        assert done.stderr == ""
        summary, *hops = map(json.loads, done.stdout.splitlines())
        assert "ttl" not in summary
        assert [hop["ttl"] for hop in hops] == list(range(1, len(hops) + 1))
        return summary, hops

    def diagnose(self, *more: str) -> list[str]:
        """Return the lines of `banua-probe diagnose`."""
        done = self._namespace.run(probe_command("diagnose", *more, "--config", str(self._file)))
        assert done.stderr == ""
        return done.stdout.splitlines()


def hush(router: Namespace) -> None:
    """Let a router forward as before and say nothing to the probe: what it sends itself finds no route."""
    router.ip("rule", "add", "iif", "lo", "to", "10.77.0.0/30", "blackhole")


def built(net: Namespaces, folder: Path, mtu_at: dict[int, int] | None = None) -> tuple[Chain, Probe]:
    path = chain(net, 3, mtu_at)
    return path, Probe(path.probe, folder, path.hops[-1])


def test_the_trace_names_every_hop_in_order_and_the_middle_links_mtu(net: Namespaces, folder: Path) -> None:
    path, probe = built(net, folder, {2: 1300})
    summary, hops = probe.trace()
    assert [hop["address"] for hop in hops] == path.hops
    assert [hop["answer"] for hop in hops] == ["time_exceeded"] * 3 + ["port_unreachable"]
    assert all(len(hop["rtt_us"]) == 3 and None not in hop["rtt_us"] for hop in hops)
    del summary["boottime_ms"]
    assert summary == {
        "kind": "hops", "target": "web", "trigger": "demand", "outcome": "measured", "address": path.hops[-1],
        "count": 3, "reached": 1, "pmtu_bytes": 1300,
    }  # fmt: skip


def test_a_user_without_privileges_sees_the_same(net: Namespaces, folder: Path) -> None:
    path, probe = built(net, folder, {1: 1400})
    summary, hops = probe.trace(*NOBODY)
    assert [hop["address"] for hop in hops] == path.hops
    assert (summary["reached"], summary["pmtu_bytes"]) == (1, 1400)


@pytest.mark.slow
def test_a_silent_router_is_a_failed_hop_and_its_black_hole_is_measured(net: Namespaces, folder: Path) -> None:
    """The second router tells neither who it is nor that its next link takes 1300 bytes only."""
    path, probe = built(net, folder, {2: 1300})
    hush(net["r2"])
    summary, hops = probe.trace()
    assert [hop.get("address") for hop in hops] == [path.hops[0], None, *path.hops[2:]]
    assert hops[1]["outcome"] == "failed"
    assert hops[1]["rtt_us"] == [None, None, None]
    assert (summary["count"], summary["reached"], summary["pmtu_bytes"]) == (2, 1, 1300)


@pytest.mark.slow
def test_a_target_with_the_kernels_usual_limit_on_icmp_is_where_it_is(net: Namespaces, folder: Path) -> None:
    """The second trace begins when the first has used the limit up."""
    path, probe = built(net, folder, {2: 1300})
    hush(net["r2"])
    path.server.sysctl("net.ipv4.icmp_ratelimit", 1000)
    for _ in range(2):
        summary, hops = probe.trace()
        assert [hop.get("address") for hop in hops] == [path.hops[0], None, *path.hops[2:]]
        assert (summary["reached"], summary["pmtu_bytes"]) == (1, 1300)


@pytest.mark.slow
def test_a_last_link_that_is_down_is_told_by_the_router_before_it(net: Namespaces, folder: Path) -> None:
    path, probe = built(net, folder)
    path.server.ip("link", "set", "to-r3", "down")
    summary, hops = probe.trace()
    assert [hop["address"] for hop in hops] == [*path.hops[:3], path.hops[2]]
    assert (hops[-1]["answer"], summary["reached"]) == ("host_unreachable", 0)
    assert summary["reason"] == f"host_unreachable by {path.hops[2]}"
    assert "pmtu_bytes" not in summary


def test_a_target_without_a_route_is_not_measured(net: Namespaces, folder: Path) -> None:
    path, probe = built(net, folder)
    path.probe.ip("route", "delete", "default")
    summary, hops = probe.trace()
    assert (summary["outcome"], summary["reason"]) == ("not_measured", "not sent: Network is unreachable")
    assert hops == []


@pytest.mark.slow
def test_a_trace_whose_interface_loses_its_carrier_tells_no_silent_hop_after_it(net: Namespaces, folder: Path) -> None:
    """Two routers answer and those behind them are silent; the cable is pulled while the trace waits for them."""
    path, probe = built(net, folder)
    net["r2"].ip("route", "add", "blackhole", f"{path.hops[-1]}/32")
    with pulled(net["r1"], "to-probe", after_s=1.5):
        summary, hops = probe.trace()
    assert [hop["address"] for hop in hops] == path.hops[: len(hops)]
    assert (summary["outcome"], summary["reached"]) == ("measured", 0)
    assert summary["reason"] == "not sent: no carrier on to-r1"
    summary, hops = probe.trace()
    assert (summary["outcome"], summary["reason"], hops) == ("not_measured", "not sent: no carrier on to-r1", [])


def test_ipv6_is_traced_too(net: Namespaces, folder: Path) -> None:
    nodes = [net.add(label) for label in ("probe", "r1", "r2", "server")]
    subnets = ["fd77::/64", "fd77:0:0:1::/64", "fd77:0:0:2::/64"]
    mtus = [1500, 1400, 1500]
    wires = [
        net.wire(*pair, subnet, mtu=mtu)
        for pair, subnet, mtu in zip(itertools.pairwise(nodes), subnets, mtus, strict=True)
    ]
    net.forward(nodes[1], nodes[2])
    net.route(nodes[0], "default", via=wires[0].address_b)
    net.route(nodes[1], subnets[2], via=wires[1].address_b)
    net.route(nodes[2], subnets[0], via=wires[1].address_a)
    net.route(nodes[3], "default", via=wires[2].address_a)
    nodes[3].sysctl("net.ipv6.icmp.ratelimit", 0)
    summary, hops = Probe(nodes[0], folder, wires[2].address_b).trace()
    assert [hop["address"] for hop in hops] == [wire.address_b for wire in wires]
    assert (summary["reached"], summary["pmtu_bytes"]) == (1, 1400)


def test_diagnose_names_hops_ports_and_mtu(net: Namespaces, folder: Path) -> None:
    """An open port, a closed one, one that the second router drops and one that it refuses."""
    path, probe = built(net, folder, {2: 1300})
    server = path.server.popen([sys.executable, "-c", SERVE], stdin=-1, stdout=-1)
    assert server.stdout is not None
    assert server.stdout.readline() == b"up\n"
    net["r2"].block_port("tcp", 443)
    net["r2"].block_port("tcp", 1883, "prohibit")
    lines = probe.diagnose(*(word for port in (8883, 80, 443, 1883) for word in ("--port", str(port))))
    assert lines[0] == f"web = {path.hops[-1]}:"
    assert lines[1].endswith("interface to-r1, dari / from 10.77.0.1, gerbang / gateway 10.77.0.2")
    assert lines[2].startswith("  ICMP echo: 5 dikirim / sent, 5 dijawab / answered, ")
    assert lines[3:7] == [
        "  TCP 8883: terbuka / open",
        "  TCP 80: tertutup (RST) / closed (RST)",
        "  TCP 443: disaring (tanpa jawaban) / filtered (silence)",
        f"  TCP 1883: ditolak / refused oleh / by {path.hops[1]} (prohibited)",
    ]
    assert [line.split()[:2] for line in lines[8:12]] == [[str(n), hop] for n, hop in enumerate(path.hops, start=1)]
    assert lines[12] == "  MTU: 1300 byte"
    assert lines[13].startswith("  => Target terjangkau; port 8883 terbuka; port 80 tertutup (RST); port 443 disaring ")
    assert lines[14].startswith("     the target is reached; port 8883 open; ")
    server.communicate(timeout=10)


@pytest.mark.slow
def test_diagnose_says_after_which_hop_the_path_ends(net: Namespaces, folder: Path) -> None:
    path, probe = built(net, folder)
    net["r2"].ip("route", "add", "blackhole", f"{path.hops[-1]}/32")
    lines = probe.diagnose()
    assert lines[-2:] == [
        f"  => Rute terputus setelah {path.hops[0]} (hop 1)",
        f"     the path ends after {path.hops[0]} (hop 1)",
    ]
