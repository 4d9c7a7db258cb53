"""AWS's public price list of EC2 in a region, as CSV. Law: one row in memory at a time; what is not understood is refused.

The file has five lines about itself, then the names of its columns, then a row for each price: some hundred megabytes,
of which about a thousand rows are on-demand prices of Linux (AWS Billing User Guide, "Reading the service price list file
for an AWS service").
"""

from __future__ import annotations

import csv
import io
import math
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from dstackd.prices.table import PriceListError, PriceTable

ADDRESS = (
    "https://pricing.us-east-1.amazonaws.com/offers/v1.0/aws/AmazonEC2/current/{region}/index.csv"
)
SILENCE_MAX_S = 60.0
_ABOUT_LINES_MAX = 20

_WANTED: Mapping[str, frozenset[str]] = {
    "TermType": frozenset({"OnDemand"}),
    "Operating System": frozenset({"Linux"}),
    "Tenancy": frozenset({"Shared"}),
    "Pre Installed S/W": frozenset({"NA", ""}),
    "CapacityStatus": frozenset({"Used"}),
    "Unit": frozenset({"Hrs"}),
    "Currency": frozenset({"USD"}),
    "Location Type": frozenset({"AWS Region"}),  # local and wavelength zones are in it, and dearer
}
_TYPE, _PRICE, _REGION = "Instance Type", "PricePerUnit", "Region Code"


def list_address(region: str) -> str:
    """Where AWS publishes the list of a region."""
    return ADDRESS.format(region=region)


def read_price_list(place: str, region: str) -> PriceTable:
    """The list at `place`, a file's path or an http(s) URL. Raises PriceListError."""
    try:
        with _opened(place) as lines:
            return parse_price_list(lines, region=region, source=place)
    except (OSError, HTTPException, csv.Error, UnicodeDecodeError) as error:
        why = error.reason if isinstance(error, urllib.error.URLError) else error
        fix = "try again, or download the list by other means and name the file with --from"
        raise PriceListError(f"{place}: cannot be read: {why}; {fix}") from error


def parse_price_list(lines: Iterable[str], *, region: str, source: str) -> PriceTable:
    """The on-demand prices in the lines of a list. Raises PriceListError when they are not this region's list."""
    rows = csv.reader(lines)
    about, header = _about(rows, source)
    as_of = about.get("Publication Date", "")
    if about.get("OfferCode") != "AmazonEC2" or not as_of:
        raise _not_a_list(source)
    column = {name: at for at, name in enumerate(header)}
    missing = [name for name in (*_WANTED, _TYPE, _PRICE, _REGION) if name not in column]
    if missing:
        names = ", ".join(missing)
        raise PriceListError(f"{source}: has no column {names}; its format has changed")
    usd_h = _prices(rows, column, region=region)
    if not usd_h:
        message = f"{source}: has no on-demand price of Linux for {region}"
        raise PriceListError(f"{message}; is it the list of another region?")
    return PriceTable(region, usd_h, as_of=as_of, source=source)


def _about(rows: Iterator[list[str]], source: str) -> tuple[dict[str, str], list[str]]:
    """What the list says of itself, and the names of its columns."""
    about: dict[str, str] = {}
    for row, _ in zip(rows, range(_ABOUT_LINES_MAX), strict=False):
        if row and row[0] == "SKU":
            return about, row
        about |= {row[0]: row[1]} if len(row) > 1 else {}
    raise _not_a_list(source)


def _not_a_list(source: str) -> PriceListError:
    return PriceListError(
        f"{source}: is not a price list of AmazonEC2 as CSV; AWS's are at {list_address('REGION')}"
    )


def _prices(
    rows: Iterable[Sequence[str]], column: Mapping[str, int], *, region: str
) -> dict[str, float]:
    wanted = [(column[name], values) for name, values in _WANTED.items()]
    wanted.append((column[_REGION], frozenset({region})))
    kind, price, width = column[_TYPE], column[_PRICE], len(column)
    usd_h: dict[str, float] = {}
    for row in rows:
        if len(row) >= width and all(row[at] in values for at, values in wanted):
            found = _positive(row[price])
            if found is not None and row[kind]:
                # Of two rows for a type the dearer one counts: better to promise too little.
                usd_h[row[kind]] = max(found, usd_h.get(row[kind], 0.0))
    return usd_h


def _positive(written: str) -> float | None:
    try:
        number = float(written)
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None


@contextmanager
def _opened(place: str) -> Iterator[Iterable[str]]:
    if not place.startswith(("https://", "http://")):
        with Path(place).open(encoding="utf-8", newline="") as file:
            yield file
        return
    with urllib.request.urlopen(place, timeout=SILENCE_MAX_S) as response:  # noqa: S310 - the scheme was looked at
        yield _whole(response)


def _whole(response: HTTPResponse) -> Iterator[str]:
    """The lines of the answer. Raises OSError when it ends before its length: half a list looks like a list."""
    with io.TextIOWrapper(response, encoding="utf-8", newline="") as text:
        yield from text
        if response.length:
            raise OSError(f"the connection broke {response.length} bytes before the end")
