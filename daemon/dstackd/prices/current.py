"""Which table holds now. Law: AWS's own list of the region beats an estimate, and the newer of two lists beats the older."""

from __future__ import annotations

from pathlib import Path

from dstackd.prices.shipped import shipped_table
from dstackd.prices.table import PriceTable, read_table, table_path


def price_table(region: str, directory: Path | None) -> PriceTable:
    """The region's prices. `directory`: where `dstackd prices refresh` keeps its files, None: nowhere."""
    shipped = shipped_table(region)
    read = None if directory is None else read_table(table_path(directory, region), region)
    if read is None:
        return shipped
    return read if shipped.estimated or read.day >= shipped.day else shipped


class CurrentPrices:
    """The region's prices, read anew when their file has changed: a look at the file costs microseconds."""

    def __init__(self, region: str, directory: Path | None) -> None:
        self._region = region
        self._directory = directory
        self._table = shipped_table(region)
        self._stamp: tuple[int, int] | None = None

    def table(self) -> PriceTable:
        """What holds now."""
        stamp = self._stamp_now()
        if stamp != self._stamp:
            self._stamp = stamp
            self._table = price_table(self._region, self._directory)
        return self._table

    def _stamp_now(self) -> tuple[int, int] | None:
        if self._directory is None:
            return None
        try:
            found = table_path(self._directory, self._region).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size
