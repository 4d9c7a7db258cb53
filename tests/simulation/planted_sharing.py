"""Bugs in what jobs share: room, money, machines, words. Law: as in `planted`, which has them all by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pytest import MonkeyPatch  # noqa: PT013 - the class, not a mark of a test
from typing_extensions import override

from dstackd.controllers import holding, logs, planning, reaper, reusing
from dstackd.core import admission, decide, pairing
from dstackd.core import leaving as leaving_core
from dstackd.core.action import Terminate
from dstackd.core.decide import Decision
from dstackd.core.instance import Observation
from dstackd.core.job import Attempt, Job
from dstackd.core.open_log import WantedLog
from dstackd.core.scheduling import Holding, Usage
from dstackd.core.waiting import Wait, decide_queued
from dstackd.leaving import Leaving
from dstackd.store import machines as machine_store
from dstackd.store.leaving import leaving_attempts
from dstackd.store.usage import read_usage
from dstackd.wake import Heartbeats


def terminate_asked_once(patch: MonkeyPatch) -> None:
    """Terminate is asked for once, and nobody looks whether it was heard."""

    def once(attempt: Attempt, *_: object, **__: object) -> bool:
        return attempt.terminate_requested_at_ms is None

    async def nothing(*_: object, **__: object) -> None:
        return None

    patch.setattr(decide, "is_to_be_asked", once)
    patch.setattr(leaving_core, "is_to_be_asked", once)
    patch.setattr(reaper.Reaper, "_press_on", nothing)


def leaving_forgotten(patch: MonkeyPatch) -> None:
    """Nobody follows a machine that its job has left."""

    async def nothing(*_: object, **__: object) -> list[Attempt]:
        return []

    patch.setattr(Leaving, "follow", nothing)


def leaving_for_nothing(patch: MonkeyPatch) -> None:
    """A machine that its job has left takes no room."""

    async def smaller(connection: Any, **asked: Any) -> Usage:  # noqa: ANN401 - as the original
        usage = await read_usage(connection, **asked)
        gone = -len(await leaving_attempts(connection))
        held = {name: each + Holding(machines=gone) for name, each in usage.projects.items()}
        return replace(usage, projects=held)

    patch.setattr(planning, "read_usage", smaller)


def bounds_unchecked(patch: MonkeyPatch) -> None:
    """What is in use is not looked at."""
    patch.setattr(admission, "rooms_of", lambda *_: ())


def queued_before_the_last_word(patch: MonkeyPatch) -> None:
    """The next attempt begins when the commands have ended."""
    sealing = decide._sealing

    def hasty(job: Job, attempt: Attempt, seen: Observation, **bounds: Any) -> Decision:  # noqa: ANN401 - as the original
        said = replace(attempt, done_at_ms=attempt.done_at_ms or attempt.exited_at_ms)
        return sealing(job, said, seen, **bounds)

    patch.setattr(decide, "_sealing", hasty)


def budget_unchecked(patch: MonkeyPatch) -> None:
    """A job's own budget is not looked at."""
    patch.setattr(planning, "possible_offerings", lambda _job, offerings, **_: (offerings, None))
    patch.setattr(admission, "impossible", lambda *_, **__: None)
    patch.setattr(pairing, "impossible", lambda *_, **__: None)


def cancel_lost(patch: MonkeyPatch) -> None:
    """A job that waits does not hear of its cancel."""

    def deaf(job: Job, *, now_ms: int) -> Wait | None:
        return decide_queued(replace(job, cancel_requested=False), now_ms=now_ms)

    patch.setattr(planning, "decide_queued", deaf)


def conflict_taken_for_ours(patch: MonkeyPatch) -> None:
    """A claim that S3 refuses counts as made."""
    claim = reusing.Reusing._claim

    async def ours(self: Any, reuse: Any) -> bool:  # noqa: ANN401 - as the original
        await claim(self, reuse)
        return True

    patch.setattr(reusing.Reusing, "_claim", ours)


def released_machine_terminated(patch: MonkeyPatch) -> None:
    """The end of a job is the end of its machine, though it waits for another one or runs it."""
    after_release = decide._after_release

    def too_far(job: Job, attempt: Attempt, *rest: Any, **bounds: Any) -> Decision:  # noqa: ANN401 - as the original
        decision = after_release(job, attempt, *rest, **bounds)
        return replace(decision, actions=(Terminate(attempt.instance_id),))

    patch.setattr(decide, "_after_release", too_far)


def unread_taken_for_silent(patch: MonkeyPatch) -> None:
    """Heartbeats that nobody could list count as missing."""

    def unread(self: Heartbeats, instance_id: str, **_: object) -> int:
        return self.at_ms.get(instance_id, 0)

    patch.setattr(Heartbeats, "of", unread)


def started_taken_for_a_failed_boot(patch: MonkeyPatch) -> None:
    """What fails right after its start does not count as an attempt that ran."""
    booting = decide._booting

    def forgetful(job: Job, attempt: Attempt, seen: Observation, **bounds: Any) -> Decision:  # noqa: ANN401 - as the original
        known = replace(attempt, started_at_ms=None) if attempt.failed_stage else attempt
        return booting(job, known, seen, **bounds)

    patch.setattr(decide, "_booting", forgetful)


def written_lines_not_counted(patch: MonkeyPatch) -> None:
    """A daemon that starts takes a log file that is whole for one that was counted."""
    begin = logs.Logs._begin

    async def trusting(self: Any, key: Any, entry: WantedLog) -> Any:  # noqa: ANN401 - as the original
        end = self._files.end(*key)
        return await begin(self, key, replace(entry, lines_seen=end.last_n - end.missing))

    patch.setattr(logs.Logs, "_begin", trusting)


class _Everything(frozenset[str]):
    """Has whatever it is asked for."""

    @override
    def __contains__(self, item: object) -> bool:
        return True


def old_sweep_believed(patch: MonkeyPatch) -> None:
    """A machine that was learnt of late is judged by a sweep from before."""

    async def all_known(*_: object, **__: object) -> frozenset[str]:
        return _Everything()

    patch.setattr(machine_store, "instances_of_attempts", all_known)


def needs_not_waited_for(patch: MonkeyPatch) -> None:
    """A job that needs others is let go at the first look."""
    patch.setattr(holding, "decide_needs", lambda _needs: None)
