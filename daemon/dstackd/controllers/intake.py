"""Submitted rows become queued jobs, or are rejected with a reason. Law: a bad row never stops another, and no row is lost.

Arrays live here too: a row with `array: n` becomes n rows, and follows them to its own end.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import structlog

from dstackd.core.array import decide_array
from dstackd.core.phase import Phase, Reason
from dstackd.errors import StaleRow
from dstackd.ports import Clock
from dstackd.spec.canonical import to_json
from dstackd.spec.errors import SpecError
from dstackd.spec.model import JobSpec
from dstackd.spec.parse import parse_spec_json
from dstackd.store import jobs as store
from dstackd.store.engine import Connection, Database
from dstackd.wake import Wakes

log = structlog.get_logger(__name__)

PASS_MAX = 200
"""Rows of one transaction: long enough to be cheap, short enough not to hold submitters up."""

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
        judged = [(submission, self._judge(submission)) for submission in submissions]

        async def work(connection: Connection) -> None:
            for submission, verdict in judged:
                await self._save(connection, submission, verdict)

        try:
            await self._database.write(work)
        except StaleRow:  # a submitter changed a row under us: read again
            return True
        for submission, verdict in judged:
            if isinstance(verdict, SpecError):
                log.warning("job_rejected", job_id=submission.id, problem=str(verdict))
        self._wakes.inputs.ring()
        self._wakes.launches.ring()
        return len(submissions) == PASS_MAX

    def _judge(self, submission: store.Submission) -> JobSpec | SpecError:
        try:
            spec = parse_spec_json(submission.spec)
            self._admit(spec)
        except SpecError as error:
            return error
        return spec

    async def _save(
        self,
        connection: Connection,
        submission: store.Submission,
        verdict: JobSpec | SpecError,
    ) -> None:
        move = store.Move(submission.id, submission.version, Phase.SUBMITTED, self._clock.now_ms())
        if submission.cancel_requested:
            move = replace(
                move,
                phase=Phase.CANCELLED,
                reason=Reason.CANCEL_REQUESTED,
                message="cancelled before it was accepted",
            )
            await store.save_move(connection, move)
        elif isinstance(verdict, SpecError):
            move = replace(move, phase=Phase.REJECTED, reason=Reason.BAD_SPEC, message=str(verdict))
            await store.save_move(connection, move)
        elif verdict.array is not None:
            await self._expand(connection, move, verdict, verdict.array)
        else:
            name = _element_name(verdict.name, submission.array_index)
            move = replace(
                move,
                phase=Phase.QUEUED,
                reason=Reason.ACCEPTED,
                message="waits for its launch",
                next_visit_at_ms=move.now_ms,
            )
            await store.save_move(connection, move, name=name)

    async def _expand(
        self, connection: Connection, move: store.Move, spec: JobSpec, count: int
    ) -> None:
        element = json.dumps(to_json(replace(spec, array=None)))
        await store.add_array_elements(
            connection, parent_id=move.job_id, element_spec=element, count=count
        )
        move = replace(
            move,
            phase=Phase.RUNNING,
            reason=Reason.ARRAY_EXPANDED,
            message=f"{count} jobs, {move.job_id}-0 to {move.job_id}-{count - 1}",
        )
        await store.save_move(connection, move, name=spec.name or "")

    async def _follow_arrays(self) -> None:
        for array, elements in await self._database.read(store.open_arrays):
            decision = decide_array(array, elements)
            if decision.cancel:

                async def cancel(
                    connection: Connection, job_ids: tuple[str, ...] = decision.cancel
                ) -> None:
                    await store.request_cancel(connection, job_ids)

                await self._database.write(cancel)
                self._wakes.launches.ring()
                self._wakes.machines.ring()
            if decision.phase is None:
                continue
            move = store.Move(
                array.id,
                array.version,
                array.phase,
                self._clock.now_ms(),
                phase=decision.phase,
                reason=Reason.ARRAY_FINISHED,
                message=decision.message,
            )

            async def finish(
                connection: Connection,
                move: store.Move = move,
                exit_code: int | None = decision.exit_code,
            ) -> None:
                cost_usd = await store.elements_cost_usd(connection, move.job_id)
                await store.save_move(connection, move, exit_code=exit_code, cost_usd=cost_usd)

            await self._database.write(finish)


def _element_name(name: str | None, array_index: int | None) -> str:
    if not name or array_index is None:
        return name or ""
    return f"{name}[{array_index}]"
