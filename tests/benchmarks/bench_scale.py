"""A million jobs over twenty backends: what bounds them, by a model whose figures are measured. daemon/scaling.md has what follows.

Real, measured in this run: a daemon's CPU for a job, insert to end, and for a pass over ten thousand machines (the product over HTTP
against a fake AWS, on SQLite; `MEASURE=0` takes the bars instead). Real code: the token buckets with EC2's published sizes
(`core.ec2_limits`). Modelled, in steps of a second: everything else, as the constants below say. A backend launches what its queue, its
buckets, its vCPUs and its daemon's CPU let it, and every daemon dies once.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from dstackd.controllers.planning import ELSEWHERE_AFTER_S, ELSEWHERE_EVERY_S
from dstackd.core.ec2_limits import Ec2Limits
from dstackd.core.token_bucket import TokenBucket
from tests.benchmarks.figure import Figure

JOBS = 1_000_000
BACKENDS = 20
SUBMITTED_OVER_S = 3600
JOB_S = 720
"""A job of ten minutes, its machine's boot and its end: so long a machine holds its vCPUs."""
VCPUS = 2
LARGE_QUOTA, SMALL_QUOTA = 5000, 256
"""vCPUs that an account may have in a region: raised, and near to where new accounts begin."""
BATCH = 100
LOOK_AHEAD = 1000
TAKEOVER_S = 13
"""Nobody launches for so long after a daemon's death (`bench_takeover`: the worst)."""
PASS_EVERY_S = 10.0
HOURS_MAX = 100
CPU_MS_A_JOB, CPU_S_A_PASS, PASS_MACHINES = 5.0, 1.5, 10_000
"""The bars of `bench_launch`."""


@dataclass(slots=True)
class Costs:
    """Of a daemon, in seconds of CPU."""

    job_s: float = CPU_MS_A_JOB / 1000
    machine_a_pass_s: float = CPU_S_A_PASS / PASS_MACHINES


@dataclass(slots=True)
class ModelBackend:
    """An account in a region, and the daemon that owns it."""

    quota: int
    requests: TokenBucket
    machines: TokenBucket
    down_at_s: int
    queued: int = 0
    running: int = 0
    waiting_since_s: int = 0
    """Since when its queue is not empty."""
    ends: Counter[int] = field(default_factory=Counter)
    launched: int = 0
    taken: int = 0
    """Jobs that were another backend's before."""
    cpu_max: float = 0.0
    """The most that its daemon needed, as a share of a second."""

    def step(self, now_s: int, costs: Costs) -> None:
        """One second."""
        ended = self.ends.pop(now_s, 0)
        self.running -= ended
        if self.down_at_s <= now_s < self.down_at_s + TAKEOVER_S:
            return
        self.requests, self.machines = self.requests.at(now_s), self.machines.at(now_s)
        room = min(
            self.queued,
            int(self.machines.tokens),
            int(self.requests.tokens) * BATCH,
            self.quota // VCPUS - self.running,
            int(1.0 / costs.job_s),
        )
        count = max(room, 0)
        for start in range(0, count, BATCH):
            self.requests = self.requests.take(1, now_s=now_s)
            self.machines = self.machines.take(min(BATCH, count - start), now_s=now_s)
        self.queued -= count
        self.running += count
        self.launched += count
        self.ends[now_s + JOB_S] += count
        if not self.queued:
            self.waiting_since_s = now_s
        steady = self.running * costs.machine_a_pass_s / PASS_EVERY_S
        self.cpu_max = max(self.cpu_max, count * costs.job_s + steady)


