"""A row with `array: n` becomes n rows. Law: in the transaction that moves the row itself, so that its jobs are all there or none."""

from __future__ import annotations

from dataclasses import replace

from dstackd.spec.canonical import to_text
from dstackd.spec.errors import FieldError
from dstackd.spec.limits import JOB_ID_CHARS_MAX
from dstackd.spec.model import JobSpec
from dstackd.store import jobs as store
from dstackd.store.engine import Connection


async def array_problem(connection: Connection, job_id: str, count: int) -> FieldError | None:
    """Why the elements could not have their ids; such an array is refused, rather than its transaction with all others in it."""
    ids = [store.element_id(job_id, index) for index in range(count)]
    if len(ids[-1]) > JOB_ID_CHARS_MAX:
        problem = f"the last element's id, {ids[-1]}, has more than {JOB_ID_CHARS_MAX} characters"
        return FieldError("array", problem, "insert the array with a shorter id, or without one")
    taken = await store.first_taken(connection, ids)
    if taken is None:
        return None
    problem = f"there is a job {taken} already"
    return FieldError("array", problem, "insert the array with another id")


async def expand(connection: Connection, job_id: str, spec: JobSpec) -> None:
    """Insert the elements. They need no other jobs: the array has waited for these."""
    await store.add_array_elements(
        connection,
        parent_id=job_id,
        element_spec=to_text(replace(spec, array=None, depends_on=())),
        count=spec.array or 0,
    )


def expanded_text(job_id: str, count: int) -> str:
    """What becomes of the row, in words."""
    return f"{count} jobs, {job_id}-0 to {job_id}-{count - 1}"
