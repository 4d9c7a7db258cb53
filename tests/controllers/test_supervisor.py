"""What ends a loop's pass ends the pass, or the process; nothing in between."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest

from dstackd.clock import SystemClock
from dstackd.errors import InvariantError, StorageFailed
from dstackd.supervisor import Supervised, run_loops
from dstackd.vitals import Vitals
from dstackd.wake import Wake


class Unlucky:
    """A loop whose passes raise these in a task group of their own, one after the other, and then say that they are done."""

    name = "unlucky"
    interval_s = 0.01
    pass_max_s = 5.0

    def __init__(self, errors: Sequence[Exception]) -> None:
        self._errors = list(errors)
        self.done = anyio.Event()

    async def step(self) -> float:
        """One pass."""
        if not self._errors:
            self.done.set()
            return self.interval_s
        async with anyio.create_task_group(), anyio.create_task_group():
            raise self._errors.pop(0)
        return self.interval_s


async def run(loop: Unlucky) -> Vitals:
    """The loop alone, until it is done."""
    vitals = Vitals(schema_current="", schema_head="")
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:

            async def supervise() -> None:
                await run_loops([Supervised(loop, Wake())], vitals=vitals, clock=SystemClock())

            group.start_soon(supervise)
            await loop.done.wait()
            group.cancel_scope.cancel()
    return vitals


async def test_a_broken_database_does_not_end_the_daemon() -> None:
    """Also when it shows inside a task group of the loop: the loop waits and goes on."""
    loop = Unlucky([StorageFailed("no connection")])
    await run(loop)
    assert loop.done.is_set()


async def test_a_bug_among_operating_errors_ends_the_daemon() -> None:
    """A group with anything else in it is no operating error."""
    group = ExceptionGroup("both", [StorageFailed("no connection"), InvariantError("a bug")])
    with pytest.raises(ExceptionGroup) as raised:
        await run(Unlucky([group]))
    assert raised.group_contains(InvariantError)
