"""`dstackd prices refresh` and `show`. Law: the only command that talks to somebody else than the daemon, and it asks nothing but a public file."""

from __future__ import annotations

import json
import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import click

from dstackd.cli import exit_codes
from dstackd.cli.failures import Failure, config_errors, say
from dstackd.cli.options import config_option, json_option
from dstackd.cli.text import count_text, table
from dstackd.config_paths import ClientConfig, client_config
from dstackd.plain_text import harmless
from dstackd.prices.current import price_table
from dstackd.prices.table import PriceListError, PriceTable, write_table

_HEADER: Final = ("TYPE", "USD/H")

region_option = click.option(
    "--region", metavar="REGION", help="Such as eu-west-1; else the backend's."
)


@click.group()
def prices() -> None:
    """Look at the on-demand prices that plans are made with, and read AWS's."""


@prices.command(epilog=exit_codes.TABLE)
@region_option
@click.option(
    "--from",
    "place",
    metavar="FILE-OR-URL",
    help="The list as CSV, from somewhere else than AWS.",
)
@config_option
def refresh(*, region: str | None, place: str | None, config: Path | None) -> None:
    """Read AWS's public price list of a region.

    It has some hundred megabytes; what is kept of it are a few kilobytes in the daemon's state
    directory, so run this as a user who may write there. A daemon that runs takes the new prices
    for its next plan.
    """
    from dstackd.prices.price_list import list_address, read_price_list

    found = _config(config)
    region = _region(region, found)
    place = place or list_address(region)
    say(f"reading {harmless(place)}")
    try:
        fresh = read_price_list(place, region)
        path = write_table(found.cache, fresh)
    except PriceListError as error:
        raise Failure(harmless(str(error)), exit_code=exit_codes.REFUSED) from None
    except OSError as error:
        message = f"{found.cache}: {error.strerror}; run this as the daemon's user"
        raise Failure(message, exit_code=exit_codes.REFUSED) from None
    say(f"{count_text(len(fresh.usd_h), 'price')} of {fresh.as_of} for {region} are in {path}")
    used = price_table(region, found.cache)
    if used.as_of != fresh.as_of:
        say(f"they are older than those of {used.as_of} ({used.source}), which stay in use")


@prices.command()
@click.argument("pattern", metavar="[TYPE-GLOB]", default="*")
@region_option
@json_option
@config_option
def show(*, pattern: str, region: str | None, as_json: bool, config: Path | None) -> None:
    """Show the on-demand prices in use, with their date and source.

    TYPE-GLOB is such as c7g.large or 'm7*'. ~ marks prices that are estimates.
    """
    found = _config(config)
    used = price_table(_region(region, found), found.cache)
    matching = {name: used.usd_h[name] for name in sorted(used.usd_h) if fnmatchcase(name, pattern)}
    if as_json:
        click.echo(json.dumps({**_about(used), "usd_h": matching}, indent=2))
        return
    mark = "~" if used.estimated else ""
    rows = [(name, f"{mark}{usd_h:.4f}") for name, usd_h in matching.items()]
    if rows:
        click.echo("\n".join(table(_HEADER, rows)))
    else:
        say(f"no price is known for {harmless(pattern)}")
    guess = "; estimates: AWS's own are read by dstackd prices refresh" if used.estimated else ""
    say(f"{used.region}, on-demand, Linux, as of {used.as_of}: {harmless(used.source)}{guess}")


def _about(used: PriceTable) -> dict[str, object]:
    return {
        "region": used.region,
        "as_of": used.as_of,
        "source": used.source,
        "estimated": used.estimated,
    }


def _config(given: Path | None) -> ClientConfig:
    with config_errors():
        return client_config(given, environ=os.environ, folder=Path.cwd())


def _region(given: str | None, config: ClientConfig) -> str:
    region = given or config.region
    if not region:
        raise click.UsageError("the configuration names no region: give --region")
    if not region.replace("-", "").isalnum() or not region.isascii():
        raise click.UsageError(f"{harmless(region)!r} is not a region; write one such as eu-west-1")
    return region
