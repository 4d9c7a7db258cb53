"""Submitted rows become queued jobs, or are rejected with a reason. Law: a bad row never stops another, and no row is lost.

Arrays live here too: a row with `array: n` becomes n rows, and follows them to its own end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from dstackd.arrays import array_problem, expand, expanded_text
from dstackd.core.array import decide_array
from dstackd.core.dependency import hold_for
from dstackd.core.holding import decide_hold
from dstackd.core.phase import Phase, Reason
from dstackd.errors import StaleRow
from dstackd.ports import Clock
from dstackd.spec.errors import FieldError, SpecError
from dstackd.spec.model import JobSpec
from dstackd.store import jobs as store
from dstackd.store.dependencies import Wanted, add_dependencies, dependency_problems
from dstackd.store.engine import Connection, Database
from dstackd.store.moves import FAR_MS, JobChanges, Move, save_fresh_moves, save_moves
from dstackd.wake import Wakes

log = structlog.get_logger(__name__)

PASS_MAX = 200
"""Rows of one transaction: long enough to be cheap, short enough not to hold submitters up."""

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

        try:
            judged = await self._save(judged)
        except StaleRow:  # a submitter changed a row under us: read again
            return True
        except store.REFUSED as error:  # one of them, for a reason that nobody has foreseen
            log.exception("rows_refused", rows=len(judged), error=str(error))
            judged = [await self._save_alone(each) for each in judged]
        for submission, verdict in judged:
            if isinstance(verdict, SpecError):
                log.warning("job_rejected", job_id=submission.id, problem=str(verdict))
        self._wakes.inputs.ring()
        self._wakes.holding.ring()
        self._wakes.planning.ring()
        return len(submissions) == PASS_MAX or any(
            _is_expanded(submission, verdict) for submission, verdict in judged
        )

    async def _save(self, judged: Sequence[Judged]) -> list[Judged]:
        now_ms = self._clock.now_ms()

        async def work(connection: Connection) -> list[Judged]:
            named = [await _check_names(connection, *each) for each in judged]
            refused = await dependency_problems(connection, _wanted(named))
            named = [(each, refused.get(each.id, verdict)) for each, verdict in named]
            await save_moves(
                connection, [_move(*each, now_ms, self._database.backend) for each in named]
            )
            await add_dependencies(connection, _wanted(named))
            for submission, verdict in named:
                if isinstance(verdict, JobSpec) and _is_expanded(submission, verdict):
                    await expand(connection, submission.id, verdict)
            return named

        return await self._database.write(work)

    async def _save_alone(self, judged: Judged) -> Judged:
        """In a transaction of its own; rejected where the database refuses it."""
        try:
            (saved,) = await self._save([judged])
        except StaleRow:
            return judged  # the next pass reads it again
        except store.REFUSED as error:
            problem = f"the database refuses it: {error}".partition("\n")[0]
            fix = "insert it again in another form, and tell those who run the daemon"
            (saved,) = await self._save(
                [(judged[0], SpecError([FieldError("spec", problem, fix)]))]
            )
        return saved

    def _judge(self, submission: store.Submission) -> JobSpec | SpecError:
        spec = store.read_spec(submission.spec)
        if isinstance(spec, SpecError):
            return spec
        try:
            self._admit(spec)
        except SpecError as error:
            return error
        return spec

    async def _follow_arrays(self) -> None:
        for array, elements in await self._database.read_own(store.open_arrays):
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
    count = _array_count(submission, verdict)
    problem = None if count is None else await array_problem(connection, submission.id, count)
    return submission, verdict if problem is None else SpecError([problem])


def _array_count(submission: store.Submission, verdict: JobSpec | SpecError) -> int | None:
    """How many elements the row becomes; None for a plain job, a bad one, a cancelled one."""
    if isinstance(verdict, SpecError) or submission.cancel_requested:
        return None
    return verdict.array


def _is_expanded(submission: store.Submission, verdict: JobSpec | SpecError) -> bool:
    """Whether the row becomes its elements now. An array that needs other jobs waits for them as one row."""
    has_needs = isinstance(verdict, JobSpec) and verdict.depends_on
    return not has_needs and _array_count(submission, verdict) is not None


def _wanted(judged: Sequence[Judged]) -> Wanted:
    """What the jobs that are about to be accepted need."""
    return {
        submission.id: verdict.depends_on
        for submission, verdict in judged
        if isinstance(verdict, JobSpec) and not submission.cancel_requested and verdict.depends_on
    }


def _move(
    submission: store.Submission, verdict: JobSpec | SpecError, now_ms: int, backend: str | None
) -> Move:
    move = Move(submission.id, submission.version, Phase.SUBMITTED, now_ms)
    if submission.cancel_requested:
        message = "cancelled before it was accepted"
        return replace(move, phase=Phase.CANCELLED, reason=Reason.CANCEL_REQUESTED, message=message)
    if isinstance(verdict, SpecError):
        return replace(move, phase=Phase.REJECTED, reason=Reason.BAD_SPEC, message=str(verdict))
    changes = JobChanges(name=_element_name(verdict.name, submission.array_index))
    if backend is not None:
        changes["backend"] = backend
    if not all(each.is_s3 for each in verdict.inputs):
        changes["inputs_digest"] = store.UNSTAGED
    if verdict.depends_on:
        return _held_for_others(move, verdict, changes)
    if verdict.array is not None:
        return replace(
            move,
            phase=Phase.RUNNING,
            reason=Reason.ARRAY_EXPANDED,
            message=expanded_text(move.job_id, verdict.array),
            changes=changes,
        )
    hold = decide_hold(run_at_ms=submission.run_at_ms, cancel_requested=False, now_ms=now_ms)
    if hold is not None:
        return replace(
            move,
            phase=Phase.QUEUED,
            reason=hold.reason,
            message=hold.message,
            next_visit_at_ms=FAR_MS if hold.until_ms is None else hold.until_ms,
            changes=JobChanges(**changes, held=1),
        )
    return replace(
        move,
        phase=Phase.QUEUED,
        reason=Reason.ACCEPTED,
        message="waits for its launch",
        next_visit_at_ms=now_ms,
        changes=changes,
    )


def _held_for_others(move: Move, spec: JobSpec, changes: JobChanges) -> Move:
    """Whether they have ended already is `holding`'s to see, at once."""
    if spec.array is not None:  # its elements bring their inputs
        changes.pop("inputs_digest", None)
    hold = hold_for(spec.depends_on)
    return replace(
        move,
        phase=Phase.QUEUED,
        reason=hold.reason,
        message=hold.message,
        next_visit_at_ms=0,
        changes=JobChanges(**changes, held=1),
    )


def _element_name(name: str | None, array_index: int | None) -> str:
    if not name or array_index is None:
        return name or ""
    return f"{name}[{array_index}]"
