"""Several aggregators: which of them keeps a VM's history, what others still hold of it, and who they are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
floor = "0003"

_NEWEST = "ts of the newest sample acknowledged"
_OF_A_SUMMARY = (
    "vm_id",
    "oldest_s",
    "newest_s",
    "received_s",
    "skew_s",
    "interval_s",
    "conflicts",
    "cpu_count",
    "mem_total_bytes",
    "disk_total_bytes",
    "flags",
    "updated_s",
)


def upgrade() -> None:
    """Every summary so far belongs to no node; whoever writes it next says so."""
    if op.get_context().dialect.name == "sqlite":
        # A column that SQLite adds comes after the constraints: the table would not be that of the code.
        op.rename_table("vm_summary", "vm_summary_0002")
        op.create_table("vm_summary", *_summary_before(), _node(), sqlite_with_rowid=False)
        before, after = (
            sa.table(name, *(sa.column(column) for column in _OF_A_SUMMARY))
            for name in ("vm_summary_0002", "vm_summary")
        )
        op.execute(sa.insert(after).from_select(_OF_A_SUMMARY, sa.select(before)))
        op.drop_table("vm_summary_0002")
    else:
        op.add_column("vm_summary", _node())
        op.alter_column(
            "vm_summary", "newest_s", existing_type=sa.BigInteger(), existing_nullable=False, comment=_NEWEST
        )
        _make_overwriting_cheap()
    op.create_table(
        "vm_part",
        sa.Column("vm_id", sa.String(64), primary_key=True),
        sa.Column("node", sa.String(64), primary_key=True, comment="the aggregator that holds this part"),
        sa.Column("oldest_s", sa.BigInteger(), nullable=False, comment="start of the hour of its first sample"),
        sa.Column("newest_s", sa.BigInteger(), nullable=False, comment="ts of its newest sample"),
        sa.Column("noted_s", sa.Double(), nullable=False, comment="since when there are two"),
        sa.Column("problem", sa.Text(), comment="why it could not be taken in at the last try"),
        sa.Column(
            "mark",
            sa.BigInteger(),
            nullable=False,
            server_default=sa.text("0"),
            comment="another each time this is noted: tells whether the part is still the one that was looked at",
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "node",
        sa.Column("node", sa.String(64), primary_key=True),
        sa.Column("admin_url", sa.Text(), comment="where the others and the report ask it; NULL: nowhere"),
        sa.Column("listen", sa.Text(), comment="host:port of the agents' door"),
        sa.Column("version", sa.Text(), nullable=False, comment="of the program"),
        sa.Column("revision", sa.String(8), nullable=False, comment="of the schema that the program was written for"),
        sa.Column("state", sa.String(8), nullable=False, comment="up, draining or stopped"),
        sa.Column("not_ready", sa.Text(), comment="why it takes no pushes; NULL: it does"),
        sa.Column("started_s", sa.Double(), nullable=False),
        sa.Column("seen_s", sa.Double(), nullable=False, comment="when it last said so"),
        sa.Column("vms", sa.BigInteger(), nullable=False, comment="VMs it heard of within a day"),
        sa.Column("owed", sa.BigInteger(), nullable=False, comment="summaries it has still to write here"),
        sa.Column("free_bytes", sa.BigInteger(), comment="room on the disk of its stores"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "schema_floor",
        sa.Column("part", sa.String(16), primary_key=True, comment="aggregator, report or orchestrate"),
        sa.Column("revision", sa.String(8), nullable=False, comment="a program for an older schema must not write"),
    )


def _make_overwriting_cheap() -> None:
    """Summaries are overwritten all day, on PostgreSQL by a new version of the row each time."""
    for table in ("vm_summary", "vm_window"):
        # With room left on its page a new version needs no new entry in the index.
        op.execute(f"ALTER TABLE {table} SET (fillfactor = 85)")
    offered = "SELECT count(*) FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)"
    if op.get_bind().scalar(sa.text(offered)):
        # The usual method takes half of all that the server does for a summary.
        op.execute("ALTER TABLE vm_evidence ALTER COLUMN body SET COMPRESSION lz4")


def _summary_before() -> list[sa.Column[object]]:
    return [
        sa.Column("vm_id", sa.String(64), primary_key=True),
        sa.Column("oldest_s", sa.BigInteger(), nullable=False, comment="start of the hour of the first sample"),
        sa.Column("newest_s", sa.BigInteger(), nullable=False, comment=_NEWEST),
        sa.Column("received_s", sa.Double(), nullable=False, comment="when the newest push came, aggregator's clock"),
        sa.Column("skew_s", sa.Double(), nullable=False, comment="received - sent of the newest push"),
        sa.Column("interval_s", sa.Integer(), nullable=False),
        sa.Column(
            "conflicts",
            sa.BigInteger(),
            nullable=False,
            comment="samples refused because another with their ts was first",
        ),
        sa.Column("cpu_count", sa.Integer()),
        sa.Column("mem_total_bytes", sa.BigInteger()),
        sa.Column("disk_total_bytes", sa.BigInteger()),
        sa.Column(
            "flags",
            sa.Text(),
            nullable=False,
            server_default="[]",
            comment="JSON list: clock_skew, identity_conflict, store_replaced",
        ),
        sa.Column("updated_s", sa.Double(), nullable=False),
    ]


def _node() -> sa.Column[str]:
    return sa.Column(
        "node",
        sa.String(64),
        nullable=False,
        server_default=sa.text("''"),
        comment="the aggregator that this VM pushes to and that keeps its history; empty: none has said so yet",
    )
