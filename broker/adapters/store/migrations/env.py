"""Alembic's entry: runs the migrations on the connection that `engine.open_engine` hands over, in its transaction."""

from alembic import context

from broker.adapters.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, transaction_per_migration=False
)
context.run_migrations()
