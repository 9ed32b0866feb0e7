"""The link emulator between real namespaces: what the system's own ping and sockets see, against the emulator's log."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from banua_lab import cli
from tests.real.netns import Link, Namespace, Namespaces, chain, lab
from tests.real.parts import ROOT, require_real
from tests.system.rig import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.real, pytest.mark.root]

REQUEST, REPLY = 8, 0
REPLIED = re.compile(r"icmp_seq=(\d+) ttl=\d+ time=([0-9.]+) ms( \(DUP!\))?")
# sends numbered datagrams to argv[1] port argv[2], and says which came back
UDP_CLIENT = """
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(1)
for number in range(5):
    client.sendto(bytes([number]), (sys.argv[1], int(sys.argv[2])))
try:
    while True:
        print(client.recv(9)[0], flush=True)
except TimeoutError:
    pass
"""
UDP_ECHO = """
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
while True:
    server.sendto(*server.recvfrom(9))
"""


@pytest.fixture
def net() -> Iterator[Namespaces]:
    with Namespaces() as net:
        net.add("a")
        net.add("b")
        yield net


def ping(namespace: Namespace, address: str, count: int, *words: str) -> list[tuple[int, float, bool]]:
    """Return (seq, RTT in ms, whether a duplicate) of each reply to pings 20 ms apart, in the order of arrival."""
    program = require_real("ping")
    done = namespace.run([program, "-c", str(count), "-i", "0.02", "-W", "1", *words, address], check=False)
    return [(int(seq), float(rtt_ms), bool(dup)) for seq, rtt_ms, dup in REPLIED.findall(done.stdout)]


def seqs(link: Link, direction: str, **having: object) -> list[int]:
    kind = REQUEST if direction == "a-b" else REPLY
    return [entry["icmp_seq"] for entry in link.log(direction=direction, icmp_type=kind, **having)]


def test_a_round_trip_is_both_delays_and_the_log_has_the_whole_of_it(net: Namespaces) -> None:
    with Link(net, net["a"], net["b"], delay_ms=(30, 20)) as link:
        replies = ping(net["a"], link.address_b, 20)
    assert [seq for seq, _, _ in replies] == list(range(1, 21))
    assert all(50 <= rtt_ms < 100 for _, rtt_ms, _ in replies)
    there = {e["icmp_seq"]: e for e in link.log(direction="a-b", fate="sent", icmp_type=REQUEST)}
    back = {e["icmp_seq"]: e for e in link.log(direction="b-a", fate="sent", icmp_type=REPLY)}
    assert sorted(there) == sorted(back) == list(range(1, 21))
    for seq, rtt_ms, _ in replies:
        assert there[seq]["size"] == back[seq]["size"] == 84
        assert there[seq]["due_ns"] - there[seq]["t_in_ns"] == 30_000_000
        assert back[seq]["due_ns"] - back[seq]["t_in_ns"] == 20_000_000
        assert there[seq]["t_out_ns"] >= there[seq]["due_ns"]
        assert there[seq]["t_out_ns"] <= back[seq]["t_in_ns"]
        # ping's own stamps lie outside of the emulator's, its figure is rounded to three digits
        assert (back[seq]["t_out_ns"] - there[seq]["t_in_ns"]) / 1e6 <= rtt_ms * 1.01 + 0.1


def test_what_the_log_calls_lost_is_what_the_peer_missed(net: Namespaces) -> None:
    with Link(net, net["a"], net["b"], loss=(0.3, 0.1), delay_ms=5, seed=4) as link:
        got = {seq for seq, _, _ in ping(net["a"], link.address_b, 100)}
    lost = set(seqs(link, "a-b", fate="lost")) | set(seqs(link, "b-a", fate="lost"))
    assert seqs(link, "a-b", fate="lost")
    assert seqs(link, "b-a", fate="lost")
    assert set(seqs(link, "a-b")) == set(range(1, 101))
    assert got == set(range(1, 101)) - lost


def test_the_same_seed_loses_the_same_packets(net: Namespaces) -> None:
    def lost() -> list[int]:
        with Link(net, net["a"], net["b"], loss=(0.5, 0), seed=9) as link:
            ping(net["a"], link.address_b, 30)
        return seqs(link, "a-b", fate="lost")

    first = lost()
    assert 0 < len(first) < 30
    assert lost() == first


def test_each_duplicate_is_in_the_log_and_reaches_the_peer(net: Namespaces) -> None:
    with Link(net, net["a"], net["b"], duplicate=(0, 0.5), delay_ms=5) as link:
        replies = ping(net["a"], link.address_b, 40)
        time.sleep(0.3)
    # ping ends with the first reply to its last request: it cannot see a copy of that one
    copies = set(seqs(link, "b-a", fate="sent", copy=1)) - {40}
    assert 0 < len(copies) < 39
    assert {seq for seq, _, dup in replies if dup} - {40} == copies
    assert {seq for seq, _, dup in replies if not dup} == set(range(1, 41))


def test_what_is_reordered_overtakes_and_the_log_says_which(net: Namespaces) -> None:
    with Link(net, net["a"], net["b"], reorder=(0.3, 0), delay_ms=(90, 0)) as link:
        replies = ping(net["a"], link.address_b, 40)
    reordered = set(seqs(link, "a-b", reordered=True))
    assert 0 < len(reordered) < 40
    arrived = [seq for seq, _, _ in replies]
    assert sorted(arrived) == list(range(1, 41))
    assert arrived != sorted(arrived)
    assert {seq for seq, rtt_ms, _ in replies if rtt_ms < 60} <= reordered
    assert all(rtt_ms >= 90 for seq, rtt_ms, _ in replies if seq not in reordered)


def test_in_an_outage_nothing_passes_and_after_it_everything(net: Namespaces) -> None:
    with Link(net, net["a"], net["b"], outage=[(0.8, 1.3)]) as link:
        got = {seq for seq, _, _ in ping(net["a"], link.address_b, 100)}
    start_ns, end_ns = link.started_ns + 800_000_000, link.started_ns + 1_300_000_000
    missed = {e["icmp_seq"] for e in link.log(fate="outage")}
    assert len(missed) > 5
    assert got == set(range(1, 101)) - missed
    assert 100 in got
    for entry in link.log():
        assert (start_ns <= entry["t_in_ns"] < end_ns) == (entry["fate"] == "outage")


def test_a_slow_link_spreads_a_burst_and_its_full_queue_drops_the_rest(net: Namespaces) -> None:
    with Link(net, net["a"], net["b"], rate_kbit=(80, 0), queue_packets=(3, 100)) as link:
        replies = ping(net["a"], link.address_b, 6, "-l", "6", "-s", "972")  # 1000 bytes each: 100 ms
    dropped = seqs(link, "a-b", fate="queue_full")
    assert dropped == [4, 5, 6]
    assert [seq for seq, _, _ in replies] == [1, 2, 3]
    passed = link.log(direction="a-b", fate="sent")
    assert [e["due_ns"] - passed[0]["due_ns"] for e in passed] == [0, 100_000_000, 200_000_000]
    assert all(e["t_out_ns"] >= e["due_ns"] for e in passed)


def test_a_blocked_port_is_blocked_and_the_port_beside_it_is_not(net: Namespaces) -> None:
    a, b = net["a"], net["b"]
    with Link(net, a, b, block_port=["udp/5001"]) as link:
        for port in (5000, 5001):
            b.serve([sys.executable, "-c", UDP_ECHO, link.address_b, str(port)])
        heard = {
            port: a.run([sys.executable, "-c", UDP_CLIENT, link.address_b, str(port)]).stdout.split()
            for port in (5000, 5001)
        }
    assert heard == {5000: ["0", "1", "2", "3", "4"], 5001: []}
    assert [(e["direction"], e["port"]) for e in link.log(fate="blocked")] == [("a-b", 5001)] * 5
    assert len(link.log(direction="a-b", port=5000, fate="sent")) == 5


def test_a_faulty_server_is_asked_over_the_link(net: Namespaces, tmp_path: Path) -> None:
    fetch = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=10).geturl())"
    log = tmp_path / "web.jsonl"
    with Link(net, net["a"], net["b"], delay_ms=5) as link:
        words = ("--mode", "portal-redirect", "--host", link.address_b, "--port", "80", "--log", str(log))
        net["b"].serve(lab("fault", "web", *words))
        url = f"http://{link.address_b}/generate_204"
        assert net["a"].run([sys.executable, "-c", fetch, url]).stdout == f"http://{link.address_b}:80/login\n"
    asked = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(a["path"], a["peer"]) for a in asked] == [("/generate_204", link.address_a), ("/login", link.address_a)]


def test_a_server_that_says_nothing_is_an_error(net: Namespaces) -> None:
    with pytest.raises(RuntimeError, match="nothing said within 10 s"):
        net["a"].serve(["true"], ready_s=10)


def test_what_is_under_way_at_the_end_is_in_the_log(net: Namespaces) -> None:
    with Link(net, net["a"], net["b"], delay_ms=30_000) as link:
        assert ping(net["a"], link.address_b, 3) == []
    assert seqs(link, "a-b", fate="stopped") == [1, 2, 3]
    assert all("t_out_ns" not in entry for entry in link.log())


def test_a_namespace_that_goes_ends_the_link_with_its_log(net: Namespaces) -> None:
    with Link(net, net["a"], net["b"]) as link:
        assert len(ping(net["a"], link.address_b, 3)) == 3
        net["b"].ip("link", "delete", link.device_b)
        wait_for("the emulator's end", lambda: link.process.poll() is not None)
        with pytest.raises(RuntimeError, match="the link is down: its device is gone"):
            link.stop()
    assert link.process.returncode == 1
    assert seqs(link, "b-a", fate="sent") == [1, 2, 3]


def test_the_link_has_an_mtu_and_no_traffic_of_its_own(net: Namespaces) -> None:
    with Link(net, net["a"], net["b"], mtu=1300) as link:
        assert ping(net["a"], link.address_b, 1, "-M", "do", "-s", "1273") == []
        assert len(ping(net["a"], link.address_b, 1, "-M", "do", "-s", "1272")) == 1
    assert [entry["size"] for entry in link.log()] == [1300, 1300]


def test_a_link_carries_ipv6_as_well(net: Namespaces) -> None:
    with Link(net, net["a"], net["b"], subnet="fd77::/64", delay_ms=10) as link:
        assert [seq for seq, _, _ in ping(net["a"], link.address_b, 3)] == [1, 2, 3]
    assert [e["icmp_seq"] for e in link.log(protocol=58, icmp_type=128, fate="sent")] == [1, 2, 3]


def test_a_namespace_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["link", "--a", "banua-none", "--b", "banua-none", "--log", f"{tmp_path}/log"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("banua-lab: ip link set bl")
    assert "banua-none" in line


# --- the namespaces themselves ----------------------------------------------------------------------------------------


def names() -> str:
    return subprocess.run([require_real("ip"), "netns", "list"], capture_output=True, text=True, check=True).stdout


def test_namespaces_are_gone_afterwards_also_after_a_failure() -> None:
    net = Namespaces()

    def fail() -> None:
        with net:
            probe, server, _ = chain(net, 1)
            probe.popen(["sleep", "1000"])
            assert {probe.name, server.name} <= set(names().split())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert net.prefix not in names()


def test_what_was_started_inside_is_ended_with_the_namespaces() -> None:
    with Namespaces() as net:
        sleeper = net.add("a").popen(["sleep", "1000"])
    assert sleeper.returncode == -15


def test_without_root_it_says_so() -> None:
    code = "import os; from tests.real.netns import Namespaces; os.setuid(65534); Namespaces().__enter__()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "tests.real.netns.NeedsRootError: network namespaces need root"


def test_a_chain_has_its_hops_and_its_narrow_wire() -> None:
    with Namespaces() as net:
        probe, server, hops = chain(net, 3, mtu_at={2: 1300})
        assert hops == ["10.77.0.2", "10.77.1.2", "10.77.2.2", "10.77.3.2"]
        for ttl, hop in enumerate(hops[:-1], start=1):
            said = probe.run([require_real("ping"), "-c", "1", "-t", str(ttl), hops[-1]], check=False).stdout
            assert f"From {hop} icmp_seq=1 Time to live exceeded" in said
        said = probe.run([require_real("ping"), "-c", "1", "-M", "do", "-s", "1400", hops[-1]], check=False).stdout
        assert "From 10.77.1.2 icmp_seq=1 Frag needed and DF set (mtu = 1300)" in said
        assert len(ping(server, "10.77.0.1", 1)) == 1


def test_a_router_blocks_a_port_in_silence_or_with_an_answer() -> None:
    connect = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=0.5)"
    with Namespaces() as net:
        probe, _, hops = chain(net, 1)
        net["r1"].block_port("tcp", 80)
        net["r1"].block_port("tcp", 81, "prohibit")
        told = [
            probe.run([sys.executable, "-c", connect, hops[-1], port], check=False).stderr.splitlines()[-1]
            for port in ("80", "81", "82")
        ]
    assert told == [
        "TimeoutError: timed out",
        "OSError: [Errno 113] No route to host",
        "ConnectionRefusedError: [Errno 111] Connection refused",
    ]


def test_a_sysctl_is_the_namespaces_own(net: Namespaces) -> None:
    net["a"].sysctl("net.ipv4.ping_group_range", "0 2147483647")
    said = [net[label].run(["cat", "/proc/sys/net/ipv4/ping_group_range"]).stdout.split() for label in "ab"]
    assert said == [["0", "2147483647"], ["1", "0"]]
    with pytest.raises(RuntimeError, match="exit code"):
        net["a"].sysctl("net.ipv4.no_such_setting", 1)
