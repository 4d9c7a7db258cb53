"""Many jobs that log at once while CloudWatch shows events late, twice, and only to so many calls. Used by a test and by
a benchmark.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

from dstackd.ports import Clock, LogEvent, LogSource
from dstackd.simulated.faults import Script
from tests.builders import spec_json
from tests.controllers.installation import Installation, Ports

LOGS_S = 0.7
"""The default of `loops.logs_s`."""
OTHERS_S = 7.0
RUN_S = 240.0
SECONDS_MAX = 1500


@dataclass(slots=True)
class CountingLogs:
    """A log source that remembers when each page was asked for."""

    inner: LogSource
    clock: Clock
    called_s: list[float] = field(default_factory=list)

    async def sweep(
        self, *, start_ms: int, end_ms: int | None = None, streams: Sequence[str] = ()
    ) -> AsyncIterator[Sequence[LogEvent]]:
        async for page in self.inner.sweep(start_ms=start_ms, end_ms=end_ms, streams=streams):
            self.called_s.append(self.clock.monotonic_s())
            yield page


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """What came of it. `in_order` and `complete` count jobs."""

    jobs: int
    lines: int
    in_order: int
    complete: int
    calls_a_second: float
    calls_in_a_second_max: int


async def follow_many(world: Installation, *, jobs: int, lines: int) -> Followed:
    """That many jobs run side by side, each writing that many lines, until all are over and have their verdicts."""
    faults = world.cloud.faults
    faults.log_page_events = 10_000
    faults.late_share, faults.late_s, faults.doubled_share = 0.1, 25.0, 0.1
    counting = CountingLogs(world.cloud.logs, world.clock)
    world.wrap = lambda ports: _with_logs(ports, counting)
    world.restart()
    world.insert(spec_json(Script(lines=lines, run_s=RUN_S), array=jobs))
    names = [f"job-1-{index}" for index in range(jobs)]
    began_s = world.clock.monotonic_s()
    rounds_s = began_s
    while not _all_have_verdicts(world, jobs):
        if world.clock.monotonic_s() > began_s + SECONDS_MAX:
            shown = world.sql("SELECT job_id, log_verdict, log_lines_seen FROM attempt LIMIT 5")
            raise AssertionError(f"no verdicts after {SECONDS_MAX} s: {shown}")
        if world.clock.monotonic_s() >= rounds_s:
            await world.daemon.one_round()
            rounds_s += OTHERS_S
        else:
            await world.daemon.logs.step()
        world.clock.advance(LOGS_S)
    logs = [world.lines(name) for name in names]
    wanted = [f"line {n + 1}" for n in range(lines)]
    first_s, last_s = counting.called_s[0], counting.called_s[-1]
    return Followed(
        jobs=jobs,
        lines=sum(len(log) for log in logs),
        in_order=sum([line.log for line in log] == wanted for log in logs),
        complete=len(world.sql("SELECT 1 FROM attempt WHERE log_verdict = 'complete'")),
        calls_a_second=len(counting.called_s) / (last_s - first_s),
        calls_in_a_second_max=_most_in_a_second(counting.called_s),
    )


def _with_logs(ports: Ports, logs: LogSource) -> Ports:
    return replace(ports, logs=logs)


def _all_have_verdicts(world: Installation, jobs: int) -> bool:
    (row,) = world.sql(
        "SELECT count(*) AS ended FROM attempt WHERE ended_at_ms IS NOT NULL AND log_verdict <> ''"
    )
    return bool(row["ended"] == jobs)


def _most_in_a_second(times_s: Sequence[float]) -> int:
    return max(sum(at <= other < at + 1.0 for other in times_s) for at in times_s)
