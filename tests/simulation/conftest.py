"""The processes that all seeds of a test run share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.simulation.pool import Pool


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """One process a processor, each with its stage."""
    with Pool(max(2, os.cpu_count() or 1)) as pool:
        yield pool
