"""The schema comes up, goes down and comes up again, and is what the code believes it to be."""

from __future__ import annotations

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import SQLModel

from dstackd.errors import ConfigError
from dstackd.store import tables
from dstackd.store.engine import Database
from dstackd.store.migrate import migrations_directory, schema_position, upgrade


def table_names(connection: Connection) -> set[str]:
    """Tables that are there, without alembic's own."""
    return set(inspect(connection).get_table_names()) - {"alembic_version"}


def downgrade(connection: Connection) -> None:
    """Back to an empty database."""
    config = Config()
    config.set_main_option("script_location", str(migrations_directory()))
    config.attributes["connection"] = connection
    command.downgrade(config, "base")


async def test_up_down_and_up_again(either: Database) -> None:
    """Going down leaves nothing behind that would be in the way of coming up."""

    async def go_down(connection: AsyncConnection) -> set[str]:
        await connection.run_sync(downgrade)
        return await connection.run_sync(table_names)

    assert (await schema_position(either)).up_to_date
    assert await either.write(go_down) == set()
    position = await upgrade(either)
    assert position.current is None
    assert (await schema_position(either)).up_to_date
    assert (await upgrade(either)).up_to_date


async def test_the_code_knows_every_column(either: Database) -> None:
    """Tables, column names and what may be null are the same in the database and in the code."""

    def columns(connection: Connection) -> dict[str, dict[str, bool]]:
        found = inspect(connection)
        return {
            table: {column["name"]: bool(column["nullable"]) for column in found.get_columns(table)}
            for table in table_names(connection)
        }

    async def work(connection: AsyncConnection) -> dict[str, dict[str, bool]]:
        return await connection.run_sync(columns)

    assert tables.JOB.name == "job"
    known = {
        table.name: {column.name: bool(column.nullable) for column in table.columns}
        for table in SQLModel.metadata.tables.values()
    }
    migrated = await either.read(work)
    if either.path is not None:  # SQLite calls a key nullable that its NOT NULL does not name
        for table in SQLModel.metadata.tables.values():
            for column in table.primary_key:
                migrated[table.name][column.name] = False
    assert migrated == known


async def test_a_newer_schema_is_refused(either: Database) -> None:
    """A daemon that is older than its database says so and touches nothing."""

    async def from_the_future(connection: AsyncConnection) -> None:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    await either.write(from_the_future)
    with pytest.raises(ConfigError, match="9999"):
        await upgrade(either)
