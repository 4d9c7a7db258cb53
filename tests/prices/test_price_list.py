"""AWS's public price list is read as it is published, and nothing else is taken for it."""

from __future__ import annotations

import socket
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstackd.prices.price_list import list_address, parse_price_list, read_price_list
from dstackd.prices.table import PriceListError
from tests.prices.price_lists import COLUMNS, GOOD, price_list, published, row

REGION = "eu-west-1"


def parsed(text: str, region: str = REGION) -> dict[str, float]:
    """The prices in the text."""
    lines = text.splitlines(keepends=True)
    return dict(parse_price_list(lines, region=region, source="list").usd_h)


def refusal(text: str, region: str = REGION) -> str:
    """Why the text is refused."""
    with pytest.raises(PriceListError) as caught:
        parsed(text, region)
    return str(caught.value)


def test_only_plain_linux_on_demand_counts() -> None:
    """Other systems, tenancies, terms, reservations, software, zones and units are left out, and so is what costs nothing."""
    assert parsed(price_list()) == GOOD


def test_columns_are_found_by_name() -> None:
    """AWS adds columns and moves them."""
    columns = ("SKU", *reversed(COLUMNS[1:]), "A New One")
    assert parsed(price_list(columns=columns)) == GOOD


def test_of_two_prices_the_dearer_counts() -> None:
    """A plan promises rather too little."""
    twice = [row(PricePerUnit="0.2"), row(PricePerUnit="0.3"), row(PricePerUnit="0.1")]
    assert parsed(price_list(twice)) == {"m5.large": 0.3}


def test_what_is_no_price_list_is_refused() -> None:
    """A page of a proxy, JSON, another offer, a new format, another region: each says what is wrong."""
    assert "not a price list of AmazonEC2" in refusal("<html>\n" * 50)
    assert "not a price list of AmazonEC2" in refusal('{"formatVersion": "v1.0"}')
    assert "not a price list of AmazonEC2" in refusal("")
    assert "not a price list of AmazonEC2" in refusal(price_list(about={"OfferCode": "AmazonRDS"}))
    columns = tuple(name for name in COLUMNS if name not in {"Tenancy", "PricePerUnit"})
    assert "has no column Tenancy, PricePerUnit" in refusal(price_list(columns=columns))
    assert "another region" in refusal(price_list(), region="eu-central-1")


def test_a_file_and_a_url_give_the_same(tmp_path: Path) -> None:
    """The date is when AWS published it; the source is where it was read."""
    path = tmp_path / "index.csv"
    path.write_text(price_list())
    of_file = read_price_list(str(path), REGION)
    with published(price_list()) as url:
        of_url = read_price_list(url, REGION)
    assert dict(of_file.usd_h) == dict(of_url.usd_h) == GOOD
    assert of_file.as_of == of_url.as_of == "2026-11-05T22:10:02Z"
    assert (of_file.source, of_url.source) == (str(path), url)
    assert not of_url.estimated


def test_half_a_list_is_refused() -> None:
    """A connection that breaks loses the prices behind it: nothing is kept."""
    with published(price_list(), cut_bytes=200) as url, pytest.raises(PriceListError) as caught:
        read_price_list(url, REGION)
    assert "200 bytes before the end" in str(caught.value)


def test_what_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    """No file, no server, an error page."""
    with published("no", status=403) as url, pytest.raises(PriceListError, match="--from"):
        read_price_list(url, REGION)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{nobody.getsockname()[1]}/"
        with pytest.raises(PriceListError, match="--from"):
            read_price_list(closed, REGION)
    with pytest.raises(PriceListError, match="No such file"):
        read_price_list(str(tmp_path / "nosuch.csv"), REGION)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe" * 100)
    with pytest.raises(PriceListError, match="cannot be read"):
        read_price_list(str(tmp_path / "binary.csv"), REGION)


def test_memory_does_not_grow_with_the_list() -> None:
    """Hundreds of megabytes pass; one row at a time is held."""
    head, *good = price_list([row()]).splitlines(keepends=True)
    other = price_list([row() | {"Tenancy": "Host"}]).splitlines(keepends=True)[-1]

    def lines() -> Iterator[str]:
        yield head
        yield from good
        for _ in range(20_000):
            yield other

    tracemalloc.start()
    try:
        table = parse_price_list(lines(), region=REGION, source="list")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert dict(table.usd_h) == {"m5.large": 0.107}
    assert peak_bytes < 500_000 < 20_000 * len(other)


def test_the_address_is_that_of_the_region() -> None:
    """AWS publishes a list a region."""
    assert list_address("eu-west-1").endswith("/AmazonEC2/current/eu-west-1/index.csv")
