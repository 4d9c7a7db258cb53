"""One installation a file: starting a cloud and a daemon takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end import stores
from tests.end_to_end.installation import Installation, installation

ONE_STORE = {
    "test_containers": "what goes on in machines, far from the queue",
    "test_hostile_machines": "the same",
    "test_full_disks": "disks of machines; and of the host, with an SQLite file on it",
    "test_no_daemon": "machines that end by themselves",
    "test_launch_counts": "calls to AWS; its installation is that of the benchmarks",
    "test_demo": "the demo has a queue of its own",
    "test_demo_expectations": "the same",
    "test_demo_parts": "the same",
    "test_many_deaths": "a storm over an SQLite file; PostgreSQL has its own, below",
    "test_postgres_restarts": "PostgreSQL, whatever else is tested",
}
"""Files of `one_store` tests, and why."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark those."""
    for item in items:
        if item.path.parent == Path(__file__).parent and item.path.stem in ONE_STORE:
            item.add_marker(pytest.mark.one_store)


@pytest.fixture(scope="session", autouse=True)
def _stores() -> Iterator[None]:
    """What the run has started for its queues ends with it."""
    yield
    stores.close()


@pytest.fixture(scope="module")
def site() -> Iterator[Installation]:
    """A running installation, shared by the tests of one file."""
    with installation() as made:
        made.start_daemon()
        yield made
