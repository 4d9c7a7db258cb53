"""Alembic's entry. Law: the caller brings the open connection; nothing is configured here."""

from __future__ import annotations

from alembic import context


def run() -> None:
    """Run the revisions on the connection in `config.attributes`, one transaction around them all."""
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=None,
        transactional_ddl=True,
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        context.run_migrations()


run()
