"""What nodes compare with each other: clocks and keys; and which of them leaves for good."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
floor = "0003"


def upgrade() -> None:
    """An aggregator of before leaves the new columns as they are, and its row says for which schema it was written."""
    if op.get_context().dialect.name != "sqlite":
        for column in _added():
            op.add_column("node", column)
        return
    # A column that SQLite adds comes after the constraints: the table would not be that of the code.
    op.rename_table("node", "node_0003")
    op.create_table("node", *_before(), *_added(), sqlite_with_rowid=False)
    names = [column.name for column in _before()]
    before, after = (sa.table(name, *map(sa.column, names)) for name in ("node_0003", "node"))
    op.execute(sa.insert(after).from_select(names, sa.select(before)))
    op.drop_table("node_0003")


def _added() -> list[sa.Column[object]]:
    return [
        sa.Column(
            "ahead_s", sa.Double(), comment="its clock less that of this database; NULL: not told, here and below"
        ),
        sa.Column(
            "key_marks", sa.Text(), comment="kid:mark:mark of each key, by which others tell whether theirs is the same"
        ),
        sa.Column("is_leaving", sa.Boolean(), comment="it drains for good: others take over what it keeps"),
    ]


def _before() -> list[sa.Column[object]]:
    return [
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
    ]
