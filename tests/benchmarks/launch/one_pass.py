"""`python -m tests.benchmarks.launch.one_pass CONFIG`: passes of a daemon's loops by hand, measured from inside its process.

Law: the loops are those of the composition root; standard output is one JSON object.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path

import anyio
import structlog

from dstackd.app import open_parts
from dstackd.config import load_settings
from dstackd.controllers.standby import Standby
from dstackd.wiring import Parts, build_loops
from tests.benchmarks.launch.environment import resident_mb
from tests.benchmarks.launch.many import Pass

BEAT_S = 0.001


class LoopWatch:
    """Comes round as often as the event loop lets it, and remembers the longest time between."""

    def __init__(self) -> None:
        self.stall_s = 0.0
        self.step_s = 0.0

    async def watch(self) -> None:
        """Until it is cancelled."""
        wall_s, thread_s = time.monotonic(), time.thread_time()
        while True:
            await anyio.sleep(BEAT_S)
            now_s, now_thread_s = time.monotonic(), time.thread_time()
            self.stall_s = max(self.stall_s, now_s - wall_s - BEAT_S)
            self.step_s = max(self.step_s, now_thread_s - thread_s)
            wall_s, thread_s = now_s, now_thread_s


async def _measured(parts: Parts, step: Callable[[], Awaitable[float]]) -> Pass:
    watch = LoopWatch()
    async with anyio.create_task_group() as group:
        group.start_soon(watch.watch)
        await anyio.sleep(BEAT_S)
        calls, cpu_s = _calls(parts), time.process_time()
        await step()
        cpu_s = time.process_time() - cpu_s
        await anyio.sleep(BEAT_S * 5)
        group.cancel_scope.cancel()
    return Pass(
        cpu_s=cpu_s,
        stall_ms=watch.stall_s * 1000,
        step_ms=watch.step_s * 1000,
        calls=_calls(parts) - calls,
    )


def _calls(parts: Parts) -> int:
    return sum(stats.attempts for stats in parts.backend.recorder.stats.values())


async def _own(parts: Parts) -> None:
    """The backend, for as long as the process lives: nobody else wants it."""
    standby = Standby(
        parts.database,
        tenure=parts.tenure,
        holder=parts.holder,
        clock=parts.clock,
        vitals=parts.vitals,
    )
    await standby.step()
    parts.tenure.renew(asked_at_s=math.inf)


async def _passes(config: Path) -> None:
    async with open_parts(load_settings(config)) as parts:
        await _own(parts)
        loops = {supervised.loop.name: supervised.loop for supervised in build_loops(parts)}
        machines, inbox = loops["machines"], loops["inbox"]
        for loop in (inbox, machines):
            await loop.step()
        await anyio.sleep(0.5)  # so that both are due again
        measured = {
            "machines": asdict(await _measured(parts, machines.step)),
            "inbox": asdict(await _measured(parts, inbox.step)),
            "resident_mb": resident_mb(),
        }
        print(json.dumps(measured))


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    anyio.run(_passes, Path(sys.argv[1]))
