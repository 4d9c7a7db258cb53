"""Launching at the limit of AWS's throttles, against a fake AWS over HTTP that enforces the published token buckets.

RunInstances takes 1.5 s, each Describe 0.2 s. Beside the daemon run two scripts on the same fake: one
call for each job, paced (the floor of everyone who does not batch), and calls of 100 (the floor of
physics). `baseline` is such a script's figure, or the bar that the figure is held to.

`PARTS="burst kills" make bench BENCH=launch` runs some parts: burst, life, shortages, many, kills. All
of them take about six minutes. Log lines are not part of it: CloudWatch Logs has none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.benchmarks.figure import Figure
from tests.benchmarks.launch import baselines
from tests.benchmarks.launch.cloud import FakeCloud
from tests.benchmarks.launch.instance_types import kinds
from tests.benchmarks.launch.kills import STEPS, kill_at
from tests.benchmarks.launch.lives import Burst, Life, burst, idle_calls_a_minute, job, live
from tests.benchmarks.launch.lives import throttled as throttled_of
from tests.benchmarks.launch.many import Pass, measure_pass
from tests.benchmarks.launch.shortages import without_capacity, without_spot
from tests.benchmarks.launch.site import a_site

JOBS = 1000
FEW = 10
SHAPES = 20
ALONE_JOBS = 60
"""How many one-call-per-job launches really run; the rest of a thousand is (n - 5) / 2 seconds."""
IDLE_S = 60.0
MANY = 10_000


def measure() -> Iterator[Figure]:
    """Every part, or those that PARTS names."""
    chosen = os.environ.get("PARTS", "").split() or list(PARTS)
    for name in chosen:
        yield from PARTS[name]()


def measure_burst() -> Iterator[Figure]:
    """A thousand jobs at once, until the last RunInstances is answered."""
    with FakeCloud() as aside, FakeCloud() as cloud, ThreadPoolExecutor(1) as pool:
        alone = pool.submit(baselines.launch_alone, aside, ALONE_JOBS)
        batched_s = baselines.launch_batched(cloud, JOBS)
        shapes = _shapes()
        batched_shapes_s = baselines.launch_batched(cloud, JOBS, shapes=shapes)
        overhead_s = alone.result() - baselines.paced_floor_s(ALONE_JOBS)
    alone_s = baselines.paced_floor_s(JOBS) + overhead_s
    equal = burst([job()] * JOBS, warmed=True)
    yield _seconds(
        f"{JOBS} equal jobs, insert to last machine, over a batched script", equal, batched_s
    )
    yield _seconds(
        f"{JOBS} equal jobs, insert to last machine, over one call a job"
        f" ({ALONE_JOBS} measured, the others at 2 a second)",
        equal,
        alone_s,
    )
    cold = burst([job()] * JOBS, warmed=False)
    yield _seconds(f"{JOBS} equal jobs on a daemon that has just started", cold, batched_s)
    mixed = burst([job(shapes[number % SHAPES]) for number in range(JOBS)], warmed=True)
    yield _seconds(
        f"{JOBS} jobs of {SHAPES} shapes, over a batched script", mixed, batched_shapes_s
    )
    for name, seen, floor in (("equal", equal, JOBS // 100), (f"{SHAPES} shapes", mixed, SHAPES)):
        yield _count(f"RunInstances calls for {JOBS} jobs, {name}", seen.run_instances, floor)
    limited = equal.throttled + cold.throttled + mixed.throttled
    yield _count("RequestLimitExceeded answers in three bursts", limited, None)


def _shapes() -> list[str]:
    """Twenty types of one size."""
    names = [
        name for name, kind in kinds().items() if kind.cpu == 2 and kind.architecture == "x86_64"
    ]
    return names[:SHAPES]


def measure_life() -> Iterator[Figure]:
    """A thousand jobs of a minute, and ten, from the insert to the end; then a daemon without jobs."""
    with ThreadPoolExecutor(3) as pool:
        few = pool.submit(_life_and_idle, FEW)
        never_busy = pool.submit(_idle)
        many = pool.submit(_life, JOBS).result()
        fewer, just_idle = few.result()
        idle = never_busy.result()
    yield _figure(
        f"AWS calls a job over the life of {JOBS} jobs of 60 s (no log lines)",
        many.calls_a_job,
        "calls",
        0.3,
    )
    yield _figure(
        f"AWS calls a minute over the life of {JOBS} jobs, over those of {FEW}",
        many.calls_a_minute,
        "calls/min",
        fewer.calls_a_minute,
    )
    yield _figure(
        f"AWS calls a minute while {JOBS} jobs run, over those while {FEW} run",
        many.steady_calls_a_minute,
        "calls/min",
        fewer.steady_calls_a_minute,
    )
    yield _figure("AWS calls in the minute after the last job's end", just_idle, "calls/min", 6)
    yield _figure("AWS calls a minute of a daemon that never had a job", idle, "calls/min", 6)
    limited = throttled_of(many.calls) + throttled_of(fewer.calls)
    yield _count("RequestLimitExceeded answers in two whole lives", limited, None)
    yield _figure(f"daemon's CPU a job, {JOBS} jobs, insert to end", many.cpu_ms_a_job, "ms", 5)


def _life(jobs: int) -> Life:
    with a_site() as site:
        return live(site, jobs, boot_s=10, spread_s=6, run_s=60)


def _life_and_idle(jobs: int) -> tuple[Life, float]:
    with a_site() as site:
        life = live(site, jobs, boot_s=10, spread_s=6, run_s=60)
        return life, idle_calls_a_minute(site, seconds=IDLE_S)


def _idle() -> float:
    with a_site() as site:
        return idle_calls_a_minute(site, seconds=IDLE_S)


def measure_shortages() -> Iterator[Figure]:
    """A hundred jobs without spot capacity, and without any."""
    spot = without_spot(100)
    yield _count(
        "100 auto jobs, no spot capacity: most RunInstances calls to one spot offering",
        spot.calls_an_offering,
        1,
    )
    yield _count(
        "100 auto jobs, no spot capacity: RunInstances calls for spot, over spot offerings",
        spot.spot_calls,
        spot.spot_offerings,
    )
    yield _count(
        "100 auto jobs, no spot capacity: RunInstances calls on demand", spot.on_demand_calls, 1
    )
    yield _count("100 auto jobs, no spot capacity: machines of a dearer type", spot.upsized, None)
    none = without_capacity(100, minutes=10)
    yield _count(
        "100 jobs, no capacity for 10 min (simulated): RunInstances calls, over offerings x block windows",
        none.calls,
        none.offerings * none.windows,
    )
    yield _count(
        "100 jobs, no capacity for 10 min (simulated): jobs without a reason",
        none.without_reason,
        None,
    )


def measure_many() -> Iterator[Figure]:
    """One pass over ten thousand running machines."""
    seen = measure_pass(MANY)
    yield from _pass_figures(
        f"machines pass over {MANY} running", seen.machines, cpu_s=1.5, calls=MANY // 1000 + 1
    )
    yield from _pass_figures(
        f"heartbeats of {MANY} running", seen.inbox, cpu_s=None, calls=MANY // 1000 + 1
    )
    yield _figure(
        f"memory of a daemon with {MANY} running, at its most", seen.resident_mb, "MB", 350
    )


def _pass_figures(what: str, seen: Pass, *, cpu_s: float | None, calls: int) -> Iterator[Figure]:
    yield _figure(f"{what}: longest stall of the event loop", seen.stall_ms, "ms", 50)
    yield _figure(f"{what}: longest step by CPU time", seen.step_ms, "ms", 50)
    yield _figure(f"{what}: CPU", seen.cpu_s, "s", cpu_s)
    yield _count(f"{what}: AWS calls, over pages", seen.calls, calls)


def measure_kills() -> Iterator[Figure]:
    """Daemons that die (kill -9) at each step of the launch of a hundred jobs."""
    with ThreadPoolExecutor(2) as pool:
        for step, seen in zip(
            STEPS, pool.map(lambda step: kill_at(step, jobs=100), STEPS), strict=True
        ):
            yield _count(f"kill -9, {step}: duplicates of 100 jobs", seen.duplicates, None)
            yield _count(f"kill -9, {step}: orphans of 100 jobs", seen.orphans, None)
            yield _count(f"kill -9, {step}: lost of 100 jobs", seen.lost, None)


PARTS: dict[str, Callable[[], Iterator[Figure]]] = {
    "burst": measure_burst,
    "life": measure_life,
    "shortages": measure_shortages,
    "many": measure_many,
    "kills": measure_kills,
}


def _seconds(what: str, seen: Burst, baseline_s: float) -> Figure:
    return _figure(what, seen.seconds, "s", baseline_s)


def _count(what: str, value: int, baseline: int | None) -> Figure:
    return Figure(figure=what, value=value, unit="count", baseline=baseline)


def _figure(what: str, value: float, unit: str, baseline: float | None) -> Figure:
    rounded = None if baseline is None else round(baseline, 3)
    return Figure(figure=what, value=round(value, 3), unit=unit, baseline=rounded)
