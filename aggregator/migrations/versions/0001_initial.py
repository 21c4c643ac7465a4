"""The first schema: the fleet, its summaries, join tokens and revocations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Creates every table, spelled out: a step must stay as it was when later ones change the tables."""
    op.create_table(
        "join_token",
        sa.Column("secret_sha256", sa.String(64), primary_key=True, comment="the token itself is never kept"),
        sa.Column("created_s", sa.Double(), nullable=False),
        sa.Column("expires_s", sa.Double(), nullable=False),
        sa.Column("uses_left", sa.Integer(), nullable=False),
        sa.Column(
            "labels",
            sa.Text(),
            nullable=False,
            server_default="{}",
            comment="JSON: owner, mail, tags for the VMs that use it",
        ),
    )
    op.create_table(
        "revocation",
        sa.Column("vm_id", sa.String(64), primary_key=True),
        sa.Column(
            "below_generation", sa.Integer(), nullable=False, comment="tokens of an older generation are refused"
        ),
        sa.Column(
            "reason", sa.Text(), nullable=False, comment="revoked, identity-conflict, forgotten, re-enrolled or rotated"
        ),
        sa.Column("created_s", sa.Double(), nullable=False),
    )
    op.create_table(
        "vm",
        sa.Column("vm_id", sa.String(64), primary_key=True),
        sa.Column("name", sa.Text(), comment="for people; may repeat"),
        sa.Column("hostname", sa.Text(), comment="as the agent said at enrolment: evidence, never identity"),
        sa.Column("owner", sa.Text()),
        sa.Column("mail", sa.Text()),
        sa.Column("tags", sa.Text(), nullable=False, server_default="[]", comment="JSON list of texts"),
        sa.Column("power_state", sa.Text(), comment="on, off or NULL: from an inventory; NULL is unknown"),
        sa.Column("ips", sa.Text(), nullable=False, server_default="[]", comment="JSON list"),
        sa.Column("macs", sa.Text(), nullable=False, server_default="[]", comment="JSON list"),
        sa.Column("machine", sa.Text(), comment="JSON object the agent sent: system, kernel, architecture"),
        sa.Column("boot", sa.Text(), comment="boot id at enrolment"),
        sa.Column("enrolled_s", sa.BigInteger(), comment="NULL: known from a CSV, runs no agent yet"),
        sa.Column(
            "generation", sa.Integer(), nullable=False, server_default="0", comment="of the newest token given out"
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "vm_evidence",
        sa.Column("vm_id", sa.String(64), primary_key=True),
        sa.Column(
            "hour_s",
            sa.BigInteger(),
            nullable=False,
            comment="start of the open hour: the blob holds the closed ones before it",
        ),
        sa.Column(
            "body",
            sa.LargeBinary(),
            nullable=False,
            comment="aggregator.windows: histograms, sums, profile, daily totals",
        ),
    )
    op.create_table(
        "vm_summary",
        sa.Column("vm_id", sa.String(64), primary_key=True),
        sa.Column("oldest_s", sa.BigInteger(), nullable=False, comment="start of the hour of the first sample"),
        sa.Column("newest_s", sa.BigInteger(), nullable=False, comment="ts of the newest sample stored"),
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
        sqlite_with_rowid=False,
    )
    op.create_table(
        "vm_window",
        sa.Column("window_days", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("vm_id", sa.String(64), primary_key=True),
        sa.Column("start_s", sa.BigInteger(), nullable=False),
        sa.Column("end_s", sa.BigInteger(), nullable=False, comment="ts of the newest sample"),
        sa.Column("covered_s", sa.BigInteger(), nullable=False, comment="seconds of the window that samples cover"),
        sa.Column("users_s", sa.BigInteger(), nullable=False, comment="seconds with somebody logged in"),
        sa.Column("cpu_busy_mean_ratio", sa.Double()),
        sa.Column("cpu_busy_p50_ratio", sa.Double()),
        sa.Column("cpu_busy_p95_ratio", sa.Double()),
        sa.Column("cpu_busy_p99_ratio", sa.Double()),
        sa.Column("cpu_busy_max_ratio", sa.Double()),
        sa.Column("cpu_max_mean_ratio", sa.Double()),
        sa.Column("cpu_max_p95_ratio", sa.Double()),
        sa.Column("cpu_max_max_ratio", sa.Double()),
        sa.Column("mem_used_mean_ratio", sa.Double()),
        sa.Column("mem_used_p95_ratio", sa.Double()),
        sa.Column("mem_used_max_ratio", sa.Double()),
        sa.Column("disk_used_mean_ratio", sa.Double()),
        sa.Column("disk_used_max_ratio", sa.Double()),
        sa.Column("disk_read_mean_bytes_per_s", sa.Double()),
        sa.Column("disk_read_p95_bytes_per_s", sa.Double()),
        sa.Column("disk_read_max_bytes_per_s", sa.Double()),
        sa.Column("disk_write_mean_bytes_per_s", sa.Double()),
        sa.Column("disk_write_p95_bytes_per_s", sa.Double()),
        sa.Column("disk_write_max_bytes_per_s", sa.Double()),
        sa.Column("disk_io_mean_bytes_per_s", sa.Double()),
        sa.Column("disk_io_p95_bytes_per_s", sa.Double()),
        sa.Column("net_rx_mean_bytes_per_s", sa.Double()),
        sa.Column("net_rx_p95_bytes_per_s", sa.Double()),
        sa.Column("net_rx_max_bytes_per_s", sa.Double()),
        sa.Column("net_tx_mean_bytes_per_s", sa.Double()),
        sa.Column("net_tx_p95_bytes_per_s", sa.Double()),
        sa.Column("net_tx_max_bytes_per_s", sa.Double()),
        sa.Column("net_io_mean_bytes_per_s", sa.Double()),
        sa.Column("net_io_p95_bytes_per_s", sa.Double()),
        sqlite_with_rowid=False,
    )
