"""Tables of the fleet database that the aggregator owns and alone writes.

SQLAlchemy Core only, so that the report can import it without a server's dependencies. Migrations
(`aggregator/migrations`) create the same tables; a test holds the two together. Times are Unix seconds.
"""

from __future__ import annotations

import sqlalchemy as sa

from aggregator.summary import METRICS

metadata = sa.MetaData()

vm = sa.Table(
    "vm",
    metadata,
    sa.Column("vm_id", sa.String(64), primary_key=True),
    sa.Column("name", sa.Text, comment="for people; may repeat"),
    sa.Column("hostname", sa.Text, comment="as the agent said at enrolment: evidence, never identity"),
    sa.Column("owner", sa.Text),
    sa.Column("mail", sa.Text),
    sa.Column("tags", sa.Text, nullable=False, server_default="[]", comment="JSON list of texts"),
    sa.Column("power_state", sa.Text, comment="on, off or NULL: from an inventory; NULL is unknown"),
    sa.Column("ips", sa.Text, nullable=False, server_default="[]", comment="JSON list"),
    sa.Column("macs", sa.Text, nullable=False, server_default="[]", comment="JSON list"),
    sa.Column("machine", sa.Text, comment="JSON object the agent sent: system, kernel, architecture"),
    sa.Column("boot", sa.Text, comment="boot id at enrolment"),
    sa.Column("enrolled_s", sa.BigInteger, comment="NULL: known from a CSV, runs no agent yet"),
    sa.Column("generation", sa.Integer, nullable=False, server_default="0", comment="of the newest token given out"),
    # Here and below: a report looks every VM up by its id, and without a rowid that is one search, not two.
    sqlite_with_rowid=False,
)

vm_summary = sa.Table(
    "vm_summary",
    metadata,
    sa.Column("vm_id", sa.String(64), primary_key=True),
    sa.Column("oldest_s", sa.BigInteger, nullable=False, comment="start of the hour of the first sample"),
    sa.Column("newest_s", sa.BigInteger, nullable=False, comment="ts of the newest sample acknowledged"),
    sa.Column("received_s", sa.Double, nullable=False, comment="when the newest push came, aggregator's clock"),
    sa.Column("skew_s", sa.Double, nullable=False, comment="received - sent of the newest push"),
    sa.Column("interval_s", sa.Integer, nullable=False),
    sa.Column(
        "conflicts", sa.BigInteger, nullable=False, comment="samples refused because another with their ts was first"
    ),
    sa.Column("cpu_count", sa.Integer),
    sa.Column("mem_total_bytes", sa.BigInteger),
    sa.Column("disk_total_bytes", sa.BigInteger),
    sa.Column(
        "flags",
        sa.Text,
        nullable=False,
        server_default="[]",
        comment="JSON list: clock_skew, identity_conflict, store_replaced",
    ),
    sa.Column("updated_s", sa.Double, nullable=False),
    sa.Column(
        "node",
        sa.String(64),
        nullable=False,
        server_default=sa.text("''"),
        comment="the aggregator that this VM pushes to and that keeps its history; empty: none has said so yet",
    ),
    sqlite_with_rowid=False,
)

vm_part = sa.Table(
    "vm_part",
    metadata,
    # Few rows: VMs of which a second aggregator holds some history that the first has not taken in yet.
    sa.Column("vm_id", sa.String(64), primary_key=True),
    sa.Column("node", sa.String(64), primary_key=True, comment="the aggregator that holds this part"),
    sa.Column("oldest_s", sa.BigInteger, nullable=False, comment="start of the hour of its first sample"),
    sa.Column("newest_s", sa.BigInteger, nullable=False, comment="ts of its newest sample"),
    sa.Column("noted_s", sa.Double, nullable=False, comment="since when there are two"),
    sa.Column("problem", sa.Text, comment="why it could not be taken in at the last try"),
    sa.Column(
        "mark",
        sa.BigInteger,
        nullable=False,
        server_default=sa.text("0"),
        comment="another each time this is noted: tells whether the part is still the one that was looked at",
    ),
    sqlite_with_rowid=False,
)

node = sa.Table(
    "node",
    metadata,
    sa.Column("node", sa.String(64), primary_key=True),
    sa.Column("admin_url", sa.Text, comment="where the others and the report ask it; NULL: nowhere"),
    sa.Column("listen", sa.Text, comment="host:port of the agents' door"),
    sa.Column("version", sa.Text, nullable=False, comment="of the program"),
    sa.Column("revision", sa.String(8), nullable=False, comment="of the schema that the program was written for"),
    sa.Column("state", sa.String(8), nullable=False, comment="up, draining or stopped"),
    sa.Column("not_ready", sa.Text, comment="why it takes no pushes; NULL: it does"),
    sa.Column("started_s", sa.Double, nullable=False),
    sa.Column("seen_s", sa.Double, nullable=False, comment="when it last said so"),
    sa.Column("vms", sa.BigInteger, nullable=False, comment="VMs it heard of within a day"),
    sa.Column("owed", sa.BigInteger, nullable=False, comment="summaries it has still to write here"),
    sa.Column("free_bytes", sa.BigInteger, comment="room on the disk of its stores"),
    sa.Column("ahead_s", sa.Double, comment="its clock less that of this database; NULL: not told, here and below"),
    sa.Column(
        "key_marks", sa.Text, comment="kid:mark:mark of each key, by which others tell whether theirs is the same"
    ),
    sa.Column("is_leaving", sa.Boolean, comment="it drains for good: others take over what it keeps"),
    sqlite_with_rowid=False,
)

