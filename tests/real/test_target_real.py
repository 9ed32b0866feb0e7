"""The write path against a real InfluxDB 2.7: poison among good points."""

from __future__ import annotations

import json
import random
import time
from typing import TYPE_CHECKING

import pytest

from banua_collector.project.target import COMMENT, InfluxTarget

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.real.influxd import Influxd

pytestmark = pytest.mark.real

START_NS = 1_760_000_000_000_000_000
POISON = [
    ("", "missing fields"),
    (" rsrp_dbm=-100.0 {time}", "missing tag value"),
    (" rsrp_dbm= {time}", "missing field value"),
    (" rsrp_dbm=nan {time}", "invalid number"),
    (" rsrp_dbm=-100.0 9999999999999999999999", "value out of range"),
    (" rsrp_dbm=-100.0 9223372036854775807", "time outside range"),
    (',probe=again rsrp_dbm="x" {time}', "duplicate tags"),
    (",time=1 rsrp_dbm=-100.0 {time}", "reserved tag key"),
    (' text="never closed {time}', "unbalanced quotes"),
    (",long=" + "x" * 70_000 + " rsrp_dbm=-100.0 {time}", "max key length exceeded"),
    (" time=1.0 {time}", "invalid field name"),
    (' rsrp_dbm="strong" {time}', "is type string, already exists as type float"),
    (" rsrp_dbm=-100i {time}", "is type integer, already exists as type float"),
    (" rsrp_dbm=true {time}", "is type boolean, already exists as type float"),
    (" text=1.0 {time}", "is type float, already exists as type string"),
]


@pytest.fixture
def target(influxd: Influxd, bucket: str) -> Iterator[InfluxTarget]:
    target = InfluxTarget(influxd.url, influxd.org, bucket, influxd.token)
    yield target
    target.close()


def poison(i: int) -> tuple[str, str]:
    """Return a line that InfluxDB will not take, and words of its that say why."""
    rest, why = POISON[i % len(POISON)]
    probe = "" if why == "missing tag value" else f"poison{i}"
    return f"radio,probe={probe}{rest.format(time=START_NS + i)}", why


def test_22_poison_points_among_5000_are_named_and_all_the_others_stand(
    influxd: Influxd, bucket: str, target: InfluxTarget
) -> None:
    good = [f'radio,probe=p{i % 50} rsrp_dbm=-{i % 60}.5,text="a\nb" {START_NS + i}' for i in range(5000)]
    why = dict(poison(i) for i in range(22))
    assert len(why) == 22
    lines = [*good, *why]
    random.Random(22).shuffle(lines)
    lines.remove(good[0])
    refusals = target.write([good[0], *lines])  # the first of all says the type of the field

    assert {refusal.line for refusal in refusals} == set(why)
    for refusal in refusals:
        assert why[refusal.line] in refusal.reason
    [count] = influxd.query("SELECT count(rsrp_dbm) AS rsrp, count(text) AS text FROM radio", bucket)
    assert (count["rsrp"], count["text"]) == (5000, 5000)
    assert len(influxd.query("SELECT rsrp_dbm FROM radio WHERE probe =~ /^p[0-9]+$/", bucket)) == 5000


def test_points_older_than_the_bucket_keeps_are_refused_and_the_others_stand(influxd: Influxd) -> None:
    [org] = influxd._call("GET", f"/api/v2/orgs?org={influxd.org}")["orgs"]
    short = {"orgID": org["id"], "name": "one-hour", "retentionRules": [{"type": "expire", "everySeconds": 3600}]}
    influxd._call("POST", "/api/v2/buckets", json.dumps(short).encode())
    target = InfluxTarget(influxd.url, influxd.org, "one-hour", influxd.token)
    old = [f"radio,probe=p1 rsrp_dbm=-90.0 {i}" for i in range(2001)]
    new = [f"radio,probe=p1 rsrp_dbm=-90.0 {time.time_ns() + i}" for i in range(1000)]
    refusals = target.write([*old, *new])
    assert [refusal.line for refusal in refusals] == old
    assert all("outside retention policy" in refusal.reason for refusal in refusals)
    [count] = influxd.query("SELECT count(rsrp_dbm) AS n FROM radio", "one-hour")
    assert count["n"] == 1000
    target.close()


def test_a_comment_is_taken_and_stores_nothing(influxd: Influxd, bucket: str, target: InfluxTarget) -> None:
    assert target.write([COMMENT]) == []
    assert influxd.query("SHOW SERIES", bucket) == []
