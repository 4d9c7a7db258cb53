"""A hundred jobs that log at once, in simulated time: the daemon's loops are real, CloudWatch is not."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from dstackd.clock import SystemClock
from dstackd.store.engine import open_database
from dstackd.store.migrate import upgrade
from tests.controllers.installation import an_installation
from tests.controllers.many_logs import Followed, follow_many


def follow(*, jobs: int, lines: int) -> Followed:
    """See `follow_many`."""
    return asyncio.run(_follow(jobs=jobs, lines=lines))


async def _follow(*, jobs: int, lines: int) -> Followed:
    with tempfile.TemporaryDirectory() as folder:
        template = Path(folder) / "empty.db"
        async with open_database(f"sqlite:///{template}", clock=SystemClock()) as database:
            await upgrade(database)
        (Path(folder) / "world").mkdir()
        async with an_installation(Path(folder) / "world", template=template) as world:
            return await follow_many(world, jobs=jobs, lines=lines)
