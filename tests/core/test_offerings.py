"""Which machines could run a job, in which order, and what is left of them when EC2 refuses."""

from __future__ import annotations

import dataclasses
from typing import TypedDict, Unpack

from hypothesis import given
from hypothesis import strategies as st

from dstackd.core.instance import Market
from dstackd.core.launching import (
    Block,
    batches,
    block_keys,
    block_of,
    client_token,
    group_by_shape,
)
from dstackd.core.offering import Offering, Prices, fits, plan_offerings, quota_class
from dstackd.simulated.places import SUBNETS, TYPES
from dstackd.spec.model import GpuRequest, JobSpec, Range, Resources, SpotPolicy
from tests.builders import NOW_MS, a_job

ON_DEMAND = {"m5.large": 0.096, "m5.xlarge": 0.192, "r5.large": 0.126, "m7g.large": 0.0816}
ON_DEMAND |= {"g5.xlarge": 1.006, "m5.metal": 4.608, "m4.large": 0.1}
SPOT = {("m5.large", "us-east-1a"): 0.05, ("m5.large", "us-east-1b"): 0.03}
PRICES = Prices(on_demand=ON_DEMAND, spot=SPOT)


class SpecFields(TypedDict, total=False):
    """Fields of `JobSpec` that choose machines."""

    resources: Resources
    instance_types: tuple[str, ...]
    spot_policy: SpotPolicy
    max_price: float | None


def plan(**fields: Unpack[SpecFields]) -> tuple[Offering, ...]:
    """Offerings of the simulated region."""
    spec = JobSpec(commands=("true",), **fields)
    return plan_offerings(spec, types=TYPES, subnets=SUBNETS, prices=PRICES)


def names(offerings: tuple[Offering, ...]) -> list[str]:
    """Types in order, each once."""
    return list(dict.fromkeys(offering.instance_type for offering in offerings))


def test_spot_comes_first_and_then_the_price() -> None:
    """`auto` asks for spot before on-demand, and for the cheapest first within each."""
    offerings = plan()
    markets = [offering.market for offering in offerings]
    assert markets == sorted(markets, key=[Market.SPOT, Market.ON_DEMAND].index)
    for market in Market:
        prices = [each.price_usd_h for each in offerings if each.market is market]
        assert prices == sorted(prices)
    assert (offerings[0].instance_type, offerings[0].zone) == ("m5.large", "us-east-1b")


def test_a_spot_policy_is_kept() -> None:
    """Who wants one market gets no offering of the other."""
    assert {each.market for each in plan(spot_policy=SpotPolicy.SPOT)} == {Market.SPOT}
    assert {each.market for each in plan(spot_policy=SpotPolicy.ON_DEMAND)} == {Market.ON_DEMAND}


@given(st.floats(0.01, 2))
def test_max_price_is_kept(max_price: float) -> None:
    """No offering costs more than the spec allows, and none that does not is left out."""
    everything = plan()
    assert plan(max_price=max_price) == tuple(
        each for each in everything if each.price_usd_h <= max_price
    )


def test_nobody_gets_arm_or_a_gpu_by_accident() -> None:
    """Without a word about them: x86_64, no GPU, no bare metal, no old generation."""
    assert names(plan()) == ["m5.large", "r5.large", "m5.xlarge"]


def test_arm_for_those_who_ask() -> None:
    """`arch` chooses; the image has to match it."""
    offerings = plan(resources=Resources(arch="arm64"))
    assert names(offerings) == ["m7g.large"]
    assert {each.architecture for each in offerings} == {"arm64"}


def test_a_named_type_is_taken_as_it_is() -> None:
    """A name or pattern brings what the defaults leave out, with the architecture that it has."""
    assert names(plan(instance_types=("m4.*", "m5.metal", "m7g.large"))) == [
        *("m7g.large", "m4.large", "m5.metal")
    ]
    assert plan(instance_types=("m7g.large",))[0].architecture == "arm64"


