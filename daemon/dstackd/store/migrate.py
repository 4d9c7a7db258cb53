"""Bringing the schema to the newest revision. Law: all revisions run in one transaction, one program at a time; a newer schema is refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.errors import ConfigError
from dstackd.store.engine import Database

LOCK = 0x6473_7461_636B_64
"""The key of the advisory lock: `dstackd`."""
OTHERS_S = 0.2
"""Between two tries while another program migrates."""


@dataclass(frozen=True, slots=True)
class SchemaPosition:
    """Where the database is, and where this program's newest revision is. `current` None: empty database."""

    current: str | None
    head: str
    known: bool

    @property
    def up_to_date(self) -> bool:
        """The schema is exactly the one this program was written for."""
        return self.current == self.head


def migrations_directory() -> Path:
    """The revisions: inside the wheel, or at the top of a checkout."""
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "_migrations", package.parent.parent / "migrations"):
        if (candidate / "env.py").is_file():
            return candidate
    message = "the migrations are missing from this installation; install the wheel again"
    raise ConfigError(message)


async def schema_position(database: Database) -> SchemaPosition:
    """Compare the database with the packaged revisions."""

    async def work(connection: AsyncConnection) -> SchemaPosition:
        return await connection.run_sync(_position)

    return await database.read(work)


async def upgrade(database: Database) -> SchemaPosition:
    """Upgrade to the newest revision, in one transaction; returns the position from before.

    Raises ConfigError when the database is newer than this program.
    """

    async def work(connection: AsyncConnection) -> SchemaPosition | None:
        if database.server is not None and not await _is_ours_alone(connection):
            return None
        return await connection.run_sync(_upgrade)

    await anyio.to_thread.run_sync(_import_alembic)  # 0.3 s of imports, off the loop
    while (before := await database.alter(work)) is None:  # noqa: ASYNC110 - another process has to end
        await anyio.sleep(OTHERS_S)
    return before


async def _is_ours_alone(connection: AsyncConnection) -> bool:
    """Whether no other program migrates this PostgreSQL database; until the end of the transaction. SQLite's transactions exclude each other.

    Who comes second has to see what the first one did, and not the picture that its transaction began with.
    """
    await connection.execute(text("SET TRANSACTION ISOLATION LEVEL READ COMMITTED"))
    found = await connection.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": LOCK})
    return bool(found.scalar_one())


def _import_alembic() -> None:
    import alembic.command  # noqa: F401, PLC0415 - see upgrade


def _position(connection: Connection) -> SchemaPosition:
    from alembic.runtime.migration import MigrationContext  # noqa: PLC0415 - slow to import
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    scripts = ScriptDirectory(str(migrations_directory()))
    current = MigrationContext.configure(connection).get_current_revision()
    head = scripts.get_current_head()
    known = current is None or any(
        script.revision == current for script in scripts.walk_revisions()
    )
    return SchemaPosition(current=current, head=head or "", known=known)


def _upgrade(connection: Connection) -> SchemaPosition:
    from alembic import command  # noqa: PLC0415 - slow to import
    from alembic.config import Config  # noqa: PLC0415

    position = _position(connection)
    if not position.known:
        message = (
            f"the database has schema revision {position.current}, which this program does not know "
            f"(newest here: {position.head}); install the newer dstackd again"
        )
        raise ConfigError(message)
    if not position.up_to_date:
        config = Config()
        config.set_main_option("script_location", str(migrations_directory()).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return position
