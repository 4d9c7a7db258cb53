"""What an error of the database asks for. Law: a judgement on its kind alone; a statement that is wrong is neither busy nor an outage, and stays what it is.

PostgreSQL's codes are SQLSTATE (its documentation, appendix A). What its driver raises when the server goes away was measured with
asyncpg 0.32 and SQLAlchemy 2.1, over twelve restarts, fast and immediate: OSError while nobody listens, class 57 while it starts, 08003
on a connection that broke, and now and then an internal error of the driver's own on the statement after that. A statement that takes
too long ends with TimeoutError, which is an OSError.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

_SQLITE_BUSY = ("database is locked", "database table is locked")
_POSTGRES_BUSY = frozenset({"40001", "40P01"})
"""Serialization failure, deadlock: nothing was done, and the same work may be done now."""
_POSTGRES_LOCKED = "55P03"
"""Lock not available, after `postgres.LOCK_S`."""
_STANDBY = "25006"
"""A write in a read-only transaction: the server was the primary when we connected, and is none any more."""
_NO_PRIMARY = "TargetServerAttributeNotMatched"
"""The driver's: no host of the URL takes writes now."""
_NO_STATEMENT = ("26000", "42P05")
"""A prepared statement is not there, or is there already: a pooler has come between us and the server."""
_POSTGRES_OUTAGE = ("08", _STANDBY, "25P03", *_NO_STATEMENT, "28", "3D", "53", "57", "58")
"""Connection lost; a standby; a transaction of ours that stalled; as above; password or database not (yet) there; out of disk, memory or
connections; an operator's doing; a failure of the system.
"""


def is_busy(error: DBAPIError | OSError) -> bool:
    """Whether somebody else was first: nothing was written, and the work may run again."""
    if isinstance(error, OSError):
        return False
    state = sqlstate(error)
    return state in _POSTGRES_BUSY if state else str(error.orig).startswith(_SQLITE_BUSY)


def is_locked(error: DBAPIError | OSError) -> bool:
    """Whether a row stayed locked (PostgreSQL): nothing was written, and others' rows may be written meanwhile."""
    return isinstance(error, DBAPIError) and sqlstate(error) == _POSTGRES_LOCKED


def is_outage(error: DBAPIError | OSError) -> bool:
    """Whether the database does not work, or cannot be reached. What was under way may have been committed."""
    if isinstance(error, OSError) or error.connection_invalidated:
        return True
    state = sqlstate(error)
    if state:
        return state.startswith(_POSTGRES_OUTAGE)
    if error.orig is not None and type(error.orig.__cause__).__name__ == _NO_PRIMARY:
        return True
    return isinstance(error, OperationalError) and not is_busy(error)


def in_words(error: DBAPIError | OSError) -> str:
    """For the log."""
    if isinstance(error, TimeoutError):
        return "the database does not answer"
    if isinstance(error, OSError):
        return f"the database cannot be reached: {error}"
    return str(error.orig)


def drop_broken_connections(engine: AsyncEngine) -> None:
    """Have the pool forget connections on which nothing good can follow: the driver has lost its way on it and would answer every later
    statement with that error; the server has not answered in time; it is a standby now.
    """
    broken = getattr(engine.dialect.loaded_dbapi, "InternalClientError", OSError)

    @event.listens_for(engine.sync_engine, "handle_error")
    def judge(context: ExceptionContext) -> None:
        error = context.original_exception
        state = getattr(error, "sqlstate", None) or ""
        if isinstance(error, (broken, OSError)) or state.startswith((_STANDBY, *_NO_STATEMENT)):
            context.is_disconnect = True


def sqlstate(error: DBAPIError) -> str:
    """Five characters; empty on SQLite, and for what the driver and not the server said."""
    orig: Any = error.orig
    return getattr(orig, "sqlstate", None) or ""
