"""What the rows of `queries` look like, as JSON Schemas. Law: read off the tables, so that a column which is added is described at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Column, Table

from dstackd.store.queries import JOB_COLUMNS, LISTED_COLUMNS
from dstackd.store.tables import ATTEMPT, EVENT, JOB, MACHINE, SCHEDULE

Properties = dict[str, dict[str, Any]]

_TYPES: dict[type, str] = {int: "integer", float: "number"}
"""Every other column is text."""


def job_columns() -> Properties:
    """A job as `find_job` returns it, `cancel_requested` as the 0 or 1 that it is."""
    return _properties(JOB_COLUMNS)


def listed_columns() -> Properties:
    """A job as `list_jobs` returns it: without its spec, with what is known of its newest attempt."""
    return _properties(LISTED_COLUMNS) | _joined(ATTEMPT, "market", "instance_type", "instance_id")


def attempt_columns() -> Properties:
    """An attempt as `job_attempts` returns it."""
    return _properties(ATTEMPT.c) | _joined(MACHINE, "idle_since_ms", "idle_until_ms")


def event_columns() -> Properties:
    """An event as `job_events` returns it."""
    return _properties(EVENT.c)


def machine_columns() -> Properties:
    """A machine as `list_machines` returns it."""
    attempt = _joined(ATTEMPT, "job_id", "number")
    return _properties(MACHINE.c) | {"job_id": attempt["job_id"], "attempt": attempt["number"]}


def schedule_columns() -> Properties:
    """A schedule as `list_schedules` returns it."""
    phase = _described(JOB.c.phase, nullable=True)
    return _properties(SCHEDULE.c) | {"last_job_phase": phase}


def _joined(table: Table, *names: str) -> Properties:
    """Columns of a row that may not be there."""
    return {name: _described(table.c[name], nullable=True) for name in names}


def _properties(columns: Iterable[Column[Any]]) -> Properties:
    return {column.name: _described(column, nullable=bool(column.nullable)) for column in columns}


def _described(column: Column[Any], *, nullable: bool) -> dict[str, Any]:
    name = _TYPES.get(column.type.python_type, "string")
    return {"type": [name, "null"] if nullable else name}
