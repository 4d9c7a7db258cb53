"""How far the followed jobs are. Law: one query a tick, whatever the number of followers and jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import anyio
import structlog

from dstackd.http.responses import Refusal
from dstackd.store import queries
from dstackd.store.engine import Database
from dstackd.store.queries import LogProgress

_LOG = structlog.get_logger(__name__)

TICK_S = 0.2
FOLLOWERS_MAX = 256
"""Each follower costs a look at a file every tick, and an open connection."""


class FollowBoard:
    """The progress of each job that somebody follows, as of the last tick."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._followers: Counter[str] = Counter()
        self._progress: dict[str, LogProgress] = {}
        self._looked_for: frozenset[str] = frozenset()
        self._wanted = anyio.Event()
        self._tick = anyio.Event()
        self.closed = False
        """The daemon stops: followers end without an end."""

    @property
    def followers(self) -> int:
        """How many follow now."""
        return self._followers.total()

    @contextmanager
    def following(self, job_id: str) -> Iterator[None]:
        """Have the job on the board. Raises Refusal 429 when too many follow already."""
        if self.followers >= FOLLOWERS_MAX:
            message = f"{FOLLOWERS_MAX} log streams are followed already; try again later"
            raise Refusal(429, "too_many_followers", message, headers={"Retry-After": "5"})
        self._followers[job_id] += 1
        self._wanted.set()
        try:
            yield
        finally:
            self._followers[job_id] -= 1
            if not self._followers[job_id]:
                del self._followers[job_id]
                self._progress.pop(job_id, None)

    async def next(self, job_id: str) -> LogProgress | None:
        """Wait for a tick; None when the board is closed, or the job's row is gone."""
        while not self.closed:
            await self._tick.wait()
            if job_id in self._progress:
                return self._progress[job_id]
            if job_id in self._looked_for:
                return None
        return None

    async def run(self) -> None:
        """Tick while anybody follows, until cancelled."""
        while True:
            if not self._followers:
                self._wanted = anyio.Event()
                await self._wanted.wait()
            await self._read()
            self._announce()
            await anyio.sleep(TICK_S)

    def close(self) -> None:
        """Send all followers away."""
        self.closed = True
        self._announce()

    async def _read(self) -> None:
        job_ids = frozenset(self._followers)
        work = partial(queries.log_progress, job_ids=tuple(job_ids))
        try:
            self._progress, self._looked_for = await self._database.read(work), job_ids
        except queries.DATABASE_ERRORS as error:
            # Followers keep what they know; /readyz tells about the database.
            _LOG.warning("http_follow_failed", error=str(error))

    def _announce(self) -> None:
        self._tick.set()
        self._tick = anyio.Event()
