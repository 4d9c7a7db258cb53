"""Which loop is rung when somebody commits. Law: a hint; a loop that is not rung looks by itself, later."""

from __future__ import annotations

import structlog

from dstackd.ports import Clock
from dstackd.store.engine import Database
from dstackd.store.pg_watch import NotificationWatch
from dstackd.store.watch import CommitWatch
from dstackd.vitals import Vitals
from dstackd.wake import Wakes

log = structlog.get_logger(__name__)


async def watch_commits(database: Database, *, wakes: Wakes, vitals: Vitals, clock: Clock) -> None:
    """Ring the loops whenever there may be something for them; for ever."""
    with _watch_of(database, clock=clock) as watch:
        async for submitted, due in watch.changes():
            _tell(watch.problem, vitals)
            if submitted or due:
                wakes.intake.ring()
            if due:
                wakes.holding.ring()
                wakes.planning.ring()
                wakes.machines.ring()
                wakes.schedules.ring()


def _watch_of(database: Database, *, clock: Clock) -> CommitWatch | NotificationWatch:
    if database.server is not None:
        return NotificationWatch(database, database.server, clock=clock)
    path = database.path
    if path is None:
        raise ValueError("nobody else can write to a database in memory")
    return CommitWatch(path)


def _tell(problem: str, vitals: Vitals) -> None:
    """In the log once; in /healthz and the metrics for as long as it lasts."""
    if problem != vitals.watch_problem:
        if problem:
            log.warning("commits_not_noticed", problem=problem)
        else:
            log.info("commits_noticed")
        vitals.watch_problem = problem
