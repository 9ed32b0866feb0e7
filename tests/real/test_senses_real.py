"""What a village's path really is, called what it is: `banua-probe measure` in a network namespace of its own.

The truth is the topology that the test made, and what its servers wrote down.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.real.cable import pulled
from tests.real.netns import NOBODY, Chain, Link, Namespace, Namespaces, chain, lab, probe_command

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = [pytest.mark.real, pytest.mark.root]

HEAD = 'name = "uji-1"\n[broker]\nhost = "localhost"\ntls = false\n'


@pytest.fixture
def way(net: Namespaces) -> Chain:
    return chain(net, 2)


def measured(at: Namespace, folder: Path, settings: str, as_user: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Rows of `banua-probe measure` in the namespace, without those of the board."""
    file = folder / "probe.toml"
    top = f'state_dir = "{folder}"\n' + ("" if "[[path]]" in settings else "path = []\n")
    file.write_text(top + HEAD + settings)
    done = at.run([*as_user, *probe_command("measure", "--json", "--config", str(file))], check=False)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return [row for row in rows if row["kind"] != "board"]


def path(host: str, more: str = "") -> str:
    return f'[[path]]\ntarget = "t"\nhost = "{host}"\ncount = 3\ninterval_ms = 20\ntrace = false\n{more}'


def serve(at: Namespace, kind: str, folder: Path, *options: str) -> Path:
    """Start a fault server on its usual port, and return the file of what it was asked."""
    log = folder / f"{kind}.jsonl"
    log.touch()
    port = {"dns": "53", "web": "80"}[kind]
    at.serve(lab("fault", kind, "--host", "0.0.0.0", "--port", port, "--log", str(log), *options))
    return log


@pytest.mark.parametrize("as_user", [(), NOBODY], ids=["root", "nobody"])
def test_icmp_is_measured_by_kernel_stamps(way: Chain, folder: Path, as_user: Sequence[str]) -> None:
    """Two routers away: root by a raw socket, nobody by a ping socket once the sysctl permits it."""
    if as_user:
        way.probe.sysctl("net.ipv4.ping_group_range", "0 2147483647")
    (row,) = measured(way.probe, folder, path(way.hops[-1]), as_user)
    assert {name: row[name] for name in ("method", "outcome", "address", "reply_ttl", "timestamp_source")} == {
        "method": "icmp", "outcome": "measured", "address": way.hops[-1], "reply_ttl": 62, "timestamp_source": "kernel",
    }  # fmt: skip
    assert len(row["rtt_us"]) == 3
    assert all(0 < rtt < 1e6 for rtt in [row["wake_rtt_us"], *row["rtt_us"]])


def test_icmp_that_is_not_permitted_says_so_and_doctor_names_the_sysctl(way: Chain, folder: Path) -> None:
    way.probe.sysctl("net.ipv4.ping_group_range", "1 0")
    (row,) = measured(way.probe, folder, path(way.hops[-1]), NOBODY)
    assert (row["outcome"], row["reason"]) == ("not_measured", "ICMP not permitted")
    assert "rtt_us" not in row
    advice = way.probe.run([*NOBODY, *probe_command("doctor", "--config", str(folder / "probe.toml"))], check=False)
    assert advice.returncode == 1
    assert 'sysctl -w net.ipv4.ping_group_range="0 2147483647"' in advice.stdout


def test_loss_is_what_the_link_lost(net: Namespaces, folder: Path) -> None:
    """Half of all packets on the way there are lost; the emulator's log says which."""
    a, b = net.add("probe"), net.add("server")
    with Link(net, a, b, delay_ms=20, loss=(0.4, 0), seed=7) as link:
        settings = path(link.address_b).replace("count = 3", "count = 20")
        (row,) = measured(a, folder, settings)
        link.stop()
        asked = sorted(link.log(icmp_type=8, direction="a-b"), key=lambda entry: int(entry["icmp_seq"]))
        fates = [entry["fate"] for entry in asked]
    assert len(fates) == 21
    assert fates.count("lost") >= 3
    rtts = [row.get("wake_rtt_us"), *row["rtt_us"]]
    assert [rtt is None for rtt in rtts] == [fate == "lost" for fate in fates]
    assert all(40_000 <= rtt < 200_000 for rtt in rtts if rtt is not None)


