"""A region's on-demand prices, and how they are kept in a file. Law: a spoilt file is no error, it is as if it were not there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dstackd.errors import DstackdError

FILE_VERSION = 1


class PriceListError(DstackdError):
    """A price list cannot be had, read, or is not what was asked for; the text says what to do."""


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Instance type -> USD an hour."""

    region: str
    usd_h: Mapping[str, float]
    as_of: str
    """ISO date, or date and time in UTC: when the prices were published."""
    source: str
    """Where they are from, for a person."""
    estimated: bool = False

    @property
    def day(self) -> str:
        """The ISO date; sorts as time does."""
        return self.as_of[:10]


def table_path(directory: Path, region: str) -> Path:
    """The file of a region's prices in the daemon's cache directory."""
    return directory / f"on-demand-{region}.json"


def read_table(path: Path, region: str) -> PriceTable | None:
    """The table in the file; None when there is none, or it is not whole, or another region's."""
    try:
        held = json.loads(path.read_bytes())
        if held["version"] != FILE_VERSION or held["region"] != region:
            return None
        usd_h = {str(name): float(price) for name, price in held["usd_h"].items()}
        table = PriceTable(region, usd_h, as_of=str(held["as_of"]), source=str(held["source"]))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return table if usd_h else None


def write_table(directory: Path, table: PriceTable) -> Path:
    """Keep the table; a reader never sees half a file. Raises OSError."""
    held = {
        "version": FILE_VERSION,
        "region": table.region,
        "as_of": table.as_of,
        "source": table.source,
        "usd_h": dict(sorted(table.usd_h.items())),
    }
    directory.mkdir(parents=True, exist_ok=True)
    path = table_path(directory, table.region)
    fresh = path.with_suffix(f".{os.getpid()}.new")
    try:
        fresh.write_text(json.dumps(held, indent=0), encoding="utf-8")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    return path