def play(quotas: Sequence[int], *, costs: Costs, elsewhere: bool) -> tuple[int, list[ModelBackend]]:
    """(seconds until the last job's end, the backends). `elsewhere`: whether a backend takes what others cannot launch."""
    chance, limits = random.Random(0), Ec2Limits()
    machines = limits.machines("RunInstances")
    assert machines is not None
    backends = [
        ModelBackend(
            quota,
            TokenBucket.full(limits.requests("RunInstances"), now_s=0),
            TokenBucket.full(machines, now_s=0),
            down_at_s=chance.randrange(1, 20_000),
        )
        for quota in quotas
    ]
    submitted = 0
    for now_s in range(HOURS_MAX * 3600):
        due = min(JOBS, JOBS * (now_s + 1) // SUBMITTED_OVER_S)
        for number in range(submitted, due):
            backends[number % len(backends)].queued += 1
        submitted = due
        for backend in backends:
            backend.step(now_s, costs)
        if elsewhere and now_s % int(ELSEWHERE_EVERY_S) == 0:
            _take_from_elsewhere(backends, now_s)
        if submitted == JOBS and not any(each.queued or each.running for each in backends):
            return now_s, backends
    return HOURS_MAX * 3600, backends


def _take_from_elsewhere(backends: Sequence[ModelBackend], now_s: int) -> None:
    """As `Planning` does: only what can be launched now, and only while the own queue leaves room for a look."""
    for taker in backends:
        room = min(LOOK_AHEAD - taker.queued, taker.quota // VCPUS - taker.running)
        room = min(room - taker.queued, int(taker.machines.tokens))
        for giver in sorted(backends, key=lambda each: -each.queued):
            if room <= 0 or giver is taker or now_s - giver.waiting_since_s < ELSEWHERE_AFTER_S:
                continue
            count = min(room, giver.queued)
            giver.queued -= count
            taker.queued += count
            taker.taken += count
            room -= count


def floor_s(quotas: Sequence[int]) -> float:
    """No daemon could be faster: every backend launches all the time as fast as EC2 allows, or has as many as its quota holds."""
    limits = Ec2Limits()
    rates = [min(limits.run_instances_machines_per_s, quota / VCPUS / JOB_S) for quota in quotas]
    burst = sum(min(limits.run_instances_machines_burst, quota // VCPUS) for quota in quotas)
    return (JOBS - burst) / sum(rates) + JOB_S


def measured() -> tuple[Costs, Iterator[Figure]]:
    """What a daemon costs here."""
    if os.environ.get("MEASURE") == "0":
        return Costs(), iter(())
    from tests.benchmarks.bench_launch import _life
    from tests.benchmarks.launch.many import measure_pass

    life, one_pass = _life(PASS_MACHINES // 10), measure_pass(PASS_MACHINES)
    costs = Costs(life.cpu_ms_a_job / 1000, one_pass.machines.cpu_s / PASS_MACHINES)
    figures = (
        ("measured: daemon's CPU a job, insert to end", costs.job_s * 1000, "ms", CPU_MS_A_JOB),
        (
            f"measured: CPU of a pass over {PASS_MACHINES} machines",
            one_pass.machines.cpu_s,
            "s",
            CPU_S_A_PASS,
        ),
    )
    return costs, (
        Figure(figure=name, value=round(value, 3), unit=unit, baseline=bar)
        for name, value, unit, bar in figures
    )


def measure() -> Iterator[Figure]:
    """The measured costs, then the worlds."""
    costs, figures = measured()
    yield from figures
    equal = [LARGE_QUOTA] * BACKENDS
    mixed = [LARGE_QUOTA, SMALL_QUOTA] * (BACKENDS // 2)
    for name, quotas, elsewhere in (
        ("equal quotas", equal, True),
        ("half with small quotas", mixed, True),
        ("half with small quotas, each its own jobs only", mixed, False),
    ):
        seconds, backends = play(quotas, costs=costs, elsewhere=elsewhere)
        what = f"model: {BACKENDS} backends, {JOBS} jobs, {name}"
        least_s = floor_s(quotas)
        yield Figure(
            figure=f"{what}: all over, at most {HOURS_MAX} h, over what EC2 allows",
            value=round(seconds / 3600, 2),
            unit="h",
            baseline=round(least_s / 3600, 2),
        )
        yield Figure(
            figure=f"{what}: launches",
            value=round(sum(b.launched for b in backends) / seconds, 1),
            unit="1/s",
        )
        yield Figure(
            figure=f"{what}: the busiest daemon, at its busiest second",
            value=round(max(each.cpu_max for each in backends), 3),
            unit="CPU",
            baseline=1.0,
        )
        yield Figure(
            figure=f"{what}: jobs that another backend took",
            value=sum(each.taken for each in backends),
            unit="jobs",
        )
