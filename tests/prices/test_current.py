"""Which prices hold: AWS's own of the region, else those that ship, marked as estimates where they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dstackd.catalogue import Catalogue
from dstackd.core.instance import Market
from dstackd.core.plan_view import PlanView
from dstackd.prices import CurrentPrices, PriceTable, on_demand_prices, price_table
from dstackd.prices.shipped import shipped_table
from dstackd.prices.table import read_table, table_path, write_table
from dstackd.simulated.clock import SimulatedClock
from dstackd.simulated.cloud import SimulatedCloud
from dstackd.spec.model import JobSpec, SpotPolicy

HOME, ABROAD = "us-east-1", "eu-west-1"


def a_table(region: str = ABROAD, as_of: str = "2099-01-01T00:00:00Z") -> PriceTable:
    """AWS's list of the region."""
    return PriceTable(region, {"m5.large": 0.5, "m5.xlarge": 0.25}, as_of, "list")


def test_what_ships_is_an_estimate_abroad() -> None:
    """us-east-1's figures with their date; elsewhere times a factor, and marked."""
    home, abroad = price_table(HOME, None), price_table(ABROAD, None)
    assert not home.estimated
    assert abroad.estimated
    assert home.as_of == abroad.as_of
    assert abroad.usd_h["m5.large"] > home.usd_h["m5.large"]
    assert on_demand_prices(HOME) == dict(home.usd_h)


def test_a_list_that_was_read_is_used(tmp_path: Path) -> None:
    """What was written is what is read, for that region only."""
    table = a_table()
    path = write_table(tmp_path / "cache", table)
    assert [each.name for each in path.parent.iterdir()] == [f"on-demand-{ABROAD}.json"]
    assert read_table(path, ABROAD) == table
    assert price_table(ABROAD, tmp_path / "cache") == table
    assert price_table("eu-west-2", tmp_path / "cache") == shipped_table("eu-west-2")
    path.rename(table_path(tmp_path / "cache", "eu-west-2"))
    assert price_table("eu-west-2", tmp_path / "cache") == shipped_table("eu-west-2")


def test_an_older_list_yields_to_newer_figures_but_not_to_an_estimate(tmp_path: Path) -> None:
    """A new release brings newer figures of us-east-1; of other regions it only guesses."""
    for region in (HOME, ABROAD):
        write_table(tmp_path, a_table(region, as_of="2020-01-01T00:00:00Z"))
    assert price_table(HOME, tmp_path) == shipped_table(HOME)
    assert price_table(ABROAD, tmp_path).usd_h["m5.large"] == 0.5
    write_table(tmp_path, a_table(HOME, as_of=shipped_table(HOME).as_of + "T01:00:00Z"))
    assert price_table(HOME, tmp_path).usd_h["m5.large"] == 0.5


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "null", '{"version": 1}', '{"version": 99, "region": "eu-west-1"}'),
        '{"version": 1, "region": "eu-west-1", "as_of": "2099", "source": "", "usd_h": []}',
        '{"version": 1, "region": "eu-west-1", "as_of": "2099", "source": "", "usd_h": {}}',
        '{"version": 1, "region": "eu-west-1", "as_of": "2099", "source": "", "usd_h": {"a": "x"}}',
    ],
)
def test_a_spoilt_file_is_as_if_it_were_not_there(content: str, tmp_path: Path) -> None:
    """The daemon goes on with what ships."""
    table_path(tmp_path, ABROAD).write_text(content)
    assert price_table(ABROAD, tmp_path) == shipped_table(ABROAD)


def test_a_running_daemon_takes_new_prices_up(tmp_path: Path) -> None:
    """At its next look, without a restart; and it can live without the file again."""
    prices = CurrentPrices(ABROAD, tmp_path)
    assert prices.table().estimated
    path = write_table(tmp_path, a_table())
    assert prices.table().usd_h["m5.large"] == 0.5
    path.write_text(path.read_text().replace("0.5", "0.75"))
    os.utime(path, ns=(1, 1))
    assert prices.table().usd_h["m5.large"] == 0.75
    path.unlink()
    assert prices.table().estimated


async def a_view(directory: Path | None) -> PlanView:
    """What an on-demand job would be launched on in a region with these prices."""
    clock = SimulatedClock()
    cloud = SimulatedCloud(clock, seed=0, owner="owner")
    catalogue = Catalogue(cloud.compute, region=ABROAD, clock=clock, prices_dir=directory)
    spec = JobSpec(commands=("true",), spot_policy=SpotPolicy.ON_DEMAND)
    return await catalogue.view(spec, closed=lambda _: None)


async def test_plans_use_them(tmp_path: Path) -> None:
    """The order follows the list, and what is known is not marked as a guess."""
    guessed = await a_view(tmp_path)
    assert all(row.offering.estimated for row in guessed.rows)
    assert guessed.rows[0].offering.instance_type == "m5.large"
    write_table(tmp_path, a_table())
    known = await a_view(tmp_path)
    assert not any(row.offering.estimated for row in known.rows)
    assert known.rows[0].offering.instance_type == "m5.xlarge"
    assert {row.offering.market for row in known.rows} == {Market.ON_DEMAND}
