"""Bugs that somebody could make. Law: each is one small change to the product, by name; the simulation has to catch it.

A bug that survives means a missing fault, a missing promise, or code that nothing needs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pytest import MonkeyPatch  # noqa: PT013 - the class, not a mark of a test

from dstackd.controllers import inbox, launches, machines, reaper
from dstackd.core import decide, log_windows, observe
from dstackd.core.cost import machine_cost_usd
from dstackd.core.decide import Decision
from dstackd.core.instance import Observation, Seen
from dstackd.core.launching import LaunchRequest
from dstackd.core.log_assembly import LogAssembly
from dstackd.core.orphan import find_orphans
from dstackd.core.phase import Outcome, Phase, Reason
from dstackd.core.retry import conclude
from dstackd.errors import CloudError
from dstackd.log_reads import LogReads
from dstackd.simulated.compute import SimulatedCompute
from dstackd.store import bulk, moves
from dstackd.store import launches as launch_store
from dstackd.store.requests import load_request
from tests.simulation import planted_rivals as rivals
from tests.simulation import planted_sharing as sharing

Plant = Callable[[MonkeyPatch], None]


def token_not_derived(patch: MonkeyPatch) -> None:
    """An intent that is replayed has another client token."""
    numbers = itertools.count()

    def load_afresh(text: str) -> LaunchRequest:
        return replace(load_request(text), client_token=f"fresh-{next(numbers)}")

    patch.setattr("dstackd.store.launches.load_request", load_afresh)


def unknown_taken_for_absent(patch: MonkeyPatch) -> None:
    """No snapshot is read as no machine."""

    def absent(instance_id: str, snapshot: Any, *, launched_at_ms: int) -> Observation:  # noqa: ANN401 - as the original
        if snapshot is None:
            return Observation(Seen.GONE)
        return observe.observe(instance_id, snapshot, launched_at_ms=launched_at_ms)

    patch.setattr(machines, "observe", absent)


def new_machines_judged_at_once(patch: MonkeyPatch) -> None:
    """A machine that EC2 does not show yet counts as gone."""
    patch.setattr(observe, "VISIBILITY_GRACE_MS", 0)
    patch.setattr(machines, "VISIBILITY_GRACE_MS", 0)
    patch.setattr(machines.Machines, "_is_missing_for_long", lambda *_: True)


def wall_clock_believed(patch: MonkeyPatch) -> None:
    """How long a machine has not been seen is not measured, only its age by a clock that may jump."""
    patch.setattr(machines, "MISSING_S", 0.0)


def terminated_before_the_seal(patch: MonkeyPatch) -> None:
    """The machine goes when the commands have ended."""

    def at_once(_job: Any, attempt: Any, _seen: Any, **_: Any) -> Decision:  # noqa: ANN401 - as the original
        return decide._end(attempt, Outcome.EXITED, Reason.SEALED, "at once")

    patch.setattr(decide, "_sealing", at_once)


def reaper_off(patch: MonkeyPatch) -> None:
    """Nobody looks for machines that nobody needs."""

    async def nothing(*_: object, **__: object) -> None:
        return None

    patch.setattr(reaper.Reaper, "reap", nothing)


def reaper_takes_open_launches(patch: MonkeyPatch) -> None:
    """A machine whose launch has no saved answer yet counts as an orphan."""

    def careless(snapshot: Any, *, needed_ids: Any, now_ms: int, **_: Any) -> Any:  # noqa: ANN401 - as the original
        return find_orphans(
            snapshot, needed_ids=needed_ids, open_launch_ids=frozenset(), now_ms=now_ms + 10**6
        )

    patch.setattr(reaper, "find_orphans", careless)


def strangers_taken_for_ours(patch: MonkeyPatch) -> None:
    """The owner's tag is not looked at."""
    patch.setattr(
        SimulatedCompute,
        "_has_our_tags",
        lambda self, request: dict(request.tags).get("dstack_bucket") == self._tags[0],
    )


def retries_miscounted(patch: MonkeyPatch) -> None:
    """One attempt more than max_attempts."""

    def generous(job: Any, attempt: Any, **bounds: Any) -> Any:  # noqa: ANN401 - as the original
        return conclude(replace(job, ran_attempts=job.ran_attempts - 1), attempt, **bounds)

    patch.setattr(decide, "conclude", generous)


def over_before_gone(patch: MonkeyPatch) -> None:
    """A terminal phase is written while the machine still goes."""
    terminating = decide._terminating

    def hasty(job: Any, attempt: Any, _seen: Any, **bounds: Any) -> Decision:  # noqa: ANN401 - as the original
        return terminating(job, attempt, Observation(Seen.GONE), **bounds)

    patch.setattr(decide, "_terminating", hasty)


def reports_removed_first(patch: MonkeyPatch) -> None:
    """The inbox is emptied before what it said is committed."""
    record = inbox.Inbox._record

    async def careless(self: Any, events: list[Any]) -> None:  # noqa: ANN401 - as the original
        await self._bucket.delete([head.key for _, head in events])
        await record(self, events)

    patch.setattr(inbox.Inbox, "_record", careless)


def silence_taken_for_refusal(patch: MonkeyPatch) -> None:
    """A launch without an answer counts as one that EC2 refused."""

    async def refused(self: Any, launch: Any, error: CloudError) -> None:  # noqa: ANN401 - as the original
        await self._refused(launch, error)

    patch.setattr(launches.Launches, "_read_back", refused)
    patch.setattr(launches, "CloudUnavailable", _Never)


def refusal_believed(patch: MonkeyPatch) -> None:
    """What EC2 does not show when it refuses a launch was never launched, however short ago it was asked before."""
    patch.setattr(launches, "VISIBILITY_GRACE_MS", 0)


