"""From standing by to serving and back. Law: the loops of a backend run only while it is ours, and end with it; at the end the
lease is given back when none of them runs any more.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import anyio

from dstackd.controllers.keeping import Keeping
from dstackd.controllers.standby import Standby
from dstackd.errors import LeaseLost, OperatingError
from dstackd.ports import Clock
from dstackd.store.engine import Database
from dstackd.store.lease import Tenure, give_back
from dstackd.supervisor import Supervised, run_loops
from dstackd.vitals import Vitals
from dstackd.wake import Wake

GIVE_BACK_S = 2.0
"""At the end, for a database that may be away."""


async def own(
    database: Database,
    *,
    tenure: Tenure,
    holder: str,
    loops: Callable[[], Sequence[Supervised]],
    vitals: Vitals,
    clock: Clock,
    on_taken: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    """Stand by until the backend is ours, then run its loops for ever, and `on_taken` beside them.

    `database` is as an application has it; `loops` makes the owner's. Raises LeaseLost, alone or in a group, when another
    daemon has taken over: whatever the loops had in memory is worth nothing then.
    """
    try:
        standby = Standby(database, tenure=tenure, holder=holder, clock=clock, vitals=vitals)
        await _stand_by(standby, vitals, clock)
        keeping = Keeping(database, tenure=tenure, clock=clock)
        async with anyio.create_task_group() as group:
            group.start_soon(on_taken)
            all_loops = [Supervised(keeping, Wake()), *loops()]
            await run_loops(all_loops, vitals=vitals, clock=clock)
    finally:
        with anyio.move_on_after(GIVE_BACK_S, shield=True):
            await _give_back(database, tenure)


async def _stand_by(standby: Standby, vitals: Vitals, clock: Clock) -> None:
    async with anyio.create_task_group() as group:
        waiting = [Supervised(standby, Wake())]
        group.start_soon(partial(run_loops, waiting, vitals=vitals, clock=clock))
        await standby.taken.wait()
        group.cancel_scope.cancel()
    vitals.loops.clear()


async def _give_back(database: Database, tenure: Tenure) -> None:
    try:
        lease = tenure.lease
        tenure.end()
        await database.write(lambda connection: give_back(connection, lease))
    except (LeaseLost, OperatingError):
        return  # it is another's, or who waits will notice by itself


def is_lost(error: BaseException) -> bool:
    """Whether that is all that has ended the loops: their task groups wrap what ends them."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_lost(each) for each in error.exceptions)
    return isinstance(error, LeaseLost)
