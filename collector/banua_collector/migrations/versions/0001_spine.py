"""The spine: registry, journal, what the batches say of themselves, and what the projections owe."""  # noqa: INP001 (Alembic runs it by path)

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite's rowid is an INTEGER of 64 bits


def upgrade() -> None:
    """Make every table."""
    _registry()
    _journal()
    _knowledge()
    _projections()


def downgrade() -> None:
    """Refuse: there is nothing before the spine, and the journal is evidence."""
    raise NotImplementedError("the first migration is not undone: it would destroy the journal")


def _registry() -> None:
    op.create_table(
        "villages",
        sa.Column("code", sa.String(13), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("district_code", sa.String(8), nullable=False),
        sa.Column("district", sa.String(100), nullable=False),
        sa.Column("regency_code", sa.String(5), nullable=False),
        sa.Column("regency", sa.String(100), nullable=False),
        sa.Column("latitude", sa.Float()),
        sa.Column("longitude", sa.Float()),
        sa.Column("edition", sa.String(60), nullable=False),
        sa.PrimaryKeyConstraint("code", name="pk_villages"),
    )
    op.create_table(
        "places",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("village_code", sa.String(13), nullable=False),
        sa.Column("title", sa.String(100), nullable=False),
        sa.Column("latitude", sa.Float()),
        sa.Column("longitude", sa.Float()),
        sa.PrimaryKeyConstraint("id", name="pk_places"),
        sa.UniqueConstraint("name", name="uq_places_name"),
        sa.ForeignKeyConstraint(["village_code"], ["villages.code"], name="fk_places_village_code"),
    )
    op.create_table(
        "probes",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.Column("added_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_probes"),
        sa.UniqueConstraint("name", name="uq_probes_name"),
    )
    op.create_table(
        "keys",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("probe_id", _BIG, nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("valid_from_ms", sa.BigInteger(), nullable=False),
        sa.Column("retired_ms", sa.BigInteger()),
        sa.Column("revoked_ms", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name="pk_keys"),
        sa.UniqueConstraint("probe_id", "public_key", name="uq_keys_probe_id_public_key"),
        sa.ForeignKeyConstraint(["probe_id"], ["probes.id"], name="fk_keys_probe_id"),
    )
    op.create_table(
        "deployments",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("probe_id", _BIG, nullable=False),
        sa.Column("place_id", _BIG, nullable=False),
        sa.Column("from_ms", sa.BigInteger(), nullable=False),
        sa.Column("to_ms", sa.BigInteger()),
        sa.Column("power_source", sa.String(32)),
        sa.Column("supply_hours", sa.String(64)),
        sa.Column("antenna", sa.String(100)),
        sa.Column("connectivity", sa.String(16), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_deployments"),
        sa.ForeignKeyConstraint(["probe_id"], ["probes.id"], name="fk_deployments_probe_id"),
        sa.ForeignKeyConstraint(["place_id"], ["places.id"], name="fk_deployments_place_id"),
        sa.CheckConstraint("to_ms IS NULL OR to_ms > from_ms", name=op.f("ck_deployments_ends_after_it_begins")),
    )
    op.create_index("ix_deployments_probe_id_from_ms", "deployments", ["probe_id", "from_ms"])


def _journal() -> None:
    op.create_table(
        "journal",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("journal_id", sa.LargeBinary(), nullable=False),
        sa.Column("minted_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_journal"),
    )
    op.create_table(
        "streams",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("probe_id", _BIG, nullable=False),
        sa.Column("stream", sa.LargeBinary(), nullable=False),
        sa.Column("stored_to", sa.BigInteger(), nullable=False),
        sa.Column("first_seen_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_streams"),
        sa.UniqueConstraint("probe_id", "stream", name="uq_streams_probe_id_stream"),
        sa.ForeignKeyConstraint(["probe_id"], ["probes.id"], name="fk_streams_probe_id"),
    )
    op.create_table(
        "seen",
        sa.Column("stream_id", _BIG, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary()),
        sa.Column("how", sa.String(12), nullable=False),
        sa.Column("month", sa.String(7), nullable=False),
        sa.PrimaryKeyConstraint("stream_id", "seq", name="pk_seen"),
        sa.ForeignKeyConstraint(["stream_id"], ["streams.id"], name="fk_seen_stream_id"),
    )
    op.create_table(
        "batches",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("probe_id", _BIG, nullable=False),
        sa.Column("stream_id", _BIG, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("boot_id", sa.LargeBinary(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("first_boottime_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_boottime_ms", sa.BigInteger(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.Column("message", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_batches"),
        sa.UniqueConstraint("stream_id", "seq", name="uq_batches_stream_id_seq"),
        sa.ForeignKeyConstraint(["probe_id"], ["probes.id"], name="fk_batches_probe_id"),
        sa.ForeignKeyConstraint(["stream_id"], ["streams.id"], name="fk_batches_stream_id"),
    )
    op.create_index(
        "ix_batches_probe_id_boot_id_last_boottime_ms", "batches", ["probe_id", "boot_id", "last_boottime_ms"]
    )
    op.create_index("ix_batches_probe_id_received_ms", "batches", ["probe_id", "received_ms"])
    op.create_table(
        "quarantine",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("probe_name", sa.String(32), nullable=False),
        sa.Column("topic", sa.String(200), nullable=False),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("detail", sa.String(300), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.Column("message", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_quarantine"),
        sa.UniqueConstraint("hash", name="uq_quarantine_hash"),
    )
    op.create_index("ix_quarantine_probe_name", "quarantine", ["probe_name"])


def _knowledge() -> None:
    op.create_table(
        "boots",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("probe_id", _BIG, nullable=False),
        sa.Column("boot_id", sa.LargeBinary(), nullable=False),
        sa.Column("stream_id", _BIG),
        sa.Column("first_seq", sa.BigInteger()),
        sa.Column("first_seen_ms", sa.BigInteger(), nullable=False),
        sa.Column("first_birth_ms", sa.BigInteger()),
        sa.Column("first_boottime_ms", sa.BigInteger()),
        sa.Column("last_boottime_ms", sa.BigInteger()),
        sa.Column("start_ms", sa.BigInteger()),
        sa.Column("end_ms", sa.BigInteger()),
        sa.Column("error_ms", sa.BigInteger()),
        sa.Column("standing", sa.String(8), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_boots"),
        sa.UniqueConstraint("probe_id", "boot_id", name="uq_boots_probe_id_boot_id"),
        sa.ForeignKeyConstraint(["probe_id"], ["probes.id"], name="fk_boots_probe_id"),
        sa.ForeignKeyConstraint(["stream_id"], ["streams.id"], name="fk_boots_stream_id"),
    )
    op.create_table(
        "anchors",
        sa.Column("probe_id", _BIG, nullable=False),
        sa.Column("boot_id", sa.LargeBinary(), nullable=False),
        sa.Column("boottime_ms", sa.BigInteger(), nullable=False),
        sa.Column("unix_ms", sa.BigInteger(), nullable=False),
        sa.Column("error_ms", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("batch_id", _BIG, nullable=False),
        sa.UniqueConstraint(
            "probe_id", "boot_id", "boottime_ms", "batch_id", name="uq_anchors_probe_id_boot_id_boottime_ms_batch_id"
        ),
        sa.ForeignKeyConstraint(["probe_id"], ["probes.id"], name="fk_anchors_probe_id"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name="fk_anchors_batch_id"),
    )
    op.create_table(
        "events",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("probe_id", _BIG, nullable=False),
        sa.Column("batch_id", _BIG),
        sa.Column("boot_id", sa.LargeBinary()),
        sa.Column("boottime_ms", sa.BigInteger()),
        sa.Column("noticed_ms", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("detail", sa.String(300), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sa.ForeignKeyConstraint(["probe_id"], ["probes.id"], name="fk_events_probe_id"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name="fk_events_batch_id"),
    )
    op.create_index("ix_events_probe_id_noticed_ms", "events", ["probe_id", "noticed_ms"])


def _projections() -> None:
    op.create_table(
        "todo",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("projection", sa.String(16), nullable=False),
        sa.Column("probe_id", _BIG, nullable=False),
        sa.Column("batch_id", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_todo"),
        sa.ForeignKeyConstraint(["probe_id"], ["probes.id"], name="fk_todo_probe_id"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name="fk_todo_batch_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_todo_projection_probe_id", "todo", ["projection", "probe_id"])
    op.create_index("ix_todo_batch_id", "todo", ["batch_id"])
    op.create_table(
        "written",
        sa.Column("projection", sa.String(16), nullable=False),
        sa.Column("batch_id", _BIG, nullable=False),
        sa.Column("probe_id", _BIG, nullable=False),
        sa.Column("first_ms", sa.BigInteger()),
        sa.Column("last_ms", sa.BigInteger()),
        sa.Column("digest", sa.LargeBinary()),
        sa.Column("withheld", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("projection", "batch_id", name="pk_written"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name="fk_written_batch_id"),
        sa.ForeignKeyConstraint(["probe_id"], ["probes.id"], name="fk_written_probe_id"),
    )
    op.create_index("ix_written_projection_probe_id_last_ms", "written", ["projection", "probe_id", "last_ms"])
