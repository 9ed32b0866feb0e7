"""The report of `banua-probe diagnose`: exact text, and how raw answers are read; no packet is sent here."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP

from banua_probe import raw_wire
from banua_probe.diagnose import Findings, Port, report, verdict
from banua_probe.raw_wire import Flow, Heard, read
from banua_probe.sensors.course import Hop, Reply
from tests.probe.test_cli import banua_probe

if TYPE_CHECKING:
    from pathlib import Path

REACHED = Findings(
    name="collector",
    host="broker.example",
    address="198.51.100.9",
    interface="wwan0",
    source="10.20.0.5",
    gateway="10.20.0.1",
    echo_us=[40_100, None, 61_250, 40_900, 45_000],
    ports=[
        Port(8883, "open"), Port(443, "filtered"), Port(80, "closed"), Port(1883, "refused", "192.0.2.2", "prohibited"),
    ],
    method="TCP SYN 8883",
    hops=[
        Hop(1, "10.20.0.1", [20_000, None, 21_000], "time_exceeded"),
        Hop(2, None, [None] * 3, ""),
        Hop(3, "198.51.100.9", [40_000, 41_000, 42_000], "tcp_open"),
    ],
    mtu_bytes=1420,
    changes=["MSS 1460 → 1380, 192.0.2.2"],
)  # fmt: skip

DEAD = Findings(
    name="web",
    host="10.77.3.2",
    address="10.77.3.2",
    interface="eth0",
    source="10.77.0.1",
    echo_us=[None] * 5,
    ports=[Port(443, "filtered")],
    method="ICMP echo",
    hops=[
        Hop(1, "10.77.0.2", [500], "time_exceeded"),
        Hop(2, "10.77.2.1", [900], "time_exceeded"),
        Hop(3, None, [None], ""),
    ],
)


def test_the_report_on_a_target_that_is_reached() -> None:
    assert (
        report(REACHED)
        == """\
collector = broker.example = 198.51.100.9:
  antarmuka / interface wwan0, dari / from 10.20.0.5, gerbang / gateway 10.20.0.1
  ICMP echo: 5 dikirim / sent, 4 dijawab / answered, 40.1 – 61.2 ms
  TCP 8883: terbuka / open
  TCP 443: disaring (tanpa jawaban) / filtered (silence)
  TCP 80: tertutup (RST) / closed (RST)
  TCP 1883: ditolak / refused oleh / by 192.0.2.2 (prohibited)
  rute / route (TCP SYN 8883):
    1  10.20.0.1        20.0 ms  *  21.0 ms
    2  *
    3  198.51.100.9     40.0 ms  41.0 ms  42.0 ms  tcp_open
  MTU: 1420 byte
  berubah di jalan / changed on the way: MSS 1460 → 1380, 192.0.2.2
  => Target terjangkau; port 8883 terbuka; port 443 disaring (tanpa jawaban); port 80 tertutup (RST); port 1883 ditolak
     the target is reached; port 8883 open; port 443 filtered (silence); port 80 closed (RST); port 1883 refused"""
    )


def test_the_report_on_a_path_that_breaks() -> None:
    assert (
        report(DEAD)
        == """\
web = 10.77.3.2:
  antarmuka / interface eth0, dari / from 10.77.0.1, tanpa gerbang / no gateway
  ICMP echo: 5 dikirim / sent, 0 dijawab / answered
  TCP 443: disaring (tanpa jawaban) / filtered (silence)
  rute / route (ICMP echo):
    1  10.77.0.2        0.5 ms
    2  10.77.2.1        0.9 ms
    3  *
  MTU: tidak diketahui / unknown
  => Rute terputus setelah 10.77.2.1 (hop 2)
     the path ends after 10.77.2.1 (hop 2)"""
    )


def test_the_report_when_nothing_was_sent() -> None:
    found = Findings("web", "nosuch.invalid", problem="name not resolved: Name or service not known")
    assert (
        report(found)
        == """\
