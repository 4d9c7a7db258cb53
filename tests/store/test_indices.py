"""What runs on every pass finds its rows by an index, however long the history is."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.clock import SystemClock
from dstackd.store import (
    archive,
    held,
    inputs,
    jobs,
    launches,
    leaving,
    logs,
    machines,
    reaping,
    retention,
    watch,
)
from dstackd.store.engine import Database, open_database
from tests.builders import NOW_MS

Read = Callable[[AsyncConnection], Awaitable[object]]

# Every job, attempt and machine that ever was may be in these tables; a scan of one without an index is a fault.
LONG = ("job", "attempt", "machine", "event", "launch")

READS: dict[str, tuple[Read, str]] = {
    "submissions": (lambda c: jobs.submissions(c, count_max=200), "job_submitted"),
    "queued": (lambda c: jobs.queued_jobs(c, due_at_ms=NOW_MS, count_max=100), "job_queued"),
    "to stage": (jobs.jobs_to_stage, "job_inputs"),
    "held and due": (lambda c: held.held_jobs(c, due_at_ms=NOW_MS, count_max=500), "job_held"),
    "next held": (held.next_held_visit, "job_held"),
    "needed inputs": (inputs.needed_digests, "job_inputs"),
    "queued with inputs": (lambda c: inputs.queued_with(c, {"a"}), "job_inputs"),
    "open arrays": (jobs.open_arrays, "job_open_array"),
    "long over": (lambda c: archive.long_over(c, before_ms=NOW_MS, count_max=9), "job_finished"),
    "old logs": (
        lambda c: retention.finished_before(c, {"job-1"}, before_ms=NOW_MS),
        "sqlite_autoindex_job_1",
    ),
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
    """The database's plan of every statement that the read runs."""
    verb = "EXPLAIN QUERY PLAN" if database.path else "EXPLAIN"
    with recorded(database) as statements:
        await database.read(read)
    asked = [each for each in statements if each[0].startswith(("SELECT", "WITH"))]

    async def explain(connection: AsyncConnection) -> list[str]:
        lines: list[str] = []
        for statement, values in asked:
            found: Any = await connection.exec_driver_sql(f"{verb} {statement}", values)
            lines += [str(row[-1]) for row in found]
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
    if name in {"submissions", "held and due", "next held"}:
        assert "TEMP B-TREE" not in plan


async def test_the_commit_watch_looks_at_two_indices(database: Database) -> None:
    """It looks after every commit of anybody, so it must not depend on how much there is."""

    async def explain(connection: AsyncConnection) -> str:
        found = await connection.execute(text(f"EXPLAIN QUERY PLAN {watch.PROBE}"))
        return "\n".join(str(row[3]) for row in found)

    plan = await database.read(explain)
    assert "job_submitted" in plan
    assert "job_live" in plan


# Around the triggers.
_PAST = """
SET LOCAL session_replication_role = replica;
INSERT INTO job (spec, phase, finished_at_ms, backend)
    SELECT '{}', 'succeeded', 1700000000000 + i, 'main' FROM generate_series(1, 20000) AS n (i);
INSERT INTO attempt (job_id, number, launch_id, launch_index, instance_type, zone, market, price_usd_h, ended_at_ms)
    SELECT id, 1, 'launch-' || seq, 0, 't', 'z', 'spot', 1, finished_at_ms FROM job;
INSERT INTO launch (id, backend, client_token, request, document, offering, price_usd_h, count, state, created_at_ms,
        answered_at_ms)
    SELECT 'launch-' || seq, 'main', 't' || seq, '{}', '{}', '', 1, 1, 'answered', seq, seq FROM job;
INSERT INTO machine (instance_id, backend, launch_id, launch_index, instance_type, zone, market, price_usd_h,
        launched_at_ms, gone_at_ms)
    SELECT 'i-' || seq, 'main', 'launch-' || seq, 0, 't', 'z', 'spot', 1, seq, seq FROM job;
INSERT INTO event (at_ms, job_id, kind) SELECT seq, id, 'phase' FROM job;
ANALYZE
"""


async def test_postgresql_scans_no_history_either(postgres_url: str) -> None:
    """With a past of twenty thousand jobs its planner takes an index for every read of a pass."""
    async with open_database(postgres_url, clock=SystemClock()) as database:

        async def fill(connection: AsyncConnection) -> None:
            for statement in _PAST.split(";\n"):
                await connection.exec_driver_sql(statement)

        await database.write(fill)
        plans = {name: await plan_of(database, read) for name, (read, _) in READS.items()}
    scanned = {
        name: re.findall(rf"Seq Scan on (?:{'|'.join(LONG)})\b.*", plan)
        for name, plan in plans.items()
    }
    assert {name: found for name, found in scanned.items() if found} == {}
