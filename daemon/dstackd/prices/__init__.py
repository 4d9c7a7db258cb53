"""On-demand prices: Linux, shared tenancy, USD an hour. Law: figures with a date and a source; a guess is marked as one.

The policy has no pricing:GetProducts, so the daemon cannot ask for them. A table ships with the program; `dstackd prices
refresh` puts AWS's public price list beside it, a file a region. Standard library only, and light to import.
"""

from __future__ import annotations

from dstackd.prices.current import CurrentPrices, price_table
from dstackd.prices.shipped import on_demand_prices
from dstackd.prices.table import PriceTable

__all__ = ["CurrentPrices", "PriceTable", "on_demand_prices", "price_table"]
