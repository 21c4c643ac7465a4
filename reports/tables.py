"""Tables of the fleet database that the report owns and alone writes.

Beside those of the aggregator (`aggregator.fleet`), with a migration history of their own: `reports/migrations`
creates the same tables; a test holds the two together. Times are Unix seconds.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

exemption = sa.Table(
    "exemption",
    metadata,
    sa.Column("id", sa.Text, primary_key=True, comment="short and random: people type it"),
    sa.Column("kind", sa.Text, nullable=False, comment="vm, tag or name"),
    sa.Column("subject", sa.Text, nullable=False, comment="a VM id, a tag, or a glob pattern over names and VM ids"),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("owner", sa.Text, nullable=False, comment="who asked for it"),
    sa.Column("created_s", sa.Double, nullable=False),
    sa.Column("until_s", sa.Double, nullable=False, comment="every exemption expires"),
    sa.Column("ended_s", sa.Double, comment="NULL: nobody ended it"),
    sa.Column("ended_by", sa.Text),
)

judging = sa.Table(
    "judging",
    metadata,
    sa.Column("scope", sa.Text, primary_key=True, comment="policy and window, such as fallow-balanced/14d"),
    sa.Column("settings_sha256", sa.Text, nullable=False, comment="of all that the verdicts depend on but the data"),
    sa.Column("judged_s", sa.Double, nullable=False, comment="time against which silence and expiry were measured"),
    sa.Column("began_s", sa.Double, nullable=False),
    sa.Column("vms", sa.BigInteger, nullable=False),
    sa.Column("totals", sa.Text, nullable=False, comment="JSON object"),
)

verdict = sa.Table(
    "verdict",
    metadata,
    # Scope first: one report reads one scope, which then lies together on disk.
    sa.Column("scope", sa.Text, primary_key=True),
    sa.Column("vm_id", sa.String(64), primary_key=True),
    sa.Column("cause", sa.Text, nullable=False),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("score", sa.Double, nullable=False, comment="a list of reclaimable VMs is ordered by it, falling"),
    sa.Column("confidence_ratio", sa.Double, nullable=False),
    sa.Column("vcpus", sa.Double, comment="here and below: what acting on the verdict frees; NULL is unknown"),
    sa.Column("mem_bytes", sa.Double),
    sa.Column("disk_bytes", sa.Double),
    sa.Column("energy_kwh_per_month", sa.Double),
    sa.Column("money_per_month", sa.Double),
    sa.Column("hours_per_week", sa.Double, comment="NULL but for a VM that can be off at certain hours"),
    sa.Column("judged_s", sa.Double, nullable=False),
    sa.Column("cpu_mean_ratio", sa.Double),
    sa.Column("cpu_p95_ratio", sa.Double),
    sa.Column("mem_mean_ratio", sa.Double),
    sa.Column("net_mean_bytes_per_s", sa.Double),
    sa.Column("name", sa.Text),
    sa.Column("owner", sa.Text),
    sa.Column("search", sa.Text, nullable=False, comment="lower case: what a search looks in"),
    sqlite_with_rowid=False,
)
sa.Index("verdict_rank", verdict.c.scope, verdict.c.verdict, verdict.c.score.desc(), verdict.c.vm_id)

delivery = sa.Table(
    "delivery",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, comment="of the delivery in the settings"),
    sa.Column("kind", sa.Text, nullable=False, comment="mail, webhook or directory"),
    sa.Column("target", sa.Text, nullable=False, comment="for people; never a secret"),
    sa.Column("due_s", sa.Double, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("next_attempt_s", sa.Double),
    sa.Column("state", sa.Text, nullable=False, comment="pending, sent or failed"),
    sa.Column("problem", sa.Text),
    sa.Column("finished_s", sa.Double),
    sa.Column("report_key", sa.Text, nullable=False, comment="one for each time it is due"),
    sa.Column("subject", sa.Text),
    # What makes a report go out once, however many processes find it due.
    sa.UniqueConstraint("name", "report_key", name="delivery_once"),
    # Here and below: the number of a row that went is not given to another.
    sqlite_autoincrement=True,
)

reclaim_event = sa.Table(
    "reclaim_event",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at_s", sa.Double, nullable=False),
    sa.Column("vm_id", sa.String(64), nullable=False),
    sa.Column("kind", sa.Text, nullable=False, comment="reclaimed, kept, objected or returned"),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("vcpus", sa.Double, comment="here and below: what it freed; NULL is unknown"),
    sa.Column("mem_bytes", sa.Double),
    sa.Column("money_per_month", sa.Double),
    sqlite_autoincrement=True,
)
sa.Index("reclaim_event_vm", reclaim_event.c.vm_id, reclaim_event.c.at_s)

people_account = sa.Table(
    "people_account",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("role", sa.Text, nullable=False, comment="viewer, operator, approver or admin"),
    sa.Column("password_hash", sa.Text, comment="of argon2; NULL: no password opens it"),
    sa.Column("subject", sa.Text, unique=True, comment="issuer and subject of OpenID Connect; NULL: a local account"),
    sa.Column("created_s", sa.Double, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("disabled_s", sa.Double, comment="NULL: it is enabled"),
)

people_session = sa.Table(
    "people_session",
    metadata,
    sa.Column("token_sha256", sa.String(64), primary_key=True, comment="of what the cookie holds"),
    sa.Column("account", sa.String(64), nullable=False),
    sa.Column("begun_s", sa.Double, nullable=False),
    sa.Column("seen_s", sa.Double, nullable=False, comment="to some minutes"),
    sa.Column("address", sa.Text, nullable=False),
)
sa.Index("people_session_account", people_session.c.account)

people_token = sa.Table(
    "people_token",
    metadata,
    sa.Column("id", sa.String(8), primary_key=True, comment="public: to list and revoke by"),
    sa.Column("account", sa.String(64), nullable=False),
    sa.Column("label", sa.Text, nullable=False, comment="what it is for"),
    sa.Column("scope", sa.Text, nullable=False, comment="read, write, approve or admin"),
    sa.Column("secret_sha256", sa.String(64), nullable=False),
    sa.Column("created_s", sa.Double, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("until_s", sa.Double, nullable=False),
    sa.Column("used_s", sa.Double, comment="last, to some minutes; NULL is never"),
    sa.Column("revoked_s", sa.Double),
)
sa.Index("people_token_account", people_token.c.account)

people_link = sa.Table(
    "people_link",
    metadata,
    sa.Column("secret_sha256", sa.String(64), primary_key=True),
    sa.Column("kind", sa.Text, nullable=False, comment="first or password"),
    sa.Column("account", sa.String(64), comment="whose password it sets; NULL for the first admin"),
    sa.Column("made_by", sa.Text, nullable=False),
    sa.Column("until_s", sa.Double, nullable=False),
    sa.Column("used_s", sa.Double, comment="it opens once"),
)

people_event = sa.Table(
    "people_event",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at_s", sa.Double, nullable=False),
    sa.Column("who", sa.Text, nullable=False, comment="an account, or what was typed for one"),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False, comment="never a secret"),
    sa.Column("address", sa.Text, nullable=False, comment="of the client; empty at the command line"),
    sqlite_autoincrement=True,
)
sa.Index("people_event_time", people_event.c.at_s)
