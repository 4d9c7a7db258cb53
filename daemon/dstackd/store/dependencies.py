"""Who waits for whom. Law: a job has rows in job_dependency for as long as it is held for them; whether a need is met is read from the
other job's own row.

The end of a job wakes those that need it in the same transaction (`moves`), and its deletion does (a trigger): nobody
ever looks through all that wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from sqlalchemy import delete, literal_column, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.core.dependency import Need, circles, listed
from dstackd.core.phase import Phase
from dstackd.spec.errors import FieldError, SpecError
from dstackd.spec.model import Dependency, DependencyEnd
from dstackd.store.bulk import insert_rows
from dstackd.store.tables import DEPENDENCY, JOB, of_backend

Wanted = Mapping[str, Sequence[Dependency]]
"""Job id -> what it needs."""

IDS_MAX = 500
# Literals: with parameters, neither planner could prove that the partial index has these rows.
HELD = (JOB.c.phase == literal_column("'queued'")) & (JOB.c.held == literal_column("1"))


async def add_dependencies(connection: AsyncConnection, wanted: Wanted) -> None:
    """Write down what accepted jobs need."""
    rows = [
        (job_id, each.job_id, each.on.value) for job_id, needed in wanted.items() for each in needed
    ]
    await insert_rows(connection, DEPENDENCY, ("job_id", "on_job_id", "condition"), rows)


async def dependency_problems(connection: AsyncConnection, wanted: Wanted) -> dict[str, SpecError]:
    """The jobs among those to be accepted that cannot be: they need one that is not there, themselves, or each other.

    A daemon that ends one of the needed ones at the same moment sees who needs it, or is seen.
    """
    there = await _there(connection, {each.job_id for needed in wanted.values() for each in needed})
    errors: dict[str, list[FieldError]] = {}
    for job_id, needed in wanted.items():
        for index, each in enumerate(needed):
            if each.job_id == job_id:
                problem, fix = "names the job itself", "remove it"
            elif each.job_id not in there:
                problem = f"there is no job {each.job_id}"
                fix = "insert that one before, or in the same transaction"
            else:
                continue
            errors.setdefault(job_id, []).append(FieldError(f"depends_on[{index}]", problem, fix))
    edges = {
        job_id: {each.job_id for each in needed if each.job_id != job_id}
        for job_id, needed in wanted.items()
    }
    for circle in circles(edges | await _waiting_above(connection, edges)):
        for job_id in edges.keys() & set(circle):
            at = circle.index(job_id)
            path = listed([*circle[at:], *circle[:at]])
            problem = f"the jobs {path} need each other in a circle"
            error = FieldError("depends_on", problem, "break the circle, and insert them again")
            errors.setdefault(job_id, []).append(error)
    return {job_id: SpecError(each) for job_id, each in errors.items()}


async def _there(connection: AsyncConnection, ids: AbstractSet[str]) -> frozenset[str]:
    found: set[str] = set()
    for chunk in _chunks(sorted(ids)):
        rows = JOB.c.id.in_(chunk)
        found.update((await connection.execute(select(JOB.c.id).where(rows))).scalars())
        if connection.dialect.name == "postgresql":
            # Who ends one of them meanwhile has a picture without our rows. A lock would make it wait and go on with that
            # picture (REPEATABLE READ); a write makes it begin again.
            touched = update(JOB).where(rows, JOB.c.finished_at_ms.is_(None))
            await connection.execute(touched.values(held=JOB.c.held))
    return frozenset(found)


async def _waiting_above(
    connection: AsyncConnection, edges: Mapping[str, AbstractSet[str]]
) -> dict[str, set[str]]:
    """What those that were accepted before need, as far as the new jobs need them, directly or not. Nothing where none of the
    new jobs is needed by one that was accepted before: then no circle goes through there.
    """
    if not await _any_needed(connection, sorted(edges)):
        return {}
    found: dict[str, set[str]] = {}
    beyond = {needed for each in edges.values() for needed in each} - edges.keys()
    for chunk in _chunks(sorted(beyond)):
        held = select(DEPENDENCY.c.job_id, DEPENDENCY.c.on_job_id).join(
            JOB, (JOB.c.id == DEPENDENCY.c.job_id) & HELD
        )
        first = held.where(DEPENDENCY.c.job_id.in_(chunk)).cte("above", recursive=True)
        above = first.union(held.join(first, first.c.on_job_id == DEPENDENCY.c.job_id))
        for row in await connection.execute(select(above)):
            found.setdefault(row.job_id, set()).add(row.on_job_id)
    return found


async def _any_needed(connection: AsyncConnection, ids: Sequence[str]) -> bool:
    for chunk in _chunks(ids):
        rows = select(DEPENDENCY.c.job_id).where(DEPENDENCY.c.on_job_id.in_(chunk)).limit(1)
        if (await connection.execute(rows)).first() is not None:
            return True
    return False


async def wake_dependents(connection: AsyncConnection, ended: Sequence[str]) -> None:
    """Have the held jobs that need one of these looked at; their version rises, so that nobody saves over what has just happened.

    They are asked for first, and mostly there is none: as one statement, a planner that knows no figures yet may look
    through all that is held (PostgreSQL: 0.7 s beside 30,000).
    """
    waiting: set[str] = set()
    for chunk in _chunks(ended):
        found = select(DEPENDENCY.c.job_id).where(DEPENDENCY.c.on_job_id.in_(chunk))
        waiting.update((await connection.execute(found)).scalars())
    for chunk in _chunks(sorted(waiting)):
        await connection.execute(
            update(JOB)
            .where(JOB.c.id.in_(chunk), HELD)
            .values(next_visit_at_ms=0, version=JOB.c.version + 1)
        )


async def forget_needs(connection: AsyncConnection, job_ids: Sequence[str]) -> None:
    """These jobs wait for no other any more."""
    for chunk in _chunks(job_ids):
        await connection.execute(delete(DEPENDENCY).where(DEPENDENCY.c.job_id.in_(chunk)))


async def needs_of(connection: AsyncConnection, job_ids: Sequence[str]) -> dict[str, list[Need]]:
    """What each of the jobs needs, in the order of the other jobs' ids; those that need nothing are not in it."""
    needs: dict[str, list[Need]] = {}
    for chunk in _chunks(job_ids):
        rows = (
            select(DEPENDENCY, JOB.c.phase)
            .join(JOB, JOB.c.id == DEPENDENCY.c.on_job_id, isouter=True)
            .where(DEPENDENCY.c.job_id.in_(chunk))
            .order_by(DEPENDENCY.c.job_id, DEPENDENCY.c.on_job_id)
        )
        for row in await connection.execute(rows):
            phase = None if row.phase is None else Phase(row.phase)
            need = Need(row.on_job_id, DependencyEnd(row.condition), phase)
            needs.setdefault(row.job_id, []).append(need)
    return needs


