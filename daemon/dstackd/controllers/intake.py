"""Submitted rows become queued jobs, or are rejected with a reason. Law: a bad row never stops another, and no row is lost.

Arrays live here too: a row with `array: n` becomes n rows, and follows them to its own end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import structlog

from dstackd.core.array import decide_array
from dstackd.core.phase import Phase, Reason
from dstackd.errors import StaleRow
from dstackd.ports import Clock
from dstackd.spec.canonical import to_text
from dstackd.spec.errors import FieldError, SpecError
from dstackd.spec.model import JobSpec
from dstackd.spec.parse import parse_spec_json
from dstackd.store import jobs as store
from dstackd.store.engine import Connection, Database
from dstackd.store.moves import JobChanges, Move, save_fresh_moves, save_moves
from dstackd.wake import Wakes

log = structlog.get_logger(__name__)

PASS_MAX = 200
"""Rows of one transaction: long enough to be cheap, short enough not to hold submitters up."""

ID_CHARS_MAX = 64
"""What the table's CHECK allows."""

Judged = tuple[store.Submission, JobSpec | SpecError]

Admission = Callable[[JobSpec], None]
"""Raises SpecError for what this installation does not allow."""


class Intake:
    """Accepts, rejects, expands and cancels what nobody has looked at yet."""

    name = "intake"
    pass_max_s = 60.0

    def __init__(
        self, database: Database, *, admit: Admission, clock: Clock, wakes: Wakes, interval_s: float
    ) -> None:
        self._database = database
        self._admit = admit
        self._clock = clock
        self._wakes = wakes
        self.interval_s = interval_s

    async def step(self) -> float:
        """Take in every submission, then see to the arrays."""
        while await self._take_in():
            pass
        await self._follow_arrays()
        return self.interval_s

    async def _take_in(self) -> bool:
        async def read(connection: Connection) -> list[store.Submission]:
            return await store.submissions(connection, count_max=PASS_MAX)

        submissions = await self._database.read(read)
        if not submissions:
            return False
        judged: list[Judged] = [(each, self._judge(each)) for each in submissions]

        now_ms = self._clock.now_ms()

        async def work(connection: Connection) -> list[Judged]:
            named = [await _check_names(connection, *each) for each in judged]
            await save_moves(connection, [_move(*each, now_ms) for each in named])
            for submission, verdict in named:
                count = _array_count(submission, verdict)
                if count is not None and isinstance(verdict, JobSpec):
                    await store.add_array_elements(
                        connection,
                        parent_id=submission.id,
                        element_spec=to_text(replace(verdict, array=None)),
                        count=count,
                    )
            return named

        try:
            judged = await self._database.write(work)
        except StaleRow:  # a submitter changed a row under us: read again
            return True
        for submission, verdict in judged:
            if isinstance(verdict, SpecError):
                log.warning("job_rejected", job_id=submission.id, problem=str(verdict))
        self._wakes.inputs.ring()
        self._wakes.planning.ring()
        return len(submissions) == PASS_MAX or any(
            _array_count(submission, verdict) for submission, verdict in judged
        )

    def _judge(self, submission: store.Submission) -> JobSpec | SpecError:
        try:
            spec = parse_spec_json(submission.spec)
            self._admit(spec)
        except SpecError as error:
            return error
        return spec

    async def _follow_arrays(self) -> None:
        for array, elements in await self._database.read(store.open_arrays):
            decision = decide_array(array, elements)
            if decision.cancel:

                async def cancel(
                    connection: Connection, job_ids: tuple[str, ...] = decision.cancel
                ) -> None:
                    await store.request_cancel(connection, job_ids)

                await self._database.write(cancel)
                self._wakes.planning.ring()
                self._wakes.machines.ring()
            if decision.phase is None:
                continue
            move = Move(
                array.id,
                array.version,
                array.phase,
                self._clock.now_ms(),
                phase=decision.phase,
                reason=Reason.ARRAY_FINISHED,
                message=decision.message,
            )
            await self._finish(move, decision.exit_code)

    async def _finish(self, move: Move, exit_code: int | None) -> None:
        async def work(connection: Connection) -> frozenset[str]:
            cost_usd = await store.elements_cost_usd(connection, move.job_id)
            changes = JobChanges(exit_code=exit_code, cost_usd=cost_usd)
            return await save_fresh_moves(connection, [replace(move, changes=changes)])

        await self._database.write(work)


async def _check_names(
    connection: Connection, submission: store.Submission, verdict: JobSpec | SpecError
) -> Judged:
    """An array whose elements could not have their ids is refused, rather than its transaction with all others in it."""
    count = _array_count(submission, verdict)
    if count is None:
        return submission, verdict
    ids = [store.element_id(submission.id, index) for index in range(count)]
    if len(ids[-1]) > ID_CHARS_MAX:
        problem = f"the last element's id, {ids[-1]}, has more than {ID_CHARS_MAX} characters"
        fix = "insert the array with a shorter id, or without one"
    elif (taken := await store.first_taken(connection, ids)) is not None:
        problem, fix = f"there is a job {taken} already", "insert the array with another id"
    else:
        return submission, verdict
    return submission, SpecError([FieldError("array", problem, fix)])


def _array_count(submission: store.Submission, verdict: JobSpec | SpecError) -> int | None:
    """How many elements the row becomes; None for a plain job, a bad one, a cancelled one."""
    if isinstance(verdict, SpecError) or submission.cancel_requested:
        return None
    return verdict.array


def _move(submission: store.Submission, verdict: JobSpec | SpecError, now_ms: int) -> Move:
    move = Move(submission.id, submission.version, Phase.SUBMITTED, now_ms)
    if submission.cancel_requested:
        message = "cancelled before it was accepted"
        return replace(move, phase=Phase.CANCELLED, reason=Reason.CANCEL_REQUESTED, message=message)
    if isinstance(verdict, SpecError):
        return replace(move, phase=Phase.REJECTED, reason=Reason.BAD_SPEC, message=str(verdict))
    name = _element_name(verdict.name, submission.array_index)
    if verdict.array is not None:
        message = f"{verdict.array} jobs, {move.job_id}-0 to {move.job_id}-{verdict.array - 1}"
        return replace(
            move,
            phase=Phase.RUNNING,
            reason=Reason.ARRAY_EXPANDED,
            message=message,
            changes=JobChanges(name=name),
        )
    return replace(
        move,
        phase=Phase.QUEUED,
        reason=Reason.ACCEPTED,
        message="waits for its launch",
        next_visit_at_ms=now_ms,
        changes=JobChanges(name=name),
    )


def _element_name(name: str | None, array_index: int | None) -> str:
    if not name or array_index is None:
        return name or ""
    return f"{name}[{array_index}]"
