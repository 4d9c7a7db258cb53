"""Blocks and learnt quotas: what is asked for next, how many of it, and what a waiting job is told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstackd.core.instance import Market
from dstackd.core.launching import LaunchRequest
from dstackd.core.offering import Offering
from dstackd.core.phase import Phase, Reason
from dstackd.core.quota import LearntQuota, open_count, vcpus_by_quota
from dstackd.core.waiting import decide_without_capacity
from dstackd.errors import BlockScope, CapacityShortage, InvalidRequest, Unauthorized
from dstackd.market import BLOCK_MAX_S, QUOTA_BELIEVED_MS, ROOM_LOOK_S, MarketBlocks
from dstackd.spec.model import JobSpec, RetryCause, RetryPolicy, SpotPolicy
from tests.builders import NOW_MS, a_job, a_request

MINUTE_MS = 60_000
LARGE = Offering("m5.large", "subnet-a", "us-east-1a", Market.ON_DEMAND, "x86_64", 0.1, vcpus=2)
HUGE = replace(LARGE, instance_type="m5.24xlarge", price_usd_h=4.6, vcpus=96)
GPU = replace(LARGE, instance_type="g5.xlarge", price_usd_h=1.0, vcpus=4)
ADVICE = "ask for a higher quota"


def asked(offering: Offering, count: int = 1) -> LaunchRequest:
    """The request for so many."""
    request = a_request(instance_type=offering.instance_type, market=offering.market, count=count)
    return replace(request, subnet_id=offering.subnet_id, zone=offering.zone)


def ice() -> CapacityShortage:
    """No capacity in one pool."""
    return CapacityShortage(
        "InsufficientInstanceCapacity", "none", scope=BlockScope.OFFERING, block_s=180
    )


def quota(limit_vcpus: int | None = None) -> CapacityShortage:
    """A quota, with its figure or without."""
    code = "MaxSpotInstanceCountExceeded" if limit_vcpus is None else "VcpuLimitExceeded"
    return CapacityShortage(
        code,
        "too many",
        advice=ADVICE,
        scope=BlockScope.QUOTA,
        block_s=300,
        limit_vcpus=limit_vcpus,
    )


@given(
    st.integers(1, 300), st.integers(0, 500), st.integers(0, 500), st.none() | st.integers(1, 90)
)
def test_a_quota_is_never_exceeded(wanted: int, live: int, limit: int, ask_max: int | None) -> None:
    """As many as fit beside what is live, never more than wanted or than what was halved, never fewer than possible."""
    learnt = LearntQuota(NOW_MS, limit_vcpus=limit, ask_max=ask_max)
    count = open_count(LARGE, wanted=wanted, live_vcpus=live, learnt=learnt)
    bounds = (wanted, ask_max if ask_max is not None else wanted, max(limit - live, 0) // 2)
    assert count == min(bounds)
    assert open_count(LARGE, wanted=wanted, live_vcpus=live, learnt=None) == wanted


def test_live_machines_are_counted_by_quota() -> None:
    """Types that share a quota add up; markets do not."""
    machines = [("m5.large", "spot", 3), ("c5.2xlarge", "spot", 1), ("m5.large", "on-demand", 2)]
    vcpus = {"m5.large": 2, "c5.2xlarge": 8}
    assert vcpus_by_quota(machines, vcpus) == {"spot/standard": 14, "on-demand/standard": 4}


def test_a_learnt_limit_lowers_the_ask() -> None:
    """After the block, only as many are asked for as fit beside our machines; other quotas are untouched."""
    blocks = MarketBlocks()
    assert not blocks.knows_limits(NOW_MS)
    blocks.add(asked(LARGE, 100), quota(32), now_ms=NOW_MS)
    assert blocks.knows_limits(NOW_MS)
    assert blocks.choose([LARGE], wanted=100, now_ms=NOW_MS + 1) is None
    later_ms = NOW_MS + 5 * MINUTE_MS
    choice = blocks.choose([LARGE], wanted=100, now_ms=later_ms)
    assert choice is not None
    assert (choice.offering, choice.count) == (LARGE, 16)
    blocks.reserve(LARGE, 10)
    choice = blocks.choose([HUGE, LARGE, GPU], wanted=100, now_ms=later_ms)
    assert choice is not None
    assert (choice.offering, choice.count) == (LARGE, 6)
    blocks.note_live({"on-demand/standard": 32})
    choice = blocks.choose([LARGE, GPU], wanted=100, now_ms=later_ms)
    assert choice is not None
    assert (choice.offering, choice.count) == (GPU, 100)
    forgotten_ms = NOW_MS + QUOTA_BELIEVED_MS
    choice = blocks.choose([LARGE], wanted=100, now_ms=forgotten_ms)
    assert choice is not None
    assert choice.count == 100


def test_a_quota_without_a_figure_halves_the_ask() -> None:
    """100, 50, 25 ... 1; each success at the bound doubles it again."""
    blocks, now_ms, counts = MarketBlocks(), NOW_MS, []
    for _ in range(9):
        choice = blocks.choose([LARGE], wanted=100, now_ms=now_ms)
        assert choice is not None
        counts.append(choice.count)
        blocks.add(asked(LARGE, choice.count), quota(), now_ms=now_ms)
        now_ms += int(BLOCK_MAX_S * 1000)
    assert counts == [100, 50, 25, 12, 6, 3, 1, 1, 1]
    for expected in (2, 4, 8):
        choice = blocks.choose([LARGE], wanted=100, now_ms=now_ms)
        assert choice is not None
        blocks.forget(asked(LARGE, choice.count))
        choice = blocks.choose([LARGE], wanted=100, now_ms=now_ms)
        assert choice is not None
        assert choice.count == expected


def test_what_was_halved_is_asked_for_once_a_pass() -> None:
    """The rest of the jobs waits for the answer, and knows why, instead of asking as often as it takes."""
    blocks = MarketBlocks()
    blocks.add(asked(LARGE, 100), quota(), now_ms=NOW_MS)
    later_ms = NOW_MS + 6 * MINUTE_MS
    choice = blocks.choose([LARGE], wanted=80, now_ms=later_ms)
    assert choice is not None
    blocks.reserve(LARGE, choice.count)
    assert choice.count == 50
    assert blocks.choose([LARGE], wanted=30, now_ms=later_ms) is None
    refusal = blocks.summary([LARGE], now_ms=later_ms)
    assert "only few are asked for at once" in refusal.message
    assert refusal.until_ms == later_ms + ROOM_LOOK_S * 1000
    assert blocks.knows_limits(later_ms)
    blocks.note_live({})
    assert blocks.choose([LARGE], wanted=30, now_ms=later_ms) is not None


def test_a_used_up_quota_waits_for_a_machine_to_end() -> None:
    """The job is looked at again soon, which costs no call, and the words do not change with the machines."""
    blocks = MarketBlocks()
    blocks.add(asked(LARGE), quota(32), now_ms=NOW_MS)
    texts = set()
    for live in (32, 31):
        blocks.note_live({"on-demand/standard": live})
        refusal = blocks.summary([LARGE], now_ms=NOW_MS + 6 * MINUTE_MS)
        assert refusal.until_ms == NOW_MS + 6 * MINUTE_MS + ROOM_LOOK_S * 1000
        texts.add(refusal.message)
    (text,) = texts
    assert "vCPU quota on-demand/standard is 32" in text
    assert "when a machine ends" in text
    assert "Service Quotas" in text


def test_a_type_larger_than_the_quota_is_told_so() -> None:
    """Waiting would not help: the message says what would."""
    blocks = MarketBlocks()
    blocks.add(asked(LARGE), quota(32), now_ms=NOW_MS)
    block = blocks.closed(HUGE, now_ms=NOW_MS + 6 * MINUTE_MS)
    assert block is not None
    assert "this type needs more" in block.message
    assert not block.awaits_room


def test_blocks_grow_only_while_refusals_follow_each_other() -> None:
    """Twice as long with each repeat; yesterday's refusal says nothing about today's."""
    blocks = MarketBlocks()
    now_ms, lengths = NOW_MS, []
    for _ in range(5):
        blocks.add(asked(LARGE), ice(), now_ms=now_ms)
        block = blocks.closed(LARGE, now_ms=now_ms)
        assert block is not None
        assert block.since_ms == NOW_MS
        lengths.append((block.until_ms - now_ms) // 1000)
        now_ms = block.until_ms
    assert lengths == [180, 360, 720, 900, 900]
    now_ms += 24 * 3600 * 1000
    blocks.add(asked(LARGE), ice(), now_ms=now_ms)
    block = blocks.closed(LARGE, now_ms=now_ms)
    assert block is not None
    assert (block.since_ms, block.until_ms) == (now_ms, now_ms + 180_000)


def many(count: int) -> list[Offering]:
    """Different types in three zones."""
    return [
        replace(LARGE, instance_type=f"m{at}.large", subnet_id=f"s-{at % 3}", zone=f"z{at % 3}")
        for at in range(count)
    ]


@pytest.mark.parametrize("count", [1, 3, 300])
def test_a_waiting_reason_is_short_and_does_not_change_by_itself(count: int) -> None:
    """The same words in every pass until something is asked for again, however many are blocked."""
    blocks, offerings = MarketBlocks(), many(count)
    for at, offering in enumerate(offerings):
        blocks.add(asked(offering), ice(), now_ms=NOW_MS + at)
    first = blocks.summary(offerings, now_ms=NOW_MS + 1000)
    for passed_ms in (6000, 100_000, 170_000):
        again = blocks.summary(list(reversed(offerings)), now_ms=NOW_MS + passed_ms)
        assert again == first
    assert first.reason is Reason.NO_CAPACITY
    assert first.until_ms == NOW_MS + 180_000
    assert len(first.message) < 250
    assert "InsufficientInstanceCapacity" in first.message
    assert "UTC" in first.message


def test_what_waiting_jobs_read() -> None:
    """One, three, and many offerings; by code, with what would help and points in time."""
    blocks, offerings = MarketBlocks(), many(4)
    blocks.add(asked(offerings[0]), ice(), now_ms=NOW_MS)
    since, at = "refused since 20", "; asked again at 20"
    (one,) = [blocks.summary(offerings[:1], now_ms=NOW_MS).message]
    assert one.startswith("m0.large on-demand in z0: InsufficientInstanceCapacity: none; ")
    assert since in one
    assert at in one
    for offering in offerings[1:3]:
        error = CapacityShortage(
            "Unsupported",
            offering.zone,
            advice="take another",
            scope=BlockScope.OFFERING,
            block_s=9,
        )
        blocks.add(asked(offering), error, now_ms=NOW_MS)
    three = blocks.summary(offerings[:3], now_ms=NOW_MS).message
    assert three.startswith(
        "none of 3 offerings is open: "
        "2 Unsupported [m1.large on-demand in z1, m2.large on-demand in z2] (take another), "
        "1 InsufficientInstanceCapacity: none; "
    )
    blocks.add(asked(offerings[3]), quota(8), now_ms=NOW_MS)
    same = blocks.summary(offerings, now_ms=NOW_MS).message
    assert same.startswith(f"all 4 offerings: VcpuLimitExceeded: too many ({ADVICE}); ")


def test_one_wrong_request_stops_its_own_offering_only() -> None:
    """What EC2 calls wrong for one offering may be right for the next; three in a row are wrong for all."""
    blocks, offerings = MarketBlocks(), many(5)
    error = InvalidRequest("InvalidParameterCombination", "not with this type")
    for count, offering in enumerate(offerings[:3], start=1):
        blocks.add_refusal(asked(offering), error, block_s=60, now_ms=NOW_MS)
        choice = blocks.choose(offerings, wanted=1, now_ms=NOW_MS)
        assert (choice is None) == (count == 3)
    assert blocks.summary(offerings, now_ms=NOW_MS).reason is Reason.INVALID_LAUNCH


def test_a_denial_concerns_every_launch() -> None:
    """It has a reason of its own, and is no lack of capacity."""
    blocks = MarketBlocks()
    error = Unauthorized("UnauthorizedOperation", "no", advice="compare the policy")
    blocks.add_refusal(asked(LARGE), error, block_s=60, now_ms=NOW_MS)
    refusal = blocks.summary(many(5), now_ms=NOW_MS)
    assert refusal.reason is Reason.UNAUTHORIZED
    assert refusal.message.startswith("all 5 offerings: UnauthorizedOperation: no (compare the po")
    blocks.forget(asked(LARGE))
    assert blocks.choose(many(5), wanted=7, now_ms=NOW_MS) is not None


def test_a_waiting_job_is_told_what_in_its_spec_would_help() -> None:
    """And when it is given up, if it is; a job that allows no waiting ends."""
    blocks = MarketBlocks()
    blocks.add(asked(LARGE), ice(), now_ms=NOW_MS)
    refusal = blocks.summary([LARGE], now_ms=NOW_MS)
    narrow = JobSpec(
        commands=("true",),
        spot_policy=SpotPolicy.SPOT,
        max_price=0.1,
        instance_types=("m5.large",),
        retry=RetryPolicy(within_s=600),
    )
    wait = decide_without_capacity(a_job(spec=narrow), refusal, now_ms=NOW_MS)
    help_text = "what would help: spot_policy auto, a higher max_price, more instance_types"
    assert help_text in wait.message
    assert "given up at 20" in wait.message
    assert wait.phase is None
    assert wait.retry_s == 180
    plain = decide_without_capacity(a_job(), refusal, now_ms=NOW_MS)
    assert plain.message.endswith("what would help: wider resources")
    hasty = replace(narrow, retry=RetryPolicy(on=frozenset({RetryCause.ERROR})))
    ended = decide_without_capacity(a_job(spec=hasty), refusal, now_ms=NOW_MS)
    assert ended.phase is Phase.FAILED