async def needs_now(connection: AsyncConnection, wanted: Iterable[Dependency]) -> list[Need]:
    """Dependencies as a spec has them, each with where the other job is now."""
    needed = list(wanted)
    phases: dict[str, Phase] = {}
    for chunk in _chunks([each.job_id for each in needed]):
        rows = select(JOB.c.id, JOB.c.phase).where(JOB.c.id.in_(chunk))
        phases |= {row.id: Phase(row.phase) for row in await connection.execute(rows)}
    return [Need(each.job_id, each.on, phases.get(each.job_id)) for each in needed]


@dataclass(frozen=True, slots=True)
class Doomed:
    """A held job that needs the success of `via`, which holds a job that will not succeed."""

    job_id: str
    version: int
    via: str


async def doomed_by(
    connection: AsyncConnection,
    job_ids: Sequence[str],
    *,
    count_max: int,
    backend: str | None = None,
) -> list[Doomed]:
    """The held jobs that need the success of one of these, or of one that does, at most `count_max`: a chain of thousands is one
    statement.
    """
    first = (
        select(DEPENDENCY.c.job_id, DEPENDENCY.c.on_job_id.label("via"))
        .where(DEPENDENCY.c.on_job_id.in_(job_ids), DEPENDENCY.c.condition == "success")
        .cte("doomed", recursive=True)
    )
    further = (
        select(DEPENDENCY.c.job_id, DEPENDENCY.c.on_job_id)
        .join(first, first.c.job_id == DEPENDENCY.c.on_job_id)
        .where(DEPENDENCY.c.condition == "success")
    )
    doomed = first.union(further)
    rows = (
        select(JOB.c.id, JOB.c.version, doomed.c.via)
        .join(doomed, doomed.c.job_id == JOB.c.id)
        .where(HELD, of_backend(JOB.c.backend, backend))
        .limit(count_max)
    )
    found: dict[str, Doomed] = {}
    for row in await connection.execute(rows):
        found.setdefault(row.id, Doomed(*row))
    return list(found.values())


def _chunks(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[start : start + IDS_MAX] for start in range(0, len(ids), IDS_MAX))
