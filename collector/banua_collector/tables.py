"""The collector's tables, in the order data meets them: who may speak, what came, what is known of it, what is due.

Times are integer milliseconds UTC (`*_ms`); streams, boots, hashes and keys are bytes. The schema is made by the
Alembic migrations alone; a test compares this module with what they make.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Big = BigInteger().with_variant(Integer, "sqlite")  # SQLite's rowid is an INTEGER of 64 bits


def _id() -> Column[int]:
    return Column("id", Big, primary_key=True)


def _ms(name: str, *, optional: bool = False) -> Column[int]:
    return Column(name, BigInteger, nullable=optional)


def _probe() -> Column[int]:
    return Column("probe_id", ForeignKey("probes.id"), nullable=False)


def _batch(*, optional: bool = False) -> Column[int]:
    return Column("batch_id", Big, nullable=optional)  # no foreign key: a month of batches may be moved out


#: one row: the journal's own name, minted anew when a journal is restored
journal = Table("journal", metadata, _id(), Column("journal_id", LargeBinary, nullable=False), _ms("minted_ms"))

# --- registry: who may speak, and where they stand -------------------------------------------------------------------

villages = Table(
    "villages",
    metadata,
    Column("code", String(13), primary_key=True),  # Kemendagri, like 63.01.01.2001
    Column("name", String(100), nullable=False),
    Column("district_code", String(8), nullable=False),
    Column("district", String(100), nullable=False),
    Column("regency_code", String(5), nullable=False),
    Column("regency", String(100), nullable=False),
    Column("latitude", Float),
    Column("longitude", Float),
    Column("edition", String(60), nullable=False),
)

#: a titik ukur: a village has one or more; it outlives every device
places = Table(
    "places",
    metadata,
    _id(),
    Column("name", String(64), nullable=False, unique=True),
    Column("village_code", ForeignKey("villages.code"), nullable=False),
    Column("title", String(100), nullable=False),
    Column("latitude", Float),
    Column("longitude", Float),
)

probes = Table(
    "probes",
    metadata,
    _id(),
    Column("name", String(32), nullable=False, unique=True),
    Column("simulated", Boolean, nullable=False),
    _ms("added_ms"),
)

#: a retired key verifies boots begun before its retirement, a revoked one nothing received after its revocation
keys = Table(
    "keys",
    metadata,
    _id(),
    _probe(),
    Column("public_key", LargeBinary, nullable=False),
    _ms("valid_from_ms"),
    _ms("retired_ms", optional=True),
    _ms("revoked_ms", optional=True),
    UniqueConstraint("probe_id", "public_key"),
)

#: which probe stood where, from when to when
deployments = Table(
    "deployments",
    metadata,
    _id(),
    _probe(),
    Column("place_id", ForeignKey("places.id"), nullable=False),
    _ms("from_ms"),
    _ms("to_ms", optional=True),
    Column("power_source", String(32)),
    Column("supply_hours", String(64)),
    Column("antenna", String(100)),
    Column("connectivity", String(16), nullable=False),  # online, sometimes or by_hand
    CheckConstraint("to_ms IS NULL OR to_ms > from_ms", name="ends_after_it_begins"),
    Index(None, "probe_id", "from_ms"),
)

# --- journal: what came ----------------------------------------------------------------------------------------------

#: `stored_to`: every seq up to it is settled; computed under the lock of this row
streams = Table(
    "streams",
    metadata,
    _id(),
    _probe(),
    Column("stream", LargeBinary, nullable=False),
    Column("stored_to", BigInteger, nullable=False),
    _ms("first_seen_ms"),
    UniqueConstraint("probe_id", "stream"),
)

#: every settled seq for ever: `how` is journalled, quarantined or lost (then without a hash)
seen = Table(
    "seen",
    metadata,
    Column("stream_id", ForeignKey("streams.id"), primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("hash", LargeBinary),
    Column("how", String(12), nullable=False),
    Column("month", String(7), nullable=False),
)

#: batches as received, signature included: the evidence. On PostgreSQL a partition a month of receipt.
batches = Table(
    "batches",
    metadata,
    _id(),
    _probe(),
    Column("stream_id", ForeignKey("streams.id"), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("boot_id", LargeBinary, nullable=False),
    Column("rows", Integer, nullable=False),
    _ms("first_boottime_ms"),
    _ms("last_boottime_ms"),
    _ms("received_ms"),
    Column("message", LargeBinary, nullable=False),
    UniqueConstraint("stream_id", "seq"),
    Index(None, "probe_id", "boot_id", "last_boottime_ms"),
    Index(None, "probe_id", "received_ms"),
)

#: what could not be believed or read, kept with its reason; `hash` is unique, so a repeated offender costs one row
quarantine = Table(
    "quarantine",
    metadata,
    _id(),
    Column("probe_name", String(32), nullable=False),
    Column("topic", String(200), nullable=False),
    Column("reason", String(32), nullable=False),
    Column("detail", String(300), nullable=False),
    Column("hash", LargeBinary, nullable=False, unique=True),
    _ms("received_ms"),
    Column("message", LargeBinary, nullable=False),
    Index(None, "probe_name"),
)

# --- what the batches say of themselves ------------------------------------------------------------------------------

#: a boot is `held` from every projection while two live devices answer to one name, until a person assigns it
boots = Table(
    "boots",
    metadata,
    _id(),
    _probe(),
    Column("boot_id", LargeBinary, nullable=False),
    Column("stream_id", ForeignKey("streams.id")),  # the stream its first batch came in, absent before that
    Column("first_seq", BigInteger),  # its lowest seq there: boots of one stream follow each other in this order
    _ms("first_seen_ms"),
    _ms("first_birth_ms", optional=True),
    _ms("first_boottime_ms", optional=True),
    _ms("last_boottime_ms", optional=True),
    _ms("start_ms", optional=True),  # its first and last row in wall time, as far as anchors tell, ± error_ms
    _ms("end_ms", optional=True),
    _ms("error_ms", optional=True),
    Column("standing", String(8), nullable=False),  # ok, held, released or dropped
    UniqueConstraint("probe_id", "boot_id"),
    Index(None, "probe_id", "end_ms"),
)

anchors = Table(
    "anchors",
    metadata,
    _probe(),
    Column("boot_id", LargeBinary, nullable=False),
    _ms("boottime_ms"),
    _ms("unix_ms"),
    _ms("error_ms"),
    Column("source", String(16), nullable=False),
    _batch(),
    UniqueConstraint("probe_id", "boot_id", "boottime_ms", "batch_id"),
)

#: `event` and `lost` rows, and what the collector itself noticed (then without boot and batch)
events = Table(
    "events",
    metadata,
    _id(),
    _probe(),
    _batch(optional=True),
    Column("boot_id", LargeBinary),
    _ms("boottime_ms", optional=True),
    _ms("noticed_ms"),
    Column("name", String(200), nullable=False),
    Column("n", BigInteger, nullable=False),
    Column("detail", String(300), nullable=False),
    Index(None, "probe_id", "noticed_ms"),
)

# --- projections: what is due, and what was written ------------------------------------------------------------------

#: work for a projection: consumed by id, removed once the target has answered
todo = Table(
    "todo",
    metadata,
    _id(),
    Column("projection", String(16), nullable=False),
    _probe(),
    _batch(),
    _ms("due_ms"),
    Index(None, "projection", "probe_id"),
    Index(None, "batch_id"),
    sqlite_autoincrement=True,  # an id is never used twice
)

#: what a projection last wrote of a batch: its time range and a digest of its points; a NULL digest: deleted, being
#: rewritten. `withheld` counts the rows that still wait for a better time.
written = Table(
    "written",
    metadata,
    Column("projection", String(16), primary_key=True),
    Column("batch_id", Big, primary_key=True),
    _probe(),
    _ms("first_ms", optional=True),
    _ms("last_ms", optional=True),
    Column("digest", LargeBinary),
    Column("withheld", Integer, nullable=False),
    _ms("noted_ms"),
    Index(None, "projection", "probe_id", "last_ms"),
    Index(None, "projection", "noted_ms"),
)

#: a projection's target, and when its process began: one that was started anew may have forgotten what it confirmed
targets = Table(
    "targets", metadata, Column("projection", String(16), primary_key=True), Column("started_s", Float, nullable=False)
)

#: points that the projection's target will never take, as it said why; written anew with their batch
refused = Table(
    "refused",
    metadata,
    _id(),
    Column("projection", String(16), nullable=False),
    _probe(),
    _batch(),
    Column("line", Text, nullable=False),
    Column("reason", String(300), nullable=False),
    _ms("noticed_ms"),
    Index(None, "batch_id"),
)

# --- archives: months moved out --------------------------------------------------------------------------------------

#: an exported file that holds what was then removed from `batches`
archives = Table(
    "archives",
    metadata,
    Column("month", String(7), primary_key=True),
    Column("file", String(300), nullable=False),
    Column("sha256", String(64), primary_key=True),
    Column("batches", BigInteger, nullable=False),
    _ms("removed_ms"),
)
