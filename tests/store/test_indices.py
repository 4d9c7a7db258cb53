"""What runs on every pass finds its rows by an index, however long the history is."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.store import inputs, jobs, launches, leaving, logs, machines, reaping, watch
from dstackd.store.engine import Database
from tests.builders import NOW_MS

Read = Callable[[AsyncConnection], Awaitable[object]]

# Every job, attempt and machine that ever was may be in these tables; a scan of one without an index is a fault.
LONG = ("job", "attempt", "machine", "event", "launch")

READS: dict[str, tuple[Read, str]] = {
    "submissions": (lambda c: jobs.submissions(c, count_max=200), "job_submitted"),
    "queued": (lambda c: jobs.queued_jobs(c, due_at_ms=NOW_MS, count_max=100), "job_queued"),
    "to stage": (jobs.jobs_to_stage, "job_queued"),
    "needed inputs": (inputs.needed_digests, "job_live"),
    "queued with inputs": (lambda c: inputs.queued_with(c, {"a"}), "job_queued"),
    "due": (lambda c: jobs.ids_with_machines(c, due_at_ms=NOW_MS), "job_live"),
    "with machines": (jobs.ids_with_machines, "job_live"),
    "open launches": (launches.open_launches, "launch_open"),
    "live machines": (machines.live_machines, "machine_live"),
    "anything live": (machines.anything_live, "machine_live"),
    "leaving": (leaving.leaving_attempts, "attempt_ended"),
    "with attempts": (lambda c: jobs.jobs_with_machines(c, ["job-1"]), "sqlite_autoindex_attempt"),
    "leavers": (lambda c: reaping.leavers(c, now_ms=NOW_MS), "machine_live"),
    "needed": (lambda c: machines.needed(c, now_ms=NOW_MS), "attempt_ended"),
    "wanted logs": (lambda c: logs.wanted_logs(c, ended_after_ms=NOW_MS), "attempt_ended"),
}


@contextmanager
def recorded(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """The SQL that goes to the reader, with its parameters."""
    seen: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, values: Any, *_: object) -> None:  # noqa: ANN401 - as SQLAlchemy gives it
        seen.append((statement, values))

    engine = database._reader.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine, "before_cursor_execute", note)


async def plan_of(database: Database, read: Read) -> str:
    """SQLite's plan of every statement that the read runs."""
    with recorded(database) as statements:
        await database.read(read)
    asked = list(statements)

    async def explain(connection: AsyncConnection) -> list[str]:
        lines: list[str] = []
        for statement, values in asked:
            found: Any = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
            lines += [row.detail for row in found]
        return lines

    return "\n".join(await database.read(explain))


@pytest.mark.parametrize("name", READS)
async def test_a_pass_scans_no_history(name: str, database: Database) -> None:
    """The partial index is used, no table is scanned without one, and nothing is sorted for the queue."""
    read, index = READS[name]
    plan = await plan_of(database, read)
    assert index in plan, plan
    scans = re.findall(rf"SCAN ({'|'.join(LONG)})(?! USING)", plan)
    assert scans == [], plan
    if name in {"submissions", "queued"}:
        assert "TEMP B-TREE" not in plan


async def test_the_commit_watch_looks_at_two_indices(database: Database) -> None:
    """It looks after every commit of anybody, so it must not depend on how much there is."""

    async def explain(connection: AsyncConnection) -> str:
        found = await connection.execute(text(f"EXPLAIN QUERY PLAN {watch._PROBE}"))
        return "\n".join(str(row[3]) for row in found)

    plan = await database.read(explain)
    assert "job_submitted" in plan
    assert "job_live" in plan
