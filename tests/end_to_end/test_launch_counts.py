"""Budgets of AWS calls, on a fake EC2 that enforces the published token buckets. Counts only: they do not depend on the machine."""

from __future__ import annotations

from collections import Counter

from tests.benchmarks.launch.cloud import by_name
from tests.benchmarks.launch.kills import Aftermath, kill_at
from tests.benchmarks.launch.lives import LIMITED, job
from tests.benchmarks.launch.shortages import without_spot
from tests.benchmarks.launch.site import QUICK, a_site

JOBS = 200
TYPES = ("c5.large", "m5.large", "r5.large")
END_S = 50.0
FAST: dict[str, object] = {"run_instances_s": 0.2, "describe_s": 0.02, "other_s": 0.01}
"""Latencies of a cloud next door: how often it is asked does not depend on them."""


def test_a_life_of_many_jobs_is_a_life_of_few_calls() -> None:
    """Jobs of three shapes share three calls to RunInstances, none is throttled, and none asks for anything of its own."""
    plan = {"boot_s": 1, "boot_spread_s": 1, "run_s": 2, "shutdown_s": 1}
    with a_site(more=QUICK, **plan, **FAST) as site:
        site.insert([job(TYPES[number % len(TYPES)]) for number in range(JOBS)])
        site.wait_for_end(within_s=END_S)
        calls = site.cloud.calls()

        assert site.phases() == {"succeeded": JOBS}
        assert [call.name for call in calls if call.code in LIMITED] == []
        launches = Counter(
            call.subject.split("/")[0] for call in calls if call.name == "ec2:RunInstances"
        )
        assert launches == dict.fromkeys(TYPES, 1)
        assert len(site.cloud.machines()) == JOBS
        named = by_name(calls)
        assert named["s3:PutObject"] == len(TYPES) + 1  # their documents and the runner
        assert named["s3:GetObject"] == 0
        assert named["ec2:TerminateInstances"] <= 15
        assert named["s3:DeleteObjects"] <= 15


def test_without_spot_capacity_each_offering_is_asked_once() -> None:
    """`auto` jobs of one shape try each spot offering once, all together, then go on demand on the cheapest type."""
    seen = without_spot(50, **FAST)

    assert seen.calls_an_offering == 1
    assert seen.spot_calls == seen.spot_offerings
    assert (seen.on_demand_calls, seen.upsized) == (1, 0)


def test_a_daemon_that_dies_with_its_calls_on_the_way_launches_nothing_twice() -> None:
    """Two calls that are carried out after kill -9: the next daemon finds every machine, and every job ends once."""
    seen = kill_at("call sent", jobs=40, boot_s=1, run_s=4, **FAST)

    assert seen == Aftermath(duplicates=0, orphans=0, lost=0)