schema_floor = sa.Table(
    "schema_floor",
    metadata,
    # Programs of two versions may run side by side: what the newer one added does not disturb the older.
    sa.Column("part", sa.String(16), primary_key=True, comment="aggregator, report or orchestrate"),
    sa.Column("revision", sa.String(8), nullable=False, comment="a program for an older schema must not write"),
)

vm_window = sa.Table(
    "vm_window",
    metadata,
    # Window first: one report reads one window, which then lies together on disk.
    sa.Column("window_days", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("vm_id", sa.String(64), primary_key=True),
    sa.Column("start_s", sa.BigInteger, nullable=False),
    sa.Column("end_s", sa.BigInteger, nullable=False, comment="ts of the newest sample"),
    sa.Column("covered_s", sa.BigInteger, nullable=False, comment="seconds of the window that samples cover"),
    sa.Column("users_s", sa.BigInteger, nullable=False, comment="seconds with somebody logged in"),
    *(sa.Column(metric.column(statistic), sa.Double) for metric in METRICS for statistic in metric.statistics),
    sqlite_with_rowid=False,
)

vm_evidence = sa.Table(
    "vm_evidence",
    metadata,
    sa.Column("vm_id", sa.String(64), primary_key=True),
    sa.Column(
        "hour_s",
        sa.BigInteger,
        nullable=False,
        comment="start of the open hour: the blob holds the closed ones before it",
    ),
    sa.Column(
        "body", sa.LargeBinary, nullable=False, comment="aggregator.windows: histograms, sums, profile, daily totals"
    ),
)

join_token = sa.Table(
    "join_token",
    metadata,
    sa.Column("secret_sha256", sa.String(64), primary_key=True, comment="the token itself is never kept"),
    sa.Column("created_s", sa.Double, nullable=False),
    sa.Column("expires_s", sa.Double, nullable=False),
    sa.Column("uses_left", sa.Integer, nullable=False),
    sa.Column(
        "labels",
        sa.Text,
        nullable=False,
        server_default="{}",
        comment="JSON: owner, mail, tags for the VMs that use it",
    ),
    sa.Column("id", sa.String(8), nullable=False, server_default=sa.text("''"), comment="public: start of its SHA-256"),
    sa.Column("created_by", sa.Text, comment="who minted it; NULL: nobody said"),
    sa.Column("uses", sa.Integer, nullable=False, server_default="0", comment="enrolments it was good for at first"),
    sa.Column("revoked_s", sa.Double),
    sa.Column("bound_to", sa.String(8), comment="vm, pool, network or NULL: any VM from anywhere"),
    sa.Column("bound_value", sa.Text),
)

inventory_vm = sa.Table(
    "inventory_vm",
    metadata,
    # VM first: an enrolment looks one VM up, whichever source knows it.
    sa.Column("vm_id", sa.String(64), primary_key=True),
    sa.Column("source", sa.String(64), primary_key=True, comment="a hypervisor, a site or a file"),
    sa.Column("macs", sa.Text, nullable=False, server_default="[]", comment="JSON list: aa:bb:cc:dd:ee:ff"),
    sa.Column("pool", sa.Text),
    sa.Column("host", sa.Text),
    sa.Column("seen_s", sa.Double, nullable=False, comment="when the source was last asked"),
    sqlite_with_rowid=False,
)

enrolment_wait = sa.Table(
    "enrolment_wait",
    metadata,
    sa.Column("vm_id", sa.String(64), primary_key=True),
    sa.Column("request", sa.String(8), primary_key=True, comment="begins the SHA-256 of host name, MACs, boot"),
    sa.Column("asked_s", sa.Double, nullable=False, comment="first"),
    sa.Column("again_s", sa.Double, nullable=False, comment="last"),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("evidence", sa.Text, nullable=False, comment="JSON object: what the VM said, from where"),
    sa.Column("state", sa.String(8), nullable=False, comment="waiting, approved or refused"),
    sa.Column("decided_by", sa.Text),
    sa.Column("decided_s", sa.Double),
    sqlite_with_rowid=False,
)

revocation = sa.Table(
    "revocation",
    metadata,
    sa.Column("vm_id", sa.String(64), primary_key=True),
    sa.Column("below_generation", sa.Integer, nullable=False, comment="tokens of an older generation are refused"),
    sa.Column(
        "reason", sa.Text, nullable=False, comment="revoked, identity-conflict, forgotten, re-enrolled or rotated"
    ),
    sa.Column("created_s", sa.Double, nullable=False),
)
