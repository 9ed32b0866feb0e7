"""What may be believed: every judgement, its reason and its words."""

from collections.abc import Sequence

import pytest

from banua_collector.registry import Key
from banua_collector.verify import Boot, Message, Refused, Unreadable, Verified, judge
from banua_wire import batch, signature
from banua_wire.fields import SCHEMA
from tests.collector.fleet import NOW_MS, radio
from tests.collector.speech import SECRET, anchor, message

_PUBLIC = signature.public_of(SECRET)
_PREFIX = _PUBLIC.hex()[:16]
_GOOD = Key(1, 7, _PUBLIC, 1, None, None)
_STRANGER = b"x" * 32
_UNKNOWN_BOOT = Boot(None, None)


def _judge(came: Message, keys: Sequence[Key] = (_GOOD,), boot: Boot = _UNKNOWN_BOOT) -> object:
    return judge(came, lambda name: list(keys) if name == "p1" else [], lambda _name, _boot: boot)


def _reason(judgement: object) -> tuple[str, str, int | None]:
    assert isinstance(judgement, Refused)
    return judgement.reason, judgement.detail, judgement.probe_id


def test_a_good_batch_is_verified_with_its_rows() -> None:
    came = message(3)
    judgement = _judge(came)
    assert isinstance(judgement, Verified)
    assert (judgement.probe_id, judgement.envelope.seq, judgement.digest) == (7, 3, batch.digest(came.payload))
    assert [row for block in judgement.blocks for row in block.rows()] == [radio(3000)]


def test_a_bad_signature_occupies_nothing() -> None:
    payload = message().payload
    forged = Message("banua/v1/p1/batch", payload[:-1] + bytes([payload[-1] ^ 1]), NOW_MS)
    expected = ("bad_signature", "made with none of the probe's 1 keys", None)
    assert _reason(_judge(forged)) == expected
    assert _reason(_judge(message(secret=_STRANGER))) == expected


def test_an_unknown_name_has_no_key() -> None:
    assert _reason(_judge(message(probe="p2"))) == ("unknown_key", "no probe of this name is registered", None)


def test_another_name_in_the_topic_is_refused_to_the_one_who_spoke() -> None:
    judgement = _judge(message(speaker="p2"))
    assert _reason(judgement) == ("wrong_topic", "signed by p1, published by p2", None)
    assert isinstance(judgement, Refused)
    assert judgement.speaker == "p2"


@pytest.mark.parametrize(
    ("topic", "payload"), [("banua/v1/p1/batch", b"BNUA"), ("banua/v1/P1/batch", None), ("x/banua/v1/p1/batch", None)]
)
def test_what_has_no_envelope_or_no_topic_of_ours_is_unreadable(topic: str, payload: bytes | None) -> None:
    assert isinstance(_judge(Message(topic, payload or message().payload, NOW_MS)), Unreadable)


@pytest.mark.parametrize(("received_ms", "believed"), [(NOW_MS - 1, True), (NOW_MS, False), (NOW_MS + 1, False)])
def test_a_revoked_key_is_believed_until_its_revocation(received_ms: int, *, believed: bool) -> None:
    judgement = _judge(message(received_ms=received_ms), [Key(1, 7, _PUBLIC, 1, None, NOW_MS)])
    if believed:
        assert isinstance(judgement, Verified)
    else:
        assert _reason(judgement) == ("key_revoked", f"key {_PREFIX} is revoked", None)


@pytest.mark.parametrize(
    ("boot", "believed"),
    [
        (Boot(NOW_MS - 1, NOW_MS + 5), True),  # dated before the retirement, whenever it was first seen
        (Boot(NOW_MS, NOW_MS - 5), False),  # dated after it: the date counts
        (Boot(None, NOW_MS - 1), True),  # undated, but something of it came before
        (Boot(None, NOW_MS), False),
        (_UNKNOWN_BOOT, False),
    ],
)
def test_a_retired_key_is_believed_in_boots_begun_before(boot: Boot, *, believed: bool) -> None:
    judgement = _judge(message(), [Key(1, 7, _PUBLIC, 1, NOW_MS, None)], boot)
    if believed:
        assert isinstance(judgement, Verified)
    else:
        assert _reason(judgement) == ("key_retired", f"key {_PREFIX} is retired, and this boot began later", None)


@pytest.mark.parametrize(("unix_ms", "believed"), [(NOW_MS + 4_999, True), (NOW_MS + 5_000, False)])
def test_the_batch_itself_may_say_when_its_boot_began(unix_ms: int, *, believed: bool) -> None:
    judgement = _judge(message(1, [anchor(5_000, unix_ms)]), [Key(1, 7, _PUBLIC, 1, NOW_MS, None)])
    assert isinstance(judgement, Verified) is believed


def test_any_of_the_keys_may_have_signed() -> None:
    other = Key(2, 7, signature.public_of(_STRANGER), 1, None, 1)
    assert isinstance(_judge(message(), [other, _GOOD]), Verified)


def test_a_newer_schema_is_quarantined_under_its_probe() -> None:
    assert _reason(_judge(message(schema=SCHEMA + 1))) == (
        "quarantined",
        f"schema {SCHEMA + 1}, codec 1: this version reads schemas to {SCHEMA}, codec 1",
        7,
    )