def test_a_gpu_is_asked_for_by_name_count_and_printed_memory() -> None:
    """24 GB on the box is 22,888 MiB for EC2: both find it."""
    for memory in (Range(24 * 1024, None), Range(20 * 1024, 23 * 1024), Range[int]()):
        gpu = GpuRequest(names=("a10g",), memory_mib=memory)
        offerings = plan(resources=Resources(gpu=gpu))
        assert names(offerings) == ["g5.xlarge"]
        assert all(each.gpu for each in offerings)
    assert plan(resources=Resources(gpu=GpuRequest(count=Range(2, 2)))) == ()
    assert plan(resources=Resources(gpu=GpuRequest(names=("H100",)))) == ()
    too_much = GpuRequest(memory_mib=Range(40 * 1024, None))
    assert plan(resources=Resources(gpu=too_much)) == ()


def test_a_type_without_a_price_is_left_out() -> None:
    """c5.2xlarge fits, but nobody could say what it costs."""
    (kind,) = (each for each in TYPES if each.name == "c5.2xlarge")
    assert fits(kind, JobSpec(commands=("true",)))
    assert "c5.2xlarge" not in names(plan())


def test_quota_classes_are_those_of_ec2() -> None:
    """Types that share a vCPU quota are blocked together, others are not."""
    types = ("m5.large", "c7g.large", "t3.micro", "g5.xlarge", "vt1.3xlarge", "gr6.4xlarge")
    classes = [quota_class(name) for name in types]
    assert classes == ["standard", "standard", "standard", "g", "g", "g"]
    others = ("p4d.24xlarge", "inf2.xlarge", "trn1.2xlarge", "x2idn.16xlarge", "hpc7a.96xlarge")
    assert len({quota_class(name) for name in (*others, "m5.large", "g5.xlarge")}) == 7


offerings = st.builds(
    Offering,
    instance_type=st.sampled_from([kind.name for kind in TYPES]),
    subnet_id=st.sampled_from(["", *(subnet.id for subnet in SUBNETS)]),
    zone=st.sampled_from([subnet.zone for subnet in SUBNETS]),
    market=st.sampled_from(Market),
    architecture=st.just("x86_64"),
    price_usd_h=st.floats(0, 9),
)


@given(st.text(max_size=80), st.text(max_size=80), offerings, offerings)
def test_client_tokens(one: str, two: str, first: Offering, second: Offering) -> None:
    """At most 64 ASCII characters; equal exactly for an equal launch of an equal offering."""
    token = client_token(one, first)
    assert len(token) <= 64
    assert token.isascii()
    assert token == client_token(one, dataclasses.replace(first, price_usd_h=0.0))
    same = (one, first.key) == (two, second.key)
    assert (token == client_token(two, second)) == same


def test_a_block_rules_out_its_scope_and_only_until_its_time() -> None:
    """Offering, quota class, subnet, market or region: the first offering outside is taken, and all when it is over."""
    everything = plan()
    best = everything[0]
    for scope, key in enumerate(block_keys(best)):
        blocks = {key: Block(NOW_MS + 1000, "message")}
        chosen = next(
            (each for each in everything if block_of(each, blocks, now_ms=NOW_MS) is None), None
        )
        expected = next((each for each in everything if key not in block_keys(each)), None)
        assert chosen == expected
        assert (chosen is None) == (scope == 4)
        assert block_of(best, blocks, now_ms=NOW_MS + 1000) is None


def test_jobs_of_equal_machines_share_a_launch() -> None:
    """The machine has to be equal, not the work; the order of the queue stays."""
    small, large = JobSpec(("a",)), JobSpec(("b",), resources=Resources(cpu=Range(8, None)))
    jobs = [
        a_job(id="a", spec=small),
        a_job(id="b", spec=large),
        a_job(id="c", spec=dataclasses.replace(small, commands=("c",))),
        a_job(id="d", spec=small, project="other"),
    ]
    groups = [[job.id for job in group] for group in group_by_shape(jobs)]
    assert groups == [["a", "c"], ["b"], ["d"]]


@given(st.integers(0, 500), st.integers(1, 100))
def test_batches_are_full_but_for_the_last(count: int, size_max: int) -> None:
    """Every job is in one batch, in order, and no batch is too large."""
    jobs = [a_job(seq=seq) for seq in range(count)]
    found = list(batches(jobs, size_max=size_max))
    assert [job for batch in found for job in batch] == jobs
    assert all(len(batch) == size_max for batch in found[:-1])
