"""What an error of the database asks for. Law: a judgement on its kind alone; a statement that is wrong is neither busy nor an outage, and stays what it is.

PostgreSQL's codes are SQLSTATE (its documentation, appendix A). What its driver raises when the server goes away was measured with
asyncpg 0.32 and SQLAlchemy 2.1, over twelve restarts, fast and immediate: OSError while nobody listens, class 57 while it starts, 08003
on a connection that broke, and now and then an internal error of the driver's own on the statement after that.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

_SQLITE_BUSY = ("database is locked", "database table is locked")
_POSTGRES_BUSY = frozenset({"40001", "40P01", "55P03"})
"""Serialization failure, deadlock, lock not available: nothing was done, and the same work may be done now."""
_POSTGRES_OUTAGE = ("08", "25006", "53", "57", "58")
"""Connection lost, read-only (a standby), out of disk, memory or connections, an operator's doing, a failure of the system."""


def is_busy(error: DBAPIError | OSError) -> bool:
    """Whether somebody else was first: nothing was written, and the work may run again."""
    if isinstance(error, OSError):
        return False
    state = _sqlstate(error)
    return state in _POSTGRES_BUSY if state else str(error.orig).startswith(_SQLITE_BUSY)


def is_outage(error: DBAPIError | OSError) -> bool:
    """Whether the database does not work, or cannot be reached. What was under way may have been committed."""
    if isinstance(error, OSError) or error.connection_invalidated:
        return True
    state = _sqlstate(error)
    if state:
        return state.startswith(_POSTGRES_OUTAGE)
    return isinstance(error, OperationalError) and not is_busy(error)


def in_words(error: DBAPIError | OSError) -> str:
    """For the log."""
    if isinstance(error, OSError):
        return f"the database cannot be reached: {error}"
    return str(error.orig)


def drop_broken_connections(engine: AsyncEngine) -> None:
    """Have the pool forget a connection whose driver has lost its way: it would answer every later statement with that error."""
    broken = getattr(engine.dialect.loaded_dbapi, "InternalClientError", None)

    @event.listens_for(engine.sync_engine, "handle_error")
    def judge(context: ExceptionContext) -> None:
        if broken is not None and isinstance(context.original_exception, broken):
            context.is_disconnect = True


def _sqlstate(error: DBAPIError) -> str:
    """Five characters; empty on SQLite, and for what the driver and not the server said."""
    orig: Any = error.orig
    return getattr(orig, "sqlstate", None) or ""
