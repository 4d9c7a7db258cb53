"""No spot capacity, and no capacity at all. Law: what is counted are RunInstances calls, in real and in simulated time."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import structlog

from dstackd.catalogue import Catalogue
from dstackd.clock import SystemClock
from dstackd.market import BLOCK_MAX_S
from dstackd.simulated.compute import SHORTAGE_BLOCK_S
from dstackd.simulated.places import REGION
from dstackd.spec.parse import parse_spec
from dstackd.store.engine import open_database
from dstackd.store.migrate import upgrade
from tests.benchmarks.launch.instance_types import kinds
from tests.benchmarks.launch.lives import LAUNCH_S, job
from tests.benchmarks.launch.plan import ZONES
from tests.benchmarks.launch.site import QUICK, a_site
from tests.controllers.installation import an_installation

TYPES = ("c5.large", "m5.large")
STEP_S = 2.0


@dataclass(frozen=True, slots=True)
class WithoutSpot:
    """`auto` jobs of one shape where spot has no capacity."""

    spot_offerings: int
    calls_an_offering: int
    """The most RunInstances calls that one spot offering got."""
    spot_calls: int
    on_demand_calls: int
    upsized: int
    """Machines of a dearer type than the cheapest that fits."""


def without_spot(jobs: int, **plan: object) -> WithoutSpot:
    """Launch them and look at what was asked for. `plan`: fields of `plan.Plan`."""
    with a_site(more=QUICK, no_spot=True, boot_s=600, **plan) as site:
        site.insert([job(*TYPES, spot_policy="auto")] * jobs)
        site.wait_for(jobs, ("booting",), within_s=LAUNCH_S)
        calls = Counter(call.subject for call in site.cloud.calls("ec2:RunInstances"))
        spot = {
            subject: count for subject, count in calls.items() if not subject.endswith("on-demand")
        }
        cheapest = min(TYPES, key=lambda name: kinds()[name].price_usd_h)
        return WithoutSpot(
            spot_offerings=len(TYPES) * len(ZONES),
            calls_an_offering=max(spot.values()),
            spot_calls=sum(spot.values()),
            on_demand_calls=calls.total() - sum(spot.values()),
            upsized=sum(one.instance_type != cheapest for one in site.cloud.machines()),
        )


@dataclass(frozen=True, slots=True)
class WithoutCapacity:
    """Jobs of one shape where nothing has capacity."""

    offerings: int
    windows: int
    """How often a block of an offering can have run out, and the first time."""
    calls: int
    without_reason: int
    """Jobs that were given up, or wait without saying for what."""


def without_capacity(jobs: int, *, minutes: float) -> WithoutCapacity:
    """That many simulated minutes."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    folder = Path(tempfile.mkdtemp(prefix="dstackd-bench-"))
    try:
        return asyncio.run(_without_capacity(folder, jobs, seconds=minutes * 60))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        structlog.configure(**before)


async def _without_capacity(folder: Path, jobs: int, *, seconds: float) -> WithoutCapacity:
    template = folder / "template.db"
    async with open_database(f"sqlite:///{template}", clock=SystemClock()) as database:
        await upgrade(database)
    spec = job(*TYPES, spot_policy="auto")
    async with an_installation(folder, template=template, inline=True) as world:
        world.cloud.faults.capacity["*"] = 0
        catalogue = Catalogue(world.cloud.compute, region=REGION, clock=world.clock)
        plan = await catalogue.plan(parse_spec(spec))
        for number in range(jobs):
            world.insert(json.dumps(spec), job_id=f"job-{number}")
        await world.rounds(int(seconds / STEP_S), every_s=STEP_S)
        rows = world.sql("SELECT phase, reason, message FROM job")
        return WithoutCapacity(
            offerings=len(plan.offerings),
            windows=block_windows(seconds),
            calls=world.cloud.calls.get("RunInstances", 0),
            without_reason=sum(
                row["phase"] != "queued" or row["reason"] != "no_capacity" or not row["message"]
                for row in rows
            ),
        )


def block_windows(seconds: float) -> int:
    """Times at which an offering is open within so many seconds: blocks double from 180 s up to their bound."""
    count, at_s, block_s = 0, 0.0, SHORTAGE_BLOCK_S
    while at_s < seconds:
        count += 1
        at_s += block_s
        block_s = min(block_s * 2, BLOCK_MAX_S)
    return count
