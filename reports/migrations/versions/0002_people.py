"""People: accounts, sessions, API tokens, one-time links and what became of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds tables, and changes none."""
    op.create_table(
        "people_account",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("role", sa.Text(), nullable=False, comment="viewer, operator, approver or admin"),
        sa.Column("password_hash", sa.Text(), comment="of argon2; NULL: no password opens it"),
        sa.Column(
            "subject", sa.Text(), unique=True, comment="issuer and subject of OpenID Connect; NULL: a local account"
        ),
        sa.Column("created_s", sa.Double(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("disabled_s", sa.Double(), comment="NULL: it is enabled"),
    )
    op.create_table(
        "people_session",
        sa.Column("token_sha256", sa.String(64), primary_key=True, comment="of what the cookie holds"),
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("begun_s", sa.Double(), nullable=False),
        sa.Column("seen_s", sa.Double(), nullable=False, comment="to some minutes"),
        sa.Column("address", sa.Text(), nullable=False),
    )
    op.create_index("people_session_account", "people_session", ["account"])
    op.create_table(
        "people_token",
        sa.Column("id", sa.String(8), primary_key=True, comment="public: to list and revoke by"),
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("label", sa.Text(), nullable=False, comment="what it is for"),
        sa.Column("scope", sa.Text(), nullable=False, comment="read, write, approve or admin"),
        sa.Column("secret_sha256", sa.String(64), nullable=False),
        sa.Column("created_s", sa.Double(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("until_s", sa.Double(), nullable=False),
        sa.Column("used_s", sa.Double(), comment="last, to some minutes; NULL is never"),
        sa.Column("revoked_s", sa.Double()),
    )
    op.create_index("people_token_account", "people_token", ["account"])
    op.create_table(
        "people_link",
        sa.Column("secret_sha256", sa.String(64), primary_key=True),
        sa.Column("kind", sa.Text(), nullable=False, comment="first or password"),
        sa.Column("account", sa.String(64), comment="whose password it sets; NULL for the first admin"),
        sa.Column("made_by", sa.Text(), nullable=False),
        sa.Column("until_s", sa.Double(), nullable=False),
        sa.Column("used_s", sa.Double(), comment="it opens once"),
    )
    op.create_table(
        "people_event",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("at_s", sa.Double(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False, comment="an account, or what was typed for one"),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False, comment="never a secret"),
        sa.Column("address", sa.Text(), nullable=False, comment="of the client; empty at the command line"),
        sqlite_autoincrement=True,
    )
    op.create_index("people_event_time", "people_event", ["at_s"])
