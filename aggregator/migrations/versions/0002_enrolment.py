"""Join tokens that can be listed, revoked and bound; what hypervisors say exists; enrolments that wait for an admin."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Join tokens stay usable, and get an id; how many uses an old one had at first is not known any more."""
    if op.get_context().dialect.name == "sqlite":
        # A column that SQLite adds comes after the constraints: the table would not be that of the code.
        op.rename_table("join_token", "join_token_0001")
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
            *_more_of_join_token(),
        )
        op.execute(
            "INSERT INTO join_token (secret_sha256, created_s, expires_s, uses_left, labels)"
            " SELECT secret_sha256, created_s, expires_s, uses_left, labels FROM join_token_0001"
        )
        op.drop_table("join_token_0001")
    else:
        for column in _more_of_join_token():
            op.add_column("join_token", column)
    op.execute("UPDATE join_token SET id = substr(secret_sha256, 1, 8), uses = uses_left")
    op.create_table(
        "inventory_vm",
        sa.Column("vm_id", sa.String(64), primary_key=True),
        sa.Column("source", sa.String(64), primary_key=True, comment="a hypervisor, a site or a file"),
        sa.Column("macs", sa.Text(), nullable=False, server_default="[]", comment="JSON list: aa:bb:cc:dd:ee:ff"),
        sa.Column("pool", sa.Text()),
        sa.Column("host", sa.Text()),
        sa.Column("seen_s", sa.Double(), nullable=False, comment="when the source was last asked"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "enrolment_wait",
        sa.Column("vm_id", sa.String(64), primary_key=True),
        sa.Column("request", sa.String(8), primary_key=True, comment="begins the SHA-256 of host name, MACs, boot"),
        sa.Column("asked_s", sa.Double(), nullable=False, comment="first"),
        sa.Column("again_s", sa.Double(), nullable=False, comment="last"),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False, comment="JSON object: what the VM said, from where"),
        sa.Column("state", sa.String(8), nullable=False, comment="waiting, approved or refused"),
        sa.Column("decided_by", sa.Text()),
        sa.Column("decided_s", sa.Double()),
        sqlite_with_rowid=False,
    )


def _more_of_join_token() -> list[sa.Column[object]]:
    return [
        sa.Column(
            "id", sa.String(8), nullable=False, server_default=sa.text("''"), comment="public: start of its SHA-256"
        ),
        sa.Column("created_by", sa.Text(), comment="who minted it; NULL: nobody said"),
        sa.Column(
            "uses", sa.Integer(), nullable=False, server_default="0", comment="enrolments it was good for at first"
        ),
        sa.Column("revoked_s", sa.Double()),
        sa.Column("bound_to", sa.String(8), comment="vm, pool, network or NULL: any VM from anywhere"),
        sa.Column("bound_value", sa.Text()),
    ]
