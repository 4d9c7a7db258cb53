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

from dstackd.core.instance import Snapshot
from dstackd.core.launching import Image, Launched, LaunchRequest
from dstackd.core.lifecycle import Rule
from dstackd.core.offering import InstanceType, Subnet
from dstackd.core.orphan import SpotRequest, Stranger
from dstackd.errors import BlockScope, CapacityShortage
from dstackd.log_files import LogFiles, StoredLine
from dstackd.ports import Bucket, Compute, LogEvent, LogSource, ObjectFacts, ObjectHead
from dstackd.store.engine import Database
from tests.controllers.installation import Ports

T = TypeVar("T")


class Crash(BaseException):
    """The process is gone. Nothing may catch this but who starts another one."""


@dataclass(slots=True)
class Latency:
    """Seconds that a call takes at most, before its effect and behind it."""

    ec2_s: float = 2.0
    bucket_s: float = 0.3
    list_s: float = 0.3
    logs_s: float = 0.5
    database_s: float = 0.02


CONDITIONAL_PUT = "PutObject, if new"


class Surroundings(Protocol):
    """What the hazards of a daemon are in."""

    latency: Latency
    struck: Counter[str]

    def tell(self, text: str) -> None: ...
    def strike(self, operation: str) -> None: ...


class Hazards:
    """What may befall one daemon: it is made with it and dies with it."""

    def __init__(self, *, dice: random.Random, surroundings: Surroundings, dies_at: int) -> None:
        self._dice = dice
        self._around = surroundings
        self._dies_at = dies_at
        self.moments = 0
        """Before and behind each effect, and inside each transaction."""
        self.dead = False

    def die_next(self) -> None:
        """Let the next moment be the last."""
        self._dies_at = self.moments + 1

    def around(self, ports: Ports) -> Ports:
        """The same ports, hostile."""
        return replace(
            ports,
            database=HostileDatabase(ports.database, self),
            compute=HostileCompute(ports.compute, self),
            bucket=HostileBucket(ports.bucket, self),
            logs=HostileLogs(ports.logs, self),
            files=HostileFiles(ports.files.directory, self),
        )

    def note(self, what: str) -> None:
        """Something that is to be met with."""
        self._around.struck[what] += 1

    def moment(self, effect: str) -> None:
        """A moment at which the daemon may die. Raises Crash when it does, and ever after."""
        if not self.dead:
            self.moments += 1
            if self.moments == self._dies_at:
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
        super().__init__(inner._writer, inner._reader, url=inner.url, clock=inner._clock)
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


class HostileCompute:
    """EC2 through hazards."""

    def __init__(self, inner: Compute, hazards: Hazards) -> None:
        self._inner = inner
        self._hazards = hazards

    async def _call(self, operation: str, work: Callable[[], Awaitable[T]], shown: str = "") -> T:
        most_s = self._hazards.latency.ec2_s
        return await self._hazards.call(operation, work, most_s=most_s, shown=shown)

    async def snapshot(self) -> Snapshot:
        return await self._call("DescribeInstances", self._inner.snapshot)

    async def reclaimed(self) -> frozenset[str]:
        return await self._call("DescribeSpotInstanceRequests", self._inner.reclaimed)

    async def launch(self, request: LaunchRequest) -> tuple[Launched, ...]:
        shown = f"{request.launch_id} {request.count} {request.instance_type} {request.market}"
        launched = await self._call("RunInstances", lambda: self._inner.launch(request), shown)
        if len(launched) < request.count:
            self._hazards.note("partial fill")
        return launched

    async def open_requests(self) -> tuple[SpotRequest, ...]:
        return await self._call("DescribeSpotInstanceRequests", self._inner.open_requests)

    async def cancel_requests(self, request_ids: Sequence[str]) -> None:
        shown = " ".join(request_ids)
        await self._call(
            "CancelSpotInstanceRequests", lambda: self._inner.cancel_requests(request_ids), shown
        )

    async def strangers(self) -> tuple[Stranger, ...]:
        return await self._call("DescribeInstances", self._inner.strangers)

    async def terminate(self, instance_ids: Sequence[str]) -> None:
        shown = " ".join(sorted(instance_ids))
        await self._call("TerminateInstances", lambda: self._inner.terminate(instance_ids), shown)

    async def instance_types(self) -> tuple[InstanceType, ...]:
        return await self._call("DescribeInstanceTypes", self._inner.instance_types)

    async def subnets(self) -> tuple[Subnet, ...]:
        return await self._call("DescribeSubnets", self._inner.subnets)

    async def spot_prices(self, names: Sequence[str]) -> dict[tuple[str, str], float]:
        return await self._call("DescribeSpotPriceHistory", lambda: self._inner.spot_prices(names))

    async def image(self, architecture: str, *, gpu: bool) -> Image:
        return await self._call("DescribeImages", lambda: self._inner.image(architecture, gpu=gpu))


class HostileBucket:
    """S3 through hazards."""

    def __init__(self, inner: Bucket, hazards: Hazards) -> None:
        self._inner = inner
        self._hazards = hazards

    async def _call(self, operation: str, work: Callable[[], Awaitable[T]], shown: str = "") -> T:
        latency = self._hazards.latency
        most_s = latency.list_s if operation == "ListObjectsV2" else latency.bucket_s
        return await self._hazards.call(operation, work, most_s=most_s, shown=shown)

    async def put(self, key: str, body: bytes, *, only_if_new: bool = False) -> None:
        operation = CONDITIONAL_PUT if only_if_new else "PutObject"
        await self._call(
            operation, lambda: self._inner.put(key, body, only_if_new=only_if_new), key
        )

    async def put_file(self, key: str, path: Path) -> None:
        await self._call("PutObject", lambda: self._inner.put_file(key, path), key)

    async def exists(self, key: str) -> bool:
        return await self._call("HeadObject", lambda: self._inner.exists(key))

    async def facts(self, key: str) -> ObjectFacts:
        return await self._call("HeadObject", lambda: self._inner.facts(key))

    async def renew(self, key: str) -> None:
        await self._call("CopyObject", lambda: self._inner.renew(key), key)

    async def ensure_rules(self, ours: Sequence[Rule]) -> bool:
        return await self._call(
            "PutBucketLifecycleConfiguration", lambda: self._inner.ensure_rules(ours)
        )

    async def get(self, key: str) -> bytes:
        return await self._call("GetObject", lambda: self._inner.get(key))

    def read(self, key: str) -> AsyncIterator[bytes]:
        return self._inner.read(key)

    async def list(self, prefix: str) -> tuple[ObjectHead, ...]:
        return await self._call("ListObjectsV2", lambda: self._inner.list(prefix))

    async def delete(self, keys: Sequence[str]) -> None:
        await self._call("DeleteObjects", lambda: self._inner.delete(keys), f"{len(keys)} keys")


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