def test_an_interface_that_is_not_there_is_not_measured(way: Chain, folder: Path) -> None:
    rows = measured(
        way.probe, folder,
        path(way.hops[-1], 'interface = "wwan9"\n')
        + path(way.hops[-1], 'method = "tcp"\nport = 80\ninterface = "wwan9"\n')
        + f'[[dns]]\nname = "a.test"\nresolver = "{way.hops[-1]}"\ninterface = "wwan9"\n'
        + f'[[web]]\ntarget = "w"\nurl = "http://{way.hops[-1]}/"\ninterface = "wwan9"\n',
    )  # fmt: skip
    assert sorted((row["kind"], row["outcome"], row["interface"]) for row in rows) == [
        ("dns", "not_measured", "wwan9"), ("path", "not_measured", "wwan9"), ("path", "not_measured", "wwan9"),
        ("web", "not_measured", "wwan9"),
    ]  # fmt: skip
    assert all("no interface wwan9" in row["reason"] for row in rows)


@pytest.mark.parametrize("family", ["10.78.0.0/30", "fd78::/64"], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("bound", [False, True], ids=["routed", "bound"])
def test_an_interface_without_a_carrier_measures_nothing(
    net: Namespaces, folder: Path, family: str, bound: bool
) -> None:
    """The kernel takes every packet and drops it; before the cable is pulled all is measured, if only as refused."""
    probe, router = net.add("probe"), net.add("router")
    wire = net.wire(probe, router, family)
    net.route(probe, "default", via=wire.address_b)
    far = "10.99.0.1" if "." in family else "fd99::1"
    net.address(router, "lo", far + ("/32" if "." in family else "/128"))
    over = f'interface = "{wire.device_a}"\n' if bound else ""
    settings = (
        path(far, over)
        + path(far, 'method = "tcp"\nport = 80\n' + over)
        + f'[[dns]]\nname = "a.test"\nresolver = "{far}"\n{over}'
        + f'[[web]]\ntarget = "w"\nurl = "http://{far if "." in family else f"[{far}]"}/"\n{over}'
    ).replace("trace = false", "trace = true")
    asked = measured(probe, folder, settings)
    assert {(row["kind"], row["outcome"]) for row in asked} == {
        ("path", "measured"), ("path", "failed"), ("hops", "measured"), ("dns", "failed"), ("web", "failed"),
    }  # fmt: skip
    router.ip("link", "set", wire.device_b, "down")
    rows = measured(probe, folder, settings)
    assert sorted((row["kind"], row["outcome"]) for row in rows) == [
        ("dns", "not_measured"), ("path", "not_measured"), ("path", "not_measured"), ("web", "not_measured"),
    ]  # fmt: skip
    assert {row["reason"] for row in rows} == {f"not sent: no carrier on {wire.device_a}"}


@pytest.mark.parametrize(("method", "answered"), [("icmp", True), ("icmp", False), ("tcp", True), ("tcp", False)])
def test_what_was_sent_into_a_carrier_that_is_lost_meanwhile_is_no_loss(
    net: Namespaces, folder: Path, method: str, answered: bool
) -> None:
    """The cable is pulled in the middle of a train, with nobody's answer or some of them before."""
    probe, router = net.add("probe"), net.add("router")
    wire = net.wire(probe, router, "10.78.0.0/30")
    if answered and method == "tcp":
        serve(router, "web", folder)
    if not answered:
        router.ip("rule", "add", "iif", "lo", "to", wire.address_a, "blackhole", "priority", "0")
    more = 'method = "tcp"\nport = 80\n' if method == "tcp" else ""
    settings = path(wire.address_b, more).replace("count = 3", "count = 40").replace("= 20\n", "= 100\n")
    with pulled(router, wire.device_b, after_s=1.5):
        (row,) = measured(probe, folder, settings)
    assert row["reason"] == f"not sent: no carrier on {wire.device_a}"
    if answered:
        assert row["outcome"] == "measured"
        assert 0 < len(row["rtt_us"]) < 40
        assert None not in row["rtt_us"]
    else:
        assert (row["outcome"], "rtt_us" in row) == ("not_measured", False)


def test_a_test_that_is_bound_goes_over_its_interface_and_no_other(net: Namespaces, folder: Path) -> None:
    """Two ways to one address: the default route's server answers 200, the bound interface's 204."""
    probe, first, second = net.add("probe"), net.add("first"), net.add("second")
    one, two = net.wire(probe, first, "10.78.0.0/30"), net.wire(probe, second, "10.78.1.0/30")
    for server in (first, second):
        net.address(server, "lo", "10.78.9.9/32")
    net.route(probe, "10.78.9.9/32", via=one.address_b)
    probe.ip("route", "add", "10.78.9.9/32", "via", two.address_b, "metric", "100")
    (folder / "1").mkdir()
    (folder / "2").mkdir()
    asked_first = serve(first, "web", folder / "1", "--mode", "200")
    asked_second = serve(second, "web", folder / "2", "--mode", "204")
    web = '[[web]]\ntarget = "w"\nurl = "http://10.78.9.9/"\n'
    (free,) = measured(probe, folder, web)
    assert (free["status"], asked_first.read_text() != "", asked_second.read_text()) == (200, True, "")
    asked_first.write_text("")
    (bound,) = measured(probe, folder, web + f'interface = "{two.device_a}"\n')
    assert (bound["status"], bound["ok"], bound["interface"]) == (204, 1, two.device_a)
    assert (asked_first.read_text(), asked_second.read_text() != "") == ("", True)


@pytest.mark.parametrize(("mode", "told"), [
    ("204", {"outcome": "measured", "status": 204, "ok": 1, "portal": 0}),
    ("portal-redirect", {"outcome": "measured", "status": 302, "ok": 0, "portal": 1}),
    ("portal-page", {"outcome": "measured", "status": 200, "ok": 0, "portal": 1}),
])  # fmt: skip
def test_a_captive_portal_is_called_one(way: Chain, folder: Path, mode: str, told: dict[str, Any]) -> None:
    asked = serve(way.server, "web", folder, "--mode", mode)
    (row,) = measured(way.probe, folder, f'[[web]]\ntarget = "w"\nurl = "http://{way.hops[-1]}/responder"\n')
    assert {name: row[name] for name in told} == told
    assert "/responder" in asked.read_text()
    assert 0 < row["connect_us"] + row["first_byte_us"] <= row["total_us"]


#: a name that nobody has (RFC 6761)
WEB = '[[web]]\ntarget = "w"\nurl = "http://page.invalid/"\n'


def test_a_page_on_a_machine_without_a_network_is_not_measured(net: Namespaces, folder: Path) -> None:
    (row,) = measured(net.add("probe"), folder, WEB)
    assert (row["outcome"], row["reason"]) == ("not_measured", "not sent: Network is unreachable")
    assert "phase" not in row


@pytest.mark.parametrize(("prepare", "bound", "told"), [
    ((), True, ("not_measured", "not sent: DEVICE: no address", None)),
    (("address",), True, ("failed", None, "dns")),
    (("address",), False, ("not_measured", "not sent: Network is unreachable", None)),
    (("address", "route"), False, ("failed", None, "dns")),
    (("address", "route", "pull"), True, ("not_measured", "not sent: no carrier on DEVICE", None)),
    (("address", "route", "pull"), False, ("not_measured", "not sent: no carrier on DEVICE", None)),
])  # fmt: skip
def test_a_lookup_that_fails_is_the_networks_only_if_there_is_a_way_to_it(
    net: Namespaces, folder: Path, prepare: Sequence[str], bound: bool, told: tuple[str | None, ...]
) -> None:
    probe, router = net.add("probe"), net.add("router")
    wire = net.wire(probe, router, "10.78.0.0/30")
    if "address" not in prepare:
        probe.ip("addr", "flush", "dev", wire.device_a, "scope", "global")
    if "route" in prepare:
        net.route(probe, "default", via=wire.address_b)
    if "pull" in prepare:
        router.ip("link", "set", wire.device_b, "down")
    (row,) = measured(probe, folder, WEB + (f'interface = "{wire.device_a}"\n' if bound else ""))
    outcome, reason, phase = told
    assert (row["outcome"], row.get("phase")) == (outcome, phase)
    assert reason is None or row["reason"] == reason.replace("DEVICE", wire.device_a)


def test_a_blocked_port_is_no_answer_and_a_closed_one_is_refused(way: Chain, net: Namespaces, folder: Path) -> None:
    net["r2"].block_port("tcp", 80)
    web = f'[[web]]\ntarget = "w"\nurl = "http://{way.hops[-1]}/"\n'
    (blocked,) = measured(way.probe, folder, web)
    (closed,) = measured(way.probe, folder, web.replace(f"{way.hops[-1]}/", f"{way.hops[-1]}:81/"))
    assert [(row["outcome"], row["phase"]) for row in (blocked, closed)] == [("failed", "connect")] * 2
    assert "refused" in closed["reason"]
    assert "refused" not in blocked["reason"]
    (reachable,) = measured(way.probe, folder, path(way.hops[-1]))
    assert reachable["outcome"] == "measured", "only the port is blocked"


@pytest.mark.parametrize(("mode", "name", "told"), [
    ("table", "a.test", {"outcome": "measured", "rcode": "NOERROR", "hijacked": 0, "address": "192.0.2.7"}),
    ("hijack", "a.test", {"outcome": "measured", "rcode": "NOERROR", "hijacked": 1, "address": "198.51.100.1"}),
    ("hijack", "x.invalid", {"outcome": "measured", "rcode": "NOERROR", "hijacked": 1, "address": "198.51.100.1"}),
    ("table", "x.invalid", {"outcome": "measured", "rcode": "NXDOMAIN", "hijacked": 0}),
    ("silent", "a.test", {"outcome": "failed"}),
])  # fmt: skip
def test_a_hijacked_resolver_is_called_one(
    way: Chain, folder: Path, mode: str, name: str, told: dict[str, Any]
) -> None:
    asked = serve(way.server, "dns", folder, "--mode", mode, "--answer", "a.test=192.0.2.7",
                  "--hijack-to", "198.51.100.1")  # fmt: skip
    expect = 'expect = ["192.0.2.0/24"]\n' if name == "a.test" else ""
    (row,) = measured(way.probe, folder, f'[[dns]]\nname = "{name}"\nresolver = "{way.hops[-1]}"\n{expect}')
    assert {key: row.get(key) for key in told} == told
    assert name in asked.read_text()


def test_a_train_that_fails_is_traced_to_where_the_way_ends(way: Chain, net: Namespaces, folder: Path) -> None:
    """The second router forgets its way on: the hops up to it are named, and the target is not reached."""
    net["r2"].ip("route", "add", "blackhole", "10.99.0.0/24")
    rows = measured(way.probe, folder, path("10.99.0.1").replace("trace = false", "trace = true"))
    by_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in ("path", "hops")}
    assert [row["outcome"] for row in by_kind["path"]] == ["failed"]
    named = {row["ttl"]: row["address"] for row in by_kind["hops"] if "ttl" in row and row["outcome"] == "measured"}
    assert named == {1: way.hops[0], 2: way.hops[1]} or named == {1: way.hops[0]}
    (summary,) = (row for row in by_kind["hops"] if "ttl" not in row)
    assert (summary["reached"], summary["trigger"]) == (0, "failed")
