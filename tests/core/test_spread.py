"""In which order near-equal offerings are asked for, and what makes one estimate or full."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dstackd.core.instance import Market
from dstackd.core.offering import (
    SPREAD,
    InstanceType,
    Offering,
    Price,
    Prices,
    Subnet,
    plan_offerings,
    rotated,
)
from dstackd.spec.model import JobSpec, SpotPolicy

ZONES = ("a", "b", "c")
SUBNETS = tuple(Subnet(f"subnet-{zone}", "vpc", zone, 100) for zone in ZONES)
NAMES = ("m5.large", "m5a.large", "m6i.large", "m7i.large")
TYPES = tuple(InstanceType(name, 2, 8192, ("x86_64",)) for name in NAMES)

prices = st.builds(
    Prices,
    st.fixed_dictionaries({name: st.floats(0.08, 0.2) for name in NAMES}),
    st.dictionaries(
        st.tuples(st.sampled_from(NAMES), st.sampled_from(ZONES)), st.floats(0.03, 0.04)
    ),
)
subnets = st.tuples(
    *(st.builds(replace, st.just(each), free_addresses=st.integers(0, 1)) for each in SUBNETS)
)


def plan(
    known: Prices,
    *,
    places: tuple[Subnet, ...] = SUBNETS,
    rotation: int = 0,
    policy: SpotPolicy = SpotPolicy.AUTO,
) -> tuple[Offering, ...]:
    """Offerings for any job that fits all types."""
    spec = JobSpec(commands=("true",), spot_policy=policy)
    return plan_offerings(spec, types=TYPES, subnets=places, prices=known, rotation=rotation)


def near(offerings: tuple[Offering, ...]) -> list[Offering]:
    """Spot offerings with room at about the cheapest's price."""
    spot = [each for each in offerings if each.market is Market.SPOT and not each.subnet_full]
    cheapest = min((each.price_usd_h for each in spot), default=0)
    return [each for each in spot if each.price_usd_h <= cheapest * SPREAD]


@given(prices, subnets, st.integers(0, 50))
def test_a_rotation_asks_for_the_same_in_another_order(
    known: Prices, places: tuple[Subnet, ...], rotation: int
) -> None:
    """Nothing is lost or added; what is not near the cheapest stays in its place; the first is never dear."""
    plain = plan(known, places=places)
    turned = plan(known, places=places, rotation=rotation)
    assert Counter(turned) == Counter(plain)
    assert turned == rotated(plain, rotation)
    count = len(near(plain))
    assert turned[count:] == plain[count:]
    assert set(turned[:count]) == set(near(plain))


@given(prices, subnets)
def test_successive_rotations_begin_with_each_near_offering_once(
    known: Prices, places: tuple[Subnet, ...]
) -> None:
    """Batches that follow each other land in all pools before one is used twice; rotation 0 is the cheapest."""
    plain = plan(known, places=places)
    count = len(near(plain))
    firsts = [plan(known, places=places, rotation=turn)[0] for turn in range(count)]
    assert Counter(firsts) == Counter(near(plain))
    if count:
        assert plain[0].price_usd_h == min(each.price_usd_h for each in near(plain))


@given(prices, subnets)
def test_the_rest_is_cheapest_first_and_full_subnets_are_last(
    known: Prices, places: tuple[Subnet, ...]
) -> None:
    """Within a market: those near the cheapest, then the others by price, then the full ones by price."""
    offerings = plan(known, places=places)
    for market in Market:
        rest = [
            (each.subnet_full, each.price_usd_h)
            for each in offerings
            if each.market is market and each not in near(offerings)
        ]
        assert rest == sorted(rest)
    markets = [each.market for each in offerings]
    assert markets == sorted(markets, key=[Market.SPOT, Market.ON_DEMAND].index)


def test_neighbours_differ_in_type_and_zone() -> None:
    """Where four types cost the same in three zones, no two launches in a row share either."""
    flat = Prices(dict.fromkeys(NAMES, 0.1), {})
    first = plan(flat, policy=SpotPolicy.SPOT)
    pairs = list(pairwise(first))
    assert all(one.instance_type != two.instance_type for one, two in pairs)
    assert sum(one.zone == two.zone for one, two in pairs) <= len(ZONES) - 1


def test_on_demand_is_never_rotated() -> None:
    """There the price is what it is: the cheapest is asked for first by everyone."""
    flat = Prices(dict.fromkeys(NAMES, 0.1), {})
    policy = SpotPolicy.ON_DEMAND
    assert plan(flat, policy=policy) == plan(flat, policy=policy, rotation=3)


def test_a_price_says_whether_it_is_a_guess() -> None:
    """Known spot prices and shipped ones are not; a share of on-demand is, and so is another region's price."""
    known = Prices({"m5.large": 0.1}, {("m5.large", "a"): 0.03})
    assert known.of("m5.large", "a", Market.SPOT) == Price(0.03)
    assert known.of("m5.large", "b", Market.SPOT) == Price(0.1 * 0.4, estimated=True)
    assert known.of("m5.large", "b", Market.ON_DEMAND) == Price(0.1)
    assert known.of("m5.xlarge", "a", Market.SPOT) is None
    abroad = replace(known, on_demand_estimated=True)
    assert abroad.of("m5.large", "b", Market.ON_DEMAND) == Price(0.1, estimated=True)
    assert abroad.of("m5.large", "a", Market.SPOT) == Price(0.03)


def test_an_offering_says_what_the_machine_has() -> None:
    """Size, and whether its price is a guess, go with the offering."""
    first = plan(Prices({"m5.large": 0.1}, {}))[0]
    assert (first.vcpus, first.memory_mib, first.gpu_count, first.estimated) == (2, 8192, 0, True)
