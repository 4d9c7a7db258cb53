"""Between the daemon and its ports. Law: every effect takes time, is written into the trace, and may be the last thing that a
daemon does; a daemon that is dead does nothing any more.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

import anyio
from sqlalchemy.ext.asyncio import AsyncConnection
from typing_extensions import override

from dstackd.core.launching import Launched, LaunchRequest
from dstackd.errors import BlockScope, CapacityShortage
from dstackd.log_files import LogFiles, StoredLine
from dstackd.ports import Compute, LogEvent, LogSource
from dstackd.store.engine import Database
from tests.controllers.fuse import Crash
from tests.controllers.installation import Ports
from tests.intercepted import InterceptedBucket, InterceptedCompute

T = TypeVar("T")


@dataclass(slots=True)
class Latency:
    """Seconds that a call takes at most, before its effect and behind it."""

    ec2_s: float = 2.0
    bucket_s: float = 0.3
    list_s: float = 0.3
    logs_s: float = 0.5
    database_s: float = 0.02


class Surroundings(Protocol):
    """What the hazards of a daemon are in."""

    latency: Latency
    struck: Counter[str]

    def tell(self, text: str) -> None: ...
    def strike(self, operation: str) -> None: ...


class Hazards:
    """What may befall one daemon: it is made with it and dies with it."""

    def __init__(
        self, *, dice: random.Random, surroundings: Surroundings, dies_at: int, of: str = ""
    ) -> None:
        self._dice = dice
        self._around = surroundings
        self._dies_at, self._of = dies_at, of
        self.moments = 0
        """Before and behind each effect, and inside each transaction; only those whose name has `of` in it."""
        self.dead = False

    def die_next(self) -> None:
        """Let the next moment be the last."""
        self._dies_at, self._of = self.moments + 1, ""

    def around(self, ports: Ports) -> Ports:
        """The same ports, hostile."""
        return replace(
            ports,
            database=HostileDatabase(ports.database, self),
            compute=HostileCompute(ports.compute, self),
            bucket=InterceptedBucket(ports.bucket, self.call_s3),
            logs=HostileLogs(ports.logs, self),
            files=HostileFiles(ports.files.directory, self),
        )

    def note(self, what: str) -> None:
        """Something that is to be met with."""
        self._around.struck[what] += 1

    def moment(self, effect: str) -> None:
        """A moment at which the daemon may die. Raises Crash when it does, and ever after."""
        if not self.dead:
            self.moments += self._of in effect
            if self._of in effect and self.moments == self._dies_at:
                self._around.tell(f"the daemon dies {effect}")
                self._around.struck[f"dies {effect}"] += 1
                self.dead = True
        if self.dead:
            raise Crash(effect)

    async def call(
        self, operation: str, work: Callable[[], Awaitable[T]], *, most_s: float, shown: str = ""
    ) -> T:
        """One call to the world: it takes its time, may go wrong, and the daemon may die on either side of it."""
        await self.pause(most_s)
        self.moment(f"before {operation}")
        try:
            self._around.strike(operation)
            result = await work()
        except Exception as error:
            self._around.struck[type(error).__name__] += 1
            if isinstance(error, CapacityShortage):
                cause = "small_quota" if error.scope is BlockScope.QUOTA else "scarce"
                self._around.struck[cause] += 1
            self._around.tell(f"{operation} {shown}: {type(error).__name__}")
            await self.pause(most_s)
            raise
        if shown:
            self._around.tell(f"{operation} {shown}")
        self.moment(f"behind {operation}")
        await self.pause(most_s)
        return result

    async def call_ec2(
        self, operation: str, work: Callable[[], Awaitable[T]], shown: str = ""
    ) -> T:
        """One of EC2's."""
        return await self.call(operation, work, most_s=self.latency.ec2_s, shown=shown)

    async def call_s3(self, operation: str, work: Callable[[], Awaitable[T]], shown: str = "") -> T:
        """One of S3's."""
        is_list = operation == "ListObjectsV2"
        most_s = self.latency.list_s if is_list else self.latency.bucket_s
        return await self.call(operation, work, most_s=most_s, shown=shown)

    @property
    def latency(self) -> Latency:
        return self._around.latency

    async def pause(self, most_s: float) -> None:
        """Let the others go on meanwhile."""
        await anyio.sleep(self._dice.random() * most_s)
        if self.dead:
            raise Crash("dead")


class HostileDatabase(Database):
    """The daemon may die before, inside and behind each transaction."""

    def __init__(self, inner: Database, hazards: Hazards) -> None:
        super().__init__(
            inner._writer,
            inner._reader,
            url=inner.url,
            clock=inner._clock,
            tenure=inner.tenure,
        )
        self._hazards = hazards

    @override
    async def write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        await self._hazards.pause(self._hazards.latency.database_s)

        async def doomed(connection: AsyncConnection) -> T:
            result = await work(connection)
            self._hazards.moment("inside a transaction")
            return result

        result = await super().write(doomed)
        self._hazards.moment("behind a commit")
        return result

    @override
    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        result = await super().read(work)
        await self._hazards.pause(self._hazards.latency.database_s)
        return result


class HostileFiles(LogFiles):
    """The daemon may die behind a write to a log file."""

    def __init__(self, directory: Path, hazards: Hazards) -> None:
        super().__init__(directory)
        self._hazards = hazards

    @override
    def append(
        self,
        job_id: str,
        attempt: int,
        lines: Sequence[StoredLine],
        *,
        room_bytes: int | None = None,
    ) -> tuple[int, int]:
        self._hazards.moment("before log lines")
        written = super().append(job_id, attempt, lines, room_bytes=room_bytes)
        self._hazards.moment("behind log lines")
        return written


class HostileCompute(InterceptedCompute):
    """EC2 through hazards."""

    def __init__(self, inner: Compute, hazards: Hazards) -> None:
        super().__init__(inner, hazards.call_ec2)
        self._hazards = hazards

    @override
    async def launch(self, request: LaunchRequest) -> tuple[Launched, ...]:
        launched = await super().launch(request)
        if len(launched) < request.count:
            self._hazards.note("partial fill")
        return launched


class HostileLogs:
    """CloudWatch through hazards."""

    def __init__(self, inner: LogSource, hazards: Hazards) -> None:
        self._inner = inner
        self._hazards = hazards

    async def sweep(
        self, *, start_ms: int, end_ms: int | None = None, streams: Sequence[str] = ()
    ) -> AsyncIterator[Sequence[LogEvent]]:
        async def pages() -> list[Sequence[LogEvent]]:
            read = self._inner.sweep(start_ms=start_ms, end_ms=end_ms, streams=streams)
            return [page async for page in read]

        most_s = self._hazards.latency.logs_s
        for page in await self._hazards.call("FilterLogEvents", pages, most_s=most_s):
            yield page
            await self._hazards.pause(most_s)
