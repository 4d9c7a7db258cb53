"""One local cloud and one set of clients for all tests of this folder; a world of its own for each test.

The clients belong to the session's event loop: their tests ask for `loop_scope="session"`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from dstackd.aws.access import AwsAccess
from dstackd.aws.recorder import CallRecorder
from dstackd.aws.session import open_clients
from dstackd.clock import SystemClock
from dstackd.local.cloud import LocalCloud, start_local_cloud
from tests.aws.local_world import REGION, Admin, Ground, LocalWorld
from tests.aws.simulated_world import SimulatedWorld
from tests.aws.worlds import World

NEVER_BOOTS_S = 3600.0
"""These tests want instances, not machines: nothing has to run in them."""


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """The cloud, its machines for ever pending."""
    directory = tmp_path_factory.mktemp("cloud")
    with start_local_cloud(directory, faults={"boot_delay_s": NEVER_BOOTS_S}) as cloud:
        yield cloud


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def ground(
    cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Ground]:
    """Clients to the cloud."""
    clock = SystemClock()
    access = AwsAccess(
        region=REGION,
        bucket="anything",
        endpoint_url=cloud.endpoint_url,
        access_key_id="test",
        secret_access_key="test",
    )
    async with open_clients(access, recorder=CallRecorder(clock), clock=clock) as clients:
        yield Ground(
            cloud=cloud,
            admin=Admin(cloud.endpoint_url),
            clients=clients,
            clock=clock,
            cache_dir=tmp_path_factory.mktemp("cache"),
        )


@pytest.fixture
def local_world(ground: Ground) -> Iterator[LocalWorld]:
    """A fresh bucket and owner; afterwards the cloud has its capacity again."""
    yield LocalWorld(ground)
    ground.cloud.control.faults(capacity={}, log_scan_events=0, not_found_s=0.0)


@pytest.fixture(params=["local", "simulated"])
def world(request: pytest.FixtureRequest) -> World:
    """Each implementation in turn."""
    if request.param == "simulated":
        return SimulatedWorld()
    local: LocalWorld = request.getfixturevalue("local_world")
    return local
