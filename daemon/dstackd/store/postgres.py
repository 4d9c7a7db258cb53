"""Connections to PostgreSQL. Law: whatever a server or a network does, a statement ends; what is between us and the server is found out, not asked for.

`database.url` is libpq's: several hosts (`?host=a,b&port=5432,5433`), `sslmode`, `target_session_attrs` and the like are asyncpg's to read.
Figures and reasons: daemon/decisions/0023.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import URL, Dialect
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from dstackd.errors import ConfigError
from dstackd.store.bad_values import make_legible
from dstackd.store.failures import drop_broken_connections

try:
    import asyncpg  # type: ignore[import-untyped]  # it ships no types
except ImportError:  # the extra `postgres` is not installed
    asyncpg = None

CONNECT_S = 10.0
"""To one host: one that does not answer at all must not hold up the others, nor the daemon's end, for a minute."""
STATEMENT_S = 30.0
"""For one statement, its way there and back included; all of ours take milliseconds. Migrations have no bound."""
LOCK_S = 2.0
"""How long a statement waits for a row that an application has changed and not committed."""
ABANDONED_S = 60.0
"""A transaction of ours in which nothing happens for so long belongs to a process that hangs: the server ends it."""

CONNECTION_ERRORS: tuple[type[Exception], ...] = (OSError,)
"""What a connection outside SQLAlchemy raises."""
if asyncpg is not None:
    CONNECTION_ERRORS += (
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
    )

_SESSION = f"""SET lock_timeout = '{LOCK_S:.0f}s';
SET idle_in_transaction_session_timeout = '{ABANDONED_S:.0f}s'"""


class PostgresServer:
    """Where the queue is: a host or several, of which the first that takes writes is the one."""

    def __init__(self, url: URL) -> None:
        """Raises ConfigError when the driver is not installed."""
        if asyncpg is None:
            raise ConfigError(
                "database.url: PostgreSQL needs its driver: pip install 'dstackd[postgres]'"
            )
        self._hosts = _hosts_of(url)
        self._is_pooled = False

    @property
    def is_pooled(self) -> bool:
        """Whether a pooler (pgbouncer, …) stands before the server; known once something is connected."""
        return self._is_pooled

    async def connect(self, *, statement_s: float | None = STATEMENT_S) -> Any:  # noqa: ANN401 - asyncpg has no types
        """A new connection. Raises OSError, or an error of asyncpg's.

        Behind a pooler the next transaction may be on another session of the server: nothing that a session keeps may be
        used, prepared statements above all, and none of its settings may be changed for whoever comes next.
        """
        connection = await self._to_any_host(statement_s)
        if not self._is_pooled and not await _is_direct(connection):
            connection.terminate()
            self._is_pooled = True
            connection = await self._to_any_host(statement_s)
        if not self._is_pooled:
            await connection.execute(_SESSION)
        return connection

    def engine(self, *, statement_s: float | None = STATEMENT_S) -> AsyncEngine:
        """Transactions see one picture from their first statement on, as SQLite's do: in PostgreSQL's default each statement
        sees its own, and a machine could be in none of two lists that were read one after the other.
        """
        engine = create_async_engine(
            "postgresql+asyncpg://", pool_size=5, isolation_level="REPEATABLE READ"
        )

        @event.listens_for(engine.sync_engine, "do_connect")
        def connect(dialect: Dialect, *_: object) -> object:
            return dialect.loaded_dbapi.connect(
                async_creator_fn=lambda: self.connect(statement_s=statement_s),
                prepared_statement_cache_size=0 if self._is_pooled else 100,
            )

        @event.listens_for(engine.sync_engine, "checkout")
        def is_open(connection: Any, *_: object) -> None:  # noqa: ANN401 - SQLAlchemy's DBAPI wrapper has no type
            # What a restarted server has closed is known without asking it; its pre-ping would cost three round trips.
            if connection.driver_connection.is_closed():
                raise DisconnectionError

        drop_broken_connections(engine)
        make_legible(engine)
        return engine

    async def _to_any_host(self, statement_s: float | None) -> Any:  # noqa: ANN401 - asyncpg has no types
        """The driver's own loop over hosts has one time limit for all of them: a dead first one would use it up."""
        problem: Exception | None = None
        for host in self._hosts:
            try:
                return await asyncpg.connect(
                    host,
                    timeout=CONNECT_S,
                    command_timeout=statement_s,
                    **({"statement_cache_size": 0} if self._is_pooled else {}),
                )
            except ValueError as error:
                raise ConfigError(f"database.url: {error}") from error
            except CONNECTION_ERRORS as error:
                problem = problem or error
        raise problem or ConfigError("database.url names no host")


async def _is_direct(connection: Any) -> bool:  # noqa: ANN401 - asyncpg has no types
    """Whether the process that greeted us is the one that works for us: a pooler greets with a number of its own.

    As a simple query: a pooler that does not know prepared statements must not be asked with one.
    """
    greeted = connection.get_server_pid()
    status = await connection.execute(f"SELECT 1 WHERE pg_backend_pid() = {greeted:d}")
    return bool(status == "SELECT 1")


def _hosts_of(url: URL) -> list[str]:
    """One connection string a host; of several the one that can be written to is wanted, if the URL does not say otherwise."""
    url = url.set(drivername="postgresql")
    hosts, ports = (",".join(url.normalized_query.get(name, ())) for name in ("host", "port"))
    url = url.difference_update_query(["host", "port"])
    if "target_session_attrs" not in url.query:
        url = url.update_query_dict({"target_session_attrs": "read-write"})
    found = [url]
    if hosts:
        names = hosts.split(",")
        numbers = ports.split(",") if ports else [""]
        if len(numbers) not in {1, len(names)}:
            raise ConfigError(f"database.url: {len(names)} hosts and {len(numbers)} ports")
        numbers = numbers * len(names) if len(numbers) == 1 else numbers
        found = [
            url.update_query_dict({"host": name} | ({"port": number} if number else {}))
            for name, number in zip(names, numbers, strict=True)
        ]
    return [each.render_as_string(hide_password=False) for each in found]
