"""What a job asks for after EC2 has taken its machine."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dstackd.core.avoidance import NO_AVOIDANCE, Avoidance, avoided, pool, preferring
from dstackd.core.instance import Market
from dstackd.core.launching import group_by_shape
from dstackd.core.offering import Offering, Prices, plan_offerings
from dstackd.simulated.places import SUBNETS, TYPES
from dstackd.spec.model import JobSpec, SpotPolicy
from tests.builders import a_job

PRICES = Prices({"m5.large": 0.096, "m5.xlarge": 0.192, "r5.large": 0.126}, {})
TAKEN = pool("m5.large", "us-east-1a", Market.SPOT)


def offerings(policy: SpotPolicy = SpotPolicy.AUTO) -> tuple[Offering, ...]:
    """Of the simulated region."""
    spec = JobSpec(commands=("true",), spot_policy=policy)
    return plan_offerings(spec, types=TYPES, subnets=SUBNETS, prices=PRICES)


def after(policy: SpotPolicy, *, interruptions: int, reclaimed: str = TAKEN) -> list[Offering]:
    """The order for a job that was interrupted so often, in that pool at last."""
    spec = JobSpec(commands=("true",), spot_policy=policy)
    job = replace(a_job(spec=spec), interruptions=interruptions, reclaimed=reclaimed)
    return list(preferring(offerings(policy), avoided(job)))


def is_taken(offering: Offering) -> bool:
    """Whether it is the pool that was reclaimed."""
    return pool(offering.instance_type, offering.zone, offering.market) == TAKEN


def test_nothing_is_avoided_before_an_interruption() -> None:
    """The order of the plan holds."""
    assert avoided(a_job()) == NO_AVOIDANCE
    assert preferring(offerings(), NO_AVOIDANCE) == offerings()


def test_the_first_interruption_avoids_the_pool() -> None:
    """The pool that was reclaimed comes last, after on-demand; all others keep their order."""
    order = after(SpotPolicy.AUTO, interruptions=1)
    assert order == [
        *(each for each in offerings() if not is_taken(each)),
        *(each for each in offerings() if is_taken(each)),
    ]
    assert order[0].market is Market.SPOT
    assert is_taken(order[-1])


def test_the_second_interruption_escalates_auto_to_on_demand() -> None:
    """`auto` buys what nobody takes away; spot is what is left when that is sold out."""
    order = after(SpotPolicy.AUTO, interruptions=2)
    markets = [each.market for each in order]
    assert markets == sorted(markets, key=[Market.ON_DEMAND, Market.SPOT].index)
    assert is_taken(order[-1])


def test_spot_stays_spot() -> None:
    """Who wants spot only gets another pool, however often it was interrupted."""
    order = after(SpotPolicy.SPOT, interruptions=7)
    assert {each.market for each in order} == {Market.SPOT}
    assert not is_taken(order[0])
    assert is_taken(order[-1])


@given(st.text(max_size=5), st.booleans())
def test_avoiding_loses_no_offering(reclaimed: str, escalates: bool) -> None:
    """It is an order: a job whose only pool was reclaimed can still be launched there."""
    order = preferring(offerings(), Avoidance(reclaimed, escalates))
    assert Counter(order) == Counter(offerings())


def test_jobs_that_avoid_different_things_do_not_share_a_launch() -> None:
    """Equal avoidance, equal launch; one that has escalated is asked for by itself."""
    jobs = [
        a_job(id="fresh"),
        replace(a_job(id="once"), interruptions=1, reclaimed=TAKEN),
        replace(a_job(id="too"), interruptions=1, reclaimed=TAKEN),
        replace(a_job(id="twice"), interruptions=2, reclaimed=TAKEN),
        replace(a_job(id="elsewhere"), interruptions=1, reclaimed="m5.large/x/spot"),
    ]
    groups = [[job.id for job in group] for group in group_by_shape(jobs)]
    assert groups == [["fresh"], ["once", "too"], ["twice"], ["elsewhere"]]
