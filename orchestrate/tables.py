"""Tables of the fleet database that the controller owns and alone writes: what `orchestrate.records` promises to keep.

Beside those of the aggregator and the report, with a migration history of their own: `orchestrate/migrations` creates
the same tables; a test holds the two together. Times are Unix seconds. Rows are numbered in the order in which they
came, since clocks may be set back.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

lease = sa.Table(
    "control_lease",
    metadata,
    # One row, so that there is one lease. It stays when the lease ends: tokens go on from there.
    sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1", name="control_lease_one"), primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("token", sa.BigInteger, nullable=False, comment="only grows"),
    sa.Column("expires_s", sa.Double, nullable=False),
)

plan = sa.Table(
    "control_plan",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("body", sa.Text, nullable=False, comment="canonical JSON, which the hash is over"),
    sa.Column("audit_number", sa.BigInteger, nullable=False, comment="the line of the audit log that tells of it"),
    sa.Column("audit_sha256", sa.String(64), nullable=False, comment="and its hash"),
    sqlite_autoincrement=True,
)

approval = sa.Table(
    "control_approval",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("plan_sha256", sa.String(64), nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("at_s", sa.Double, nullable=False),
    sa.Column("account", sa.Text, comment="with which the person logged in; NULL: nobody checked who it was"),
    sa.UniqueConstraint("plan_sha256", "by", name="control_approval_once"),
    sqlite_autoincrement=True,
)

run = sa.Table(
    "control_run",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("run_id", sa.Text, nullable=False, unique=True),
    sa.Column("plan_sha256", sa.String(64), nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("begun_s", sa.Double, nullable=False),
    sa.Column("ended_s", sa.Double, comment="NULL: under way, or its controller died"),
    sa.Column("words", sa.Text, comment="why nothing, or not all, was done"),
    sa.Column("audit_number", sa.BigInteger, nullable=False, comment="the newest line of the audit log about it"),
    sa.Column("audit_sha256", sa.String(64), nullable=False, comment="and its hash"),
    sqlite_autoincrement=True,
)
sa.Index("control_run_plan", run.c.plan_sha256)

action = sa.Table(
    "control_action",
    metadata,
    sa.Column("action_id", sa.Integer, primary_key=True),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("step", sa.Text, nullable=False, comment="JSON: what is done to whom, and how it is undone"),
    sa.Column("begun_s", sa.Double, nullable=False),
    sa.Column("lease_token", sa.BigInteger, nullable=False),
    sa.Column("outcome", sa.Text, comment="done, skipped, failed or unknown; NULL: intended, and nothing is known"),
    sa.Column("settled_s", sa.Double),
    sa.Column("words", sa.Text),
    sqlite_autoincrement=True,
)
sa.Index("control_action_run", action.c.run_id)
sa.Index("control_action_begun", action.c.begun_s)
# It is read before every step, and holds hardly ever a row.
IS_UNSETTLED = sa.text("outcome IS NULL OR outcome = 'unknown'")
sa.Index("control_action_unsettled", action.c.action_id, sqlite_where=IS_UNSETTLED, postgresql_where=IS_UNSETTLED)

ladder = sa.Table(
    "control_ladder",
    metadata,
    sa.Column("driver", sa.Text, primary_key=True),
    sa.Column("uuid", sa.Text, primary_key=True),
    sa.Column("vm_id", sa.String(64), nullable=False),
    sa.Column("rung", sa.Text, nullable=False),
    sa.Column("since_s", sa.Double, nullable=False),
    sa.Column("group", sa.Text, nullable=False, comment="whose rules it went by"),
    sa.Column("marked_s", sa.Double),
    sa.Column("notified_s", sa.Double),
    sa.Column("due_s", sa.Double, comment="the next rung not before it"),
    sa.Column("boot", sa.Text, comment="boot id of the agent when it was marked"),
    sa.Column("run_id", sa.Text),
    sa.Column("owner", sa.Text, comment="when it was marked or told of; empty: nobody's that was known"),
)

seen = sa.Table(
    "control_seen",
    metadata,
    sa.Column("vm_id", sa.String(64), primary_key=True),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("seen_s", sa.Double, nullable=False),
)

hold = sa.Table(
    "control_hold",
    metadata,
    sa.Column("hold_id", sa.Text, primary_key=True),
    sa.Column("driver", sa.Text, nullable=False),
    sa.Column("host_id", sa.Text, nullable=False),
    sa.Column("vcpus", sa.Double, nullable=False),
    sa.Column("mem_bytes", sa.BigInteger, nullable=False),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("made_s", sa.Double, nullable=False),
    sa.Column("expires_s", sa.Double, nullable=False),
)

audit = sa.Table(
    "control_audit",
    metadata,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False, comment="1, 2, .. without a gap"),
    sa.Column("at_s", sa.Double, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False, comment="canonical JSON"),
    sa.Column("sha256", sa.String(64), nullable=False, comment="over the line before and this one"),
)

# An INSERT OR REPLACE deletes without asking a trigger for deletes, so that inserts are watched too.
_SQLITE_TRIGGERS = (
    "CREATE TRIGGER control_audit_no_update BEFORE UPDATE ON control_audit"
    " BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END",
    "CREATE TRIGGER control_audit_no_delete BEFORE DELETE ON control_audit"
    " BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END",
    "CREATE TRIGGER control_audit_in_order BEFORE INSERT ON control_audit"
    " WHEN NEW.number <> (SELECT coalesce(max(number), 0) + 1 FROM control_audit)"
    " BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END",
)
_POSTGRES_TRIGGERS = (
    "CREATE FUNCTION control_audit_refuse() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$",
    "CREATE TRIGGER control_audit_no_change BEFORE UPDATE OR DELETE ON control_audit"
    " FOR EACH ROW EXECUTE FUNCTION control_audit_refuse()",
    "CREATE TRIGGER control_audit_no_truncate BEFORE TRUNCATE ON control_audit"
    " FOR EACH STATEMENT EXECUTE FUNCTION control_audit_refuse()",
)
for _dialect, _statements in (("sqlite", _SQLITE_TRIGGERS), ("postgresql", _POSTGRES_TRIGGERS)):
    for _statement in _statements:
        sa.event.listen(audit, "after_create", sa.DDL(_statement).execute_if(dialect=_dialect))  # type: ignore[no-untyped-call]
