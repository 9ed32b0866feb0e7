"""What Alembic runs: the migrations, on the connection and in the transaction that ``db.migrate`` opened."""  # noqa: INP001 (Alembic runs it by path)

from alembic import context

from banua_collector.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
context.run_migrations()
