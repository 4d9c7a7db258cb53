"""Each launch tells its machines how long they may exist."""

from __future__ import annotations

from dataclasses import replace

from dstackd import protocol
from dstackd.core.instance import Market
from dstackd.core.limits import Limits
from dstackd.core.offering import Offering
from dstackd.intent import LaunchTerms, request_for
from tests.builders import SPEC, a_job

OFFERING = Offering(
    instance_type="m5.large",
    subnet_id="subnet-1",
    zone="us-east-1a",
    market=Market.SPOT,
    architecture="x86_64",
    price_usd_h=0.1,
    vcpus=2,
)
TERMS = LaunchTerms(
    backend="aws",
    bucket="a-bucket",
    region="us-east-1",
    owner="o",
    runner_sha256="0" * 64,
    user_data="",
    instance_profile="",
    security_group_ids=(),
    heartbeat_s=60,
    watch_s=5,
    log_flush_s=1,
)


def lifetime_of(*durations_s: int | None, limits: Limits) -> int:
    batch = [a_job(spec=replace(SPEC, max_duration_s=each)) for each in durations_s]
    request = request_for("a-launch", batch, OFFERING, replace(TERMS, limits=limits))
    return int(dict(request.tags)[protocol.TAG_LIFETIME])


def test_the_tag_says_how_long_a_machine_may_exist() -> None:
    """The longest job of a launch decides, and no job goes beyond the installation's bound."""
    limits = Limits(machine_lifetime_s=50_000)
    hour_s = lifetime_of(3600, limits=limits)
    assert 3600 < hour_s < 3 * 3600
    assert lifetime_of(60, 3600, 10, limits=limits) == hour_s
    assert lifetime_of(3600, None, limits=limits) == 50_000
    assert lifetime_of(10**6, limits=limits) == 50_000
