"""The probes that speak in a group of messages: locked until its commit; what judging them needs, looked up once."""

from collections.abc import Iterable

from sqlalchemy import Connection, select

from banua_collector import boots
from banua_collector.db import lock_probes
from banua_collector.registry import Key, keys_by_probe
from banua_collector.tables import probes
from banua_collector.verify import Boot, Judgement, Message, judge
from banua_wire.errors import WireError
from banua_wire.topics import parse


class Speakers:
    """Keys and boots of the probes that are named in some topics."""

    def __init__(self, conn: Connection, topics: Iterable[str]) -> None:
        """Lock the probes; `conn` is in the transaction that will journal what they say."""
        self._conn = conn
        named = select(probes.c.name, probes.c.id).where(probes.c.name.in_({_speaker(each) for each in topics}))
        self._ids = {row.name: row.id for row in conn.execute(named)}
        lock_probes(conn, self._ids.values())
        self._keys = keys_by_probe(conn, self._ids.values())

    def judge(self, message: Message) -> Judgement:
        """Return what `message` is, by what the database knows."""
        return judge(message, self.keys, self.boot)

    def keys(self, probe: str) -> list[Key]:
        """Return the keys of `probe`, none when it is not registered."""
        return self._keys.get(self._ids.get(probe, 0), [])

    def probe_id(self, probe: str) -> int | None:
        """Return the id of `probe`, None when it is not registered."""
        return self._ids.get(probe)

    def boot(self, probe: str, boot_id: bytes) -> Boot:
        """Return what is known of when that boot began."""
        probe_id = self.probe_id(probe)
        row = None if probe_id is None else boots.boot_row(self._conn, probe_id, boot_id)
        if row is None:
            return Boot(None, None)
        begun = None if row.start_ms is None else row.start_ms - row.first_boottime_ms
        return Boot(begun, row.first_seen_ms)


def _speaker(message_topic: str) -> str:
    try:
        return parse(message_topic)[0]
    except WireError:
        return ""