web = nosuch.invalid:
  => Tidak ada yang terkirim: name not resolved: Name or service not known
     nothing was sent: name not resolved: Name or service not known"""
    )


def test_a_router_that_says_why_is_quoted() -> None:
    hops = [Hop(1, "10.77.0.2", [500], "time_exceeded"), Hop(2, "10.77.2.1", [900], "host_unreachable")]
    assert verdict(replace(DEAD, hops=hops)) == (
        "Rute terputus setelah 10.77.2.1 (hop 2), yang menjawab host_unreachable",
        "the path ends after 10.77.2.1 (hop 2), which answered host_unreachable",
    )


def test_a_path_on_which_nothing_answers_points_to_our_own_link() -> None:
    assert verdict(replace(DEAD, hops=[Hop(1, None, [None], "")])) == (
        "Tidak ada satu pun hop yang menjawab: periksa sambungan alat ini sendiri",
        "no hop answered at all: look at this machine's own link first",
    )


@pytest.mark.parametrize("sign", [
    {"echo_us": [None, 5]}, {"ports": [Port(443, "closed")]}, {"hops": [Hop(1, "10.77.3.2", [5], "port_unreachable")]},
])  # fmt: skip
def test_any_answer_of_the_target_itself_means_that_it_is_alive(sign: dict[str, Any]) -> None:
    assert replace(DEAD, **sign).alive
    assert not DEAD.alive


# What comes back, read by the number of ours in it

FLOW = Flow("10.20.0.5", "198.51.100.9", 40_000)
ROUTER = "192.0.2.2"


def error(quoted: Any, kind: int = 11, code: int = 0, *, cut_bytes: int = 1000, **more: Any) -> bytes:
    return bytes(IP(src=ROUTER, dst=FLOW.source) / ICMP(type=kind, code=code, **more) / bytes(quoted)[:cut_bytes])


def test_answers_of_the_target() -> None:
    tcp = IP(src=FLOW.target, dst=FLOW.source) / TCP(
        sport=443, dport=FLOW.own, ack=raw_wire.SERIAL_BASE + 8, flags="SA"
    )
    assert read(FLOW, bytes(tcp)) == Heard(7, Reply(FLOW.target, "tcp_open"))
    tcp[TCP].flags = "RA"
    assert read(FLOW, bytes(tcp)) == Heard(7, Reply(FLOW.target, "tcp_closed"))
    echo = IP(src=FLOW.target, dst=FLOW.source) / ICMP(type="echo-reply", id=FLOW.own, seq=3)
    assert read(FLOW, bytes(echo)) == Heard(3, Reply(FLOW.target, "echo_reply"))


@pytest.mark.parametrize("cut_bytes", [28, 36, 1000])
def test_errors_of_routers_belong_to_the_packet_they_quote_however_little_of_it(cut_bytes: int) -> None:
    assert read(FLOW, error(FLOW.syn(5, 443), cut_bytes=cut_bytes)) == Heard(5, Reply(ROUTER, "time_exceeded"))
    assert read(FLOW, error(FLOW.echo(6), 3, 13, cut_bytes=cut_bytes)) == Heard(6, Reply(ROUTER, "prohibited"))
    too_big = error(FLOW.echo(6, size_bytes=1400), 3, 4, nexthopmtu=1300, cut_bytes=cut_bytes)
    assert read(FLOW, too_big) == Heard(6, Reply(ROUTER, "fragmentation_needed", 1300))


def test_what_a_router_quotes_shows_what_was_rewritten_before_it() -> None:
    packet = FLOW.syn(5, 443)
    packet.src, packet.tos = "100.64.3.4", 0
    packet[TCP].sport, packet[TCP].options = 1024, [("MSS", 1360)]
    heard = read(FLOW, error(packet))
    assert heard is not None
    assert (heard.number, heard.reply) == (5, Reply(ROUTER, "time_exceeded"))
    assert heard.changes == (
        "alamat asal / source 10.20.0.5 → 100.64.3.4 (NAT)", "DSCP 10 → 0", "port asal / source port (NAT)",
        "MSS 1460 → 1360",
    )  # fmt: skip


def test_what_is_not_ours_is_nothing() -> None:
    other = Flow(FLOW.source, "203.0.113.1", 40_000)
    assert read(FLOW, error(other.syn(5, 443))) is None
    assert read(FLOW, error(Flow(FLOW.source, FLOW.target, 9).echo(5))) is None
    own_kernel = IP(src=FLOW.source, dst=FLOW.source) / ICMP(type=3, code=1) / bytes(FLOW.syn(5, 443))
    assert read(FLOW, bytes(own_kernel)) is None


@given(st.binary(max_size=120))
def test_arbitrary_packets_never_raise(data: bytes) -> None:
    read(FLOW, data)
    read(FLOW, error(data))


# The command


def test_without_scapy_diagnose_names_the_install_command(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text('import sys\nsys.modules["scapy"] = None\n')
    done = banua_probe("diagnose", "--host", "127.0.0.1", hide=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "banua-probe: scapy is missing; pip install 'sinyal-banua[diagnose]'\n"


def test_diagnose_says_in_one_line_that_it_needs_root() -> None:
    nobody: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    code = "import sys; from banua_probe.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", code, "diagnose", "--host", "127.0.0.1"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, **nobody)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "banua-probe: diagnose needs root or CAP_NET_RAW; `banua-probe trace` does without\n"


def test_trace_of_a_target_that_is_not_configured_names_those_that_are(tmp_path: Path) -> None:
    file = tmp_path / "probe.toml"
    file.write_text(
        'name = "kalsel-0001"\n[broker]\nhost = "localhost"\ntls = false\n'
        '[[path]]\ntarget = "web"\nhost = "127.0.0.1"\n'
    )
    done = banua_probe("trace", "wbe", "--config", file)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "banua-probe: path: there is no target 'wbe'; there are: web\n"
    done = banua_probe("trace", "web", "--config", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("hops: target web, trigger demand, outcome measured, address 127.0.0.1, count 0, ")