def machines_paid_from_the_answer(patch: MonkeyPatch) -> None:
    """What a machine costs is counted from the moment when its launch was known, not from its launch."""
    values = launch_store._machine_values

    def late(*arguments: Any, now_ms: int) -> dict[str, Any]:  # noqa: ANN401 - as the original
        return values(*arguments, now_ms=now_ms) | {"launched_at_ms": now_ms}

    patch.setattr(launch_store, "_machine_values", late)


class _Never(CloudError):
    """Nothing raises this."""


def guard_off(patch: MonkeyPatch) -> None:
    """Saves do not look whether the row has moved on."""
    update_rows = bulk.update_rows

    async def all_fresh(_connection: object, saved: Any) -> Any:  # noqa: ANN401 - as the original
        return saved

    async def unguarded(connection: Any, table: Any, names: Any, rows: Any, *, key: Any) -> Any:  # noqa: ANN401 - as the original
        return await update_rows(connection, table, names, [row[:-1] for row in rows], key=key[:1])

    patch.setattr(moves, "_not_stale", all_fresh)
    patch.setattr(moves, "update_rows", unguarded)


def exit_code_forgotten(patch: MonkeyPatch) -> None:
    """Whatever the commands ended with, the row says 0."""
    terminating = decide._terminating

    def cheerful(job: Any, attempt: Any, seen: Any, **bounds: Any) -> Decision:  # noqa: ANN401 - as the original
        decision = terminating(job, attempt, seen, **bounds)
        return replace(decision, exit_code=0) if decision.exit_code else decision

    patch.setattr(decide, "_terminating", cheerful)


def failures_taken_for_success(patch: MonkeyPatch) -> None:
    """An exit code other than 0 is no failure."""

    def kind(job: Any, attempt: Any, **bounds: Any) -> Any:  # noqa: ANN401 - as the original
        verdict = conclude(job, attempt, **bounds)
        failed = verdict.phase is Phase.FAILED and verdict.reason is Reason.EXITED
        return replace(verdict, phase=Phase.SUCCEEDED) if failed else verdict

    patch.setattr(decide, "conclude", kind)


def machines_paid_twice(patch: MonkeyPatch) -> None:
    """What a machine costs is counted twice."""

    def twice(price_usd_h: float, *, from_ms: int, until_ms: int) -> float:
        return 2 * machine_cost_usd(price_usd_h, from_ms=from_ms, until_ms=until_ms)

    patch.setattr("dstackd.store.machines.machine_cost_usd", twice)


def doubled_lines_kept(patch: MonkeyPatch) -> None:
    """An event that CloudWatch shows twice is a line that was written twice."""
    ready = LogAssembly.take_ready

    def twice(self: LogAssembly) -> Any:  # noqa: ANN401 - as the original
        lines = ready(self)
        return [*lines, *lines[-1:]]

    patch.setattr(LogAssembly, "take_ready", twice)


def log_always_complete(patch: MonkeyPatch) -> None:
    """The verdict on a log does not look at it."""
    patch.setattr("dstackd.store.logs.log_verdict", lambda **_: "complete")


def sweep_without_overlap(patch: MonkeyPatch) -> None:
    """A sweep begins where the last one ended, and nobody looks again."""

    async def nothing(*_: object, **__: object) -> bool:
        return False

    patch.setattr(log_windows, "OVERLAP_MS", 0)
    patch.setattr(log_windows, "DEEP_OVERLAP_MS", 0)
    patch.setattr(LogReads, "_read_gaps", nothing)


def silence_endured(patch: MonkeyPatch) -> None:
    """A machine that hangs is waited for."""
    patch.setattr(decide, "_overdue", lambda *_, **__: None)


def boot_endured(patch: MonkeyPatch) -> None:
    """A machine that never boots is waited for."""
    booting = decide._booting

    def patient(job: Any, attempt: Any, seen: Any, **bounds: Any) -> Decision:  # noqa: ANN401 - as the original
        bounds["limits"] = replace(bounds["limits"], boot_timeout_s=10**9)
        return booting(job, attempt, seen, **bounds)

    patch.setattr(decide, "_booting", patient)


def rest_of_a_launch_forgotten(patch: MonkeyPatch) -> None:
    """What EC2 did not give is not asked for again."""

    async def nothing(*_: object, **__: object) -> None:
        return None

    patch.setattr(launch_store, "back_to_queue", nothing)


PLANTED: dict[str, Plant] = {
    plant.__name__: plant
    for plant in (
        *(token_not_derived, unknown_taken_for_absent, new_machines_judged_at_once),
        *(wall_clock_believed, terminated_before_the_seal, reaper_off, reaper_takes_open_launches),
        *(strangers_taken_for_ours, retries_miscounted, over_before_gone, reports_removed_first),
        *(silence_taken_for_refusal, guard_off, exit_code_forgotten, failures_taken_for_success),
        *(machines_paid_twice, doubled_lines_kept, log_always_complete, sweep_without_overlap),
        *(silence_endured, boot_endured, rest_of_a_launch_forgotten, sharing.terminate_asked_once),
        *(
            sharing.leaving_forgotten,
            sharing.leaving_for_nothing,
            sharing.bounds_unchecked,
            sharing.queued_before_the_last_word,
        ),
        *(
            sharing.budget_unchecked,
            sharing.cancel_lost,
            sharing.conflict_taken_for_ours,
            sharing.released_machine_terminated,
        ),
        *(
            sharing.unread_taken_for_silent,
            sharing.started_taken_for_a_failed_boot,
            sharing.written_lines_not_counted,
        ),
        sharing.needs_not_waited_for,
        *(sharing.old_sweep_believed, refusal_believed, machines_paid_from_the_answer),
        rivals.fence_not_checked,
        rivals.lines_elsewhere_not_read,
    )
}
