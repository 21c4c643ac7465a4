"""Run by Alembic: applies the steps on the connection, and in the transaction, that `fleet_db.migrate` hands in."""

from __future__ import annotations

from alembic import context

handed_in = context.config.attributes
context.configure(connection=handed_in["connection"], version_table=handed_in["version_table"], transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
