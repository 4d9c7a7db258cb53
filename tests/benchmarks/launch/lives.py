"""Whole lives of many jobs, and what they cost in calls and processor time. Law: the daemon is as it is installed, at its defaults."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.benchmarks.launch.cloud import CallSeen
from tests.benchmarks.launch.environment import wait_until
from tests.benchmarks.launch.site import TERMINAL, Site, a_site

LIMITED = frozenset({"RequestLimitExceeded", "ThrottlingException"})
SETTLED_S = 1.0
LAUNCH_S = 180.0


def job(*types: str, **more: object) -> dict[str, object]:
    """A spec of one of these instance types (c5.large when none is given)."""
    return {"commands": ["true"], "instance_types": list(types or ("c5.large",)), **more}


def warm(site: Site, spec: object) -> None:
    """One job's launch, so that what a daemon asks for once a day is known; then full buckets and no calls."""
    site.insert([spec])
    site.wait_for(1, ("booting", "running"), within_s=LAUNCH_S)
    time.sleep(SETTLED_S * 2)  # the tokens of its call come back
    site.cloud.fresh()


@dataclass(frozen=True, slots=True)
class Burst:
    """Jobs inserted at once, until each had its machine."""

    seconds: float
    """From the insert to the last answer to RunInstances."""
    run_instances: int
    throttled: int


def burst(specs: Sequence[object], *, warmed: bool) -> Burst:
    """Insert them all at once and wait for the launches."""
    with a_site(boot_s=600) as site:
        if warmed:
            warm(site, specs[0])
        began_s = site.insert(specs)
        site.wait_for(len(specs) + warmed, ("booting",), within_s=LAUNCH_S)
        return _burst(site.cloud.calls(), began_s)


def _burst(calls: Sequence[CallSeen], began_s: float) -> Burst:
    launches = [call for call in calls if call.name == "ec2:RunInstances"]
    return Burst(
        seconds=max(call.answered_s for call in launches) - began_s,
        run_instances=len(launches),
        throttled=throttled(calls),
    )


def throttled(calls: Sequence[CallSeen]) -> int:
    """How many answers said that the caller is too fast."""
    return sum(call.code in LIMITED for call in calls)


@dataclass(frozen=True, slots=True)
class Life:
    """Jobs from their insert to the last one's end."""

    jobs: int
    seconds: float
    cpu_s: float
    calls: Sequence[CallSeen]
    steady_calls_a_minute: float
    """While every job ran and nothing else happened."""

    @property
    def calls_a_job(self) -> float:
        """Over the whole life."""
        return len(self.calls) / self.jobs

    @property
    def calls_a_minute(self) -> float:
        """Over the whole life."""
        return len(self.calls) / self.seconds * 60

    @property
    def cpu_ms_a_job(self) -> float:
        """The daemon's own, from the insert to the end."""
        return self.cpu_s / self.jobs * 1000


def live(site: Site, jobs: int, *, boot_s: float, spread_s: float, run_s: float) -> Life:
    """Jobs of `run_s` on a running site, all of one shape."""
    site.cloud.plan(boot_s=0.5, boot_spread_s=0, run_s=0.5, shutdown_s=1)
    warm(site, job())
    site.wait_for_end(within_s=LAUNCH_S)
    site.cloud.plan(boot_s=boot_s, boot_spread_s=spread_s, run_s=run_s, shutdown_s=5)
    site.cloud.fresh()
    before_cpu_s = site.cpu_s()
    began_s = site.insert([job()] * jobs)
    site.wait_for(jobs, ("running",), within_s=LAUNCH_S)
    steady_from_s = time.monotonic() + SETTLED_S
    launches = site.cloud.calls("ec2:RunInstances")
    steady_to_s = min(call.arrived_s for call in launches) + boot_s + run_s
    _wait_for_end(site, jobs + 1)
    ended_s = time.monotonic()
    cpu_s = site.cpu_s() - before_cpu_s
    calls = [call for call in site.cloud.calls() if call.arrived_s <= ended_s]
    steady = [call for call in calls if steady_from_s <= call.arrived_s < steady_to_s]
    return Life(
        jobs=jobs,
        seconds=ended_s - began_s,
        cpu_s=cpu_s,
        calls=calls,
        steady_calls_a_minute=len(steady) / (steady_to_s - steady_from_s) * 60,
    )


def _wait_for_end(site: Site, jobs: int) -> None:
    def over() -> bool:
        phases = site.phases()
        return sum(phases[phase] for phase in TERMINAL) == jobs

    wait_until(over, what=lambda: f"the end; {site.phases()}", within_s=LAUNCH_S * 2, poll_s=0.1)


def idle_calls_a_minute(site: Site, *, seconds: float) -> float:
    """What a daemon without a live job asks for."""
    time.sleep(SETTLED_S)
    site.cloud.fresh()
    time.sleep(seconds)
    return len(site.cloud.calls()) / seconds * 60
