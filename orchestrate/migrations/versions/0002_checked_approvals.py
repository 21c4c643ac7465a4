"""Approvals tell with which account the person logged in; those before were checked by nobody."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds the column."""
    column = sa.Column("account", sa.Text(), comment="with which the person logged in; NULL: nobody checked who it was")
    op.add_column("control_approval", column)
