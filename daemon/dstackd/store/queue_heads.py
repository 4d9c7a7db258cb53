"""The heads of the queue: whom one look sees. Law: a subquery of `job.seq`; whose turn it is stays the core's.

By priority and age alone, a thousand jobs of one project would hide a later job of another one from a pass
that looks at a thousand, and shares would be kept only among those. So within a priority the
first job of each project comes first, then the second of each, and so on.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Subquery, func, select

from dstackd.store.tables import JOB, of_backend


def queue_heads(
    *,
    due_at_ms: int | ColumnElement[int],
    count_max: int | ColumnElement[int],
    backend: str | None = None,
) -> Subquery:
    """`seq` of at most `count_max` queued jobs to be visited by `due_at_ms`; to be joined with `job`.

    It numbers the jobs of the backend that are due, from the index alone (half a microsecond each on SQLite): those that wait for a
    time, or for others, cost nothing.
    """
    turn = func.row_number().over(partition_by=(JOB.c.priority, JOB.c.project), order_by=JOB.c.seq)
    turns = (
        select(JOB.c.seq, JOB.c.priority, turn.label("turn"))
        .where(
            JOB.c.phase == "queued",
            JOB.c.held == 0,
            JOB.c.next_visit_at_ms <= due_at_ms,
            of_backend(JOB.c.backend, backend),
        )
        .subquery()
    )
    return (
        select(turns.c.seq)
        .order_by(turns.c.priority.desc(), turns.c.turn, turns.c.seq)
        .limit(count_max)
        .subquery()
    )
