"""Values that a database cannot hold, in rows that others want written. Law: looked for only after the database has refused; text is made
legible and whole numbers are cut off, never left out.

PostgreSQL's text has no NUL, neither database's has half of a surrogate pair, and both have 64 bits for a whole number. Such values come from
machines and from specs, and one of them must not stop the other rows of its transaction.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from dstackd.store.failures import sqlstate

REFUSALS: tuple[type[Exception], ...] = (DBAPIError, UnicodeEncodeError, OverflowError)
"""The last two are what drivers raise as it is, before they ask the database."""
REPLACEMENT = "\ufffd"

_OPTION = "dstackd_legible"
_ILLEGIBLE = re.compile("[\0\ud800-\udfff]")
_INTEGER_MAX = 2**63 - 1


def is_bad_value(error: Exception) -> bool:
    """Whether a value and not the statement was refused. SQLSTATE class 22 is `data exception`; asyncpg's own checks have no state."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, REFUSALS)
    state = sqlstate(error)
    return (
        state.startswith("22") if state else "invalid input for query argument" in str(error.orig)
    )


def legible(engine: AsyncEngine) -> AsyncEngine:
    """The same engine, for a transaction that is run again."""
    return engine.execution_options(**{_OPTION: True})


def make_legible(engine: AsyncEngine) -> None:
    """Have `legible(engine)` send only what every column of text and number holds."""

    @event.listens_for(engine.sync_engine, "before_cursor_execute", retval=True)
    def look(
        connection: Connection,
        _cursor: object,
        statement: str,
        parameters: Any,  # noqa: ANN401 - of the driver's shape
        *_: object,
    ) -> tuple[str, Any]:
        if connection.get_execution_options().get(_OPTION):
            return statement, _legible(parameters)
        return statement, parameters


def _legible(value: Any) -> Any:  # noqa: ANN401 - of the driver's shape
    match value:
        case str():
            return _ILLEGIBLE.sub(REPLACEMENT, value)
        case bool():
            return value
        case int():
            return max(-_INTEGER_MAX - 1, min(_INTEGER_MAX, value))
        case tuple():
            return tuple(map(_legible, value))
        case list():
            return list(map(_legible, value))
        case Mapping():
            return {name: _legible(each) for name, each in value.items()}
        case _:
            return value
