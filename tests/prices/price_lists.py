"""A price list in the form in which AWS publishes it, with rows that must not count. Law: the columns and quirks of the real file.

Column names as of the list of 2025-09 (a part of its columns); what they mean is in the AWS Price List API's attributes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from typing_extensions import override

COLUMNS = (
    *("SKU", "OfferTermCode", "RateCode", "TermType", "PriceDescription", "EffectiveDate"),
    *("StartingRange", "EndingRange", "Unit", "PricePerUnit", "Currency", "RelatedTo"),
    *("LeaseContractLength", "PurchaseOption", "OfferingClass", "Product Family", "serviceCode"),
    *("Location", "Location Type", "Instance Type", "Current Generation", "vCPU", "Tenancy"),
    *("Operating System", "License Model", "usageType", "operation", "CapacityStatus"),
    *("MarketOption", "Pre Installed S/W", "Region Code", "serviceName"),
)

_PLAIN = {
    "SKU": "2223B6PCG6QAUYY6",
    "TermType": "OnDemand",
    "PriceDescription": "$0.107 per On Demand Linux, m5.large Instance Hour",
    "Unit": "Hrs",
    "PricePerUnit": "0.1070000000",
    "Currency": "USD",
    "Product Family": "Compute Instance",
    "serviceCode": "AmazonEC2",
    "Location": "EU (Ireland)",
    "Location Type": "AWS Region",
    "Instance Type": "m5.large",
    "Tenancy": "Shared",
    "Operating System": "Linux",
    "License Model": "No License required",
    "operation": "RunInstances",
    "CapacityStatus": "Used",
    "MarketOption": "OnDemand",
    "Pre Installed S/W": "NA",
    "Region Code": "eu-west-1",
}

OTHERS: tuple[dict[str, str], ...] = (
    {"Operating System": "Windows"},
    {"Operating System": "RHEL"},
    {"Tenancy": "Dedicated"},
    {"Tenancy": "Host"},
    {"Pre Installed S/W": "SQL Std"},
    {"CapacityStatus": "UnusedCapacityReservation"},
    {"CapacityStatus": "AllocatedCapacityReservation"},
    {"TermType": "Reserved", "LeaseContractLength": "1yr"},
    {"Unit": "Quantity"},
    {"Currency": "CNY"},
    {"Location Type": "AWS Local Zone", "Region Code": "eu-west-1-xyz-1"},
    {"Location Type": "AWS Wavelength Zone"},
    {"Region Code": "eu-west-2"},
    {"Instance Type": ""},
)
"""What makes a row one that must not count."""

WORTHLESS = ("0.0000000000", "", "NA", "-1", "nan", "inf")
"""Prices that are none."""


def row(**changes: str) -> dict[str, str]:
    """An on-demand price of Linux on a shared m5.large in eu-west-1."""
    return _PLAIN | changes


def rows() -> list[dict[str, str]]:
    """Three good prices among many that must not count, which are all dearer."""
    dear = [row() | other | {"PricePerUnit": "9"} for other in OTHERS]
    none = [
        row() | {"Instance Type": f"none{at}", "PricePerUnit": worthless}
        for at, worthless in enumerate(WORTHLESS)
    ]
    good = [
        row(),
        row()
        | {"Instance Type": "m5.xlarge", "PricePerUnit": "0.2140000000", "Pre Installed S/W": ""},
        row() | {"Instance Type": "zz9.metal-48xl", "PricePerUnit": "12.5"},
    ]
    storage = [{"SKU": "X", "TermType": "OnDemand", "Product Family": "Storage", "Unit": "GB-Mo"}]
    return [*dear[:7], good[0], *none, *storage, good[1], *dear[7:], good[2]]


GOOD = {"m5.large": 0.107, "m5.xlarge": 0.214, "zz9.metal-48xl": 12.5}


def price_list(
    found: list[dict[str, str]] | None = None,
    *,
    columns: tuple[str, ...] = COLUMNS,
    about: Mapping[str, str] | None = None,
) -> str:
    """The file's text."""
    head = {
        "FormatVersion": "v1.0",
        "Disclaimer": 'This is for information only; "best efforts", as published.',
        "Publication Date": "2026-11-05T22:10:02Z",
        "Version": "20261105221002",
        "OfferCode": "AmazonEC2",
    } | dict(about or {})
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows(head.items())
    writer.writerow(columns)
    writer.writerows(
        [each.get(column, "") for column in columns]
        for each in (rows() if found is None else found)
    )
    return text.getvalue()


@contextmanager
def published(text: str, *, cut_bytes: int = 0, status: int = 200) -> Iterator[str]:
    """The URL of the text on loopback; the connection breaks `cut_bytes` before its end."""
    content = text.encode()

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) - cut_bytes])

        @override
        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/index.csv"
        finally:
            server.shutdown()
            thread.join()
