"""A daemon that dies at a chosen moment. Law: it dies right behind an effect, when the effect is done and nothing is known of it.

Dying before an effect is dying behind the one before it, and a transaction that was not committed is no effect.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection
from typing_extensions import override

from dstackd.core.instance import Snapshot
from dstackd.core.launching import Image, Launched, LaunchRequest
from dstackd.core.lifecycle import Rule
from dstackd.core.offering import InstanceType, Subnet
from dstackd.core.orphan import SpotRequest, Stranger
from dstackd.log_files import LogFiles, StoredLine
from dstackd.ports import Bucket, Compute, ObjectFacts, ObjectHead
from dstackd.store.engine import Database
from tests.controllers.installation import Ports

T = TypeVar("T")


class Crash(BaseException):
    """The process is gone; nothing may catch this but who restarts it."""


class Fuse:
    """Counts effects and burns through at one of them. `blow_at` 0: never."""

    def __init__(self, blow_at: int = 0) -> None:
        self.blow_at = blow_at
        self.effects: list[str] = []

    def burn(self, effect: str) -> None:
        """One effect has happened."""
        self.effects.append(effect)
        if len(self.effects) == self.blow_at:
            raise Crash(effect)

    @property
    def blown(self) -> bool:
        """The daemon has died already."""
        return 0 < self.blow_at <= len(self.effects)

    def around(self, ports: Ports) -> Ports:
        """The same ports, each of whose effects burns."""
        return replace(
            ports,
            database=FragileDatabase(ports.database, self),
            compute=FragileCompute(ports.compute, self),
            bucket=FragileBucket(ports.bucket, self),
            files=FragileFiles(ports.files.directory, self),
        )


class FragileDatabase(Database):
    """Dies behind a commit."""

    def __init__(self, inner: Database, fuse: Fuse) -> None:
        super().__init__(inner._writer, inner._reader, url=inner.url, clock=inner._clock)
        self._fuse = fuse

    @override
    async def write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        result = await super().write(work)
        self._fuse.burn("commit")
        return result


class FragileFiles(LogFiles):
    """Dies behind a write to a log file."""

    def __init__(self, directory: Path, fuse: Fuse) -> None:
        super().__init__(directory)
        self._fuse = fuse

    @override
    def append(
        self,
        job_id: str,
        attempt: int,
        lines: Sequence[StoredLine],
        *,
        room_bytes: int | None = None,
    ) -> tuple[int, int]:
        written = super().append(job_id, attempt, lines, room_bytes=room_bytes)
        self._fuse.burn("log lines")
        return written


class FragileCompute:
    """Dies behind a launch or a termination."""

    def __init__(self, inner: Compute, fuse: Fuse) -> None:
        self._inner = inner
        self._fuse = fuse

    async def snapshot(self) -> Snapshot:
        return await self._inner.snapshot()

    async def reclaimed(self) -> frozenset[str]:
        return await self._inner.reclaimed()

    async def open_requests(self) -> tuple[SpotRequest, ...]:
        return await self._inner.open_requests()

    async def cancel_requests(self, request_ids: Sequence[str]) -> None:
        await self._inner.cancel_requests(request_ids)
        self._fuse.burn("cancel")

    async def strangers(self) -> tuple[Stranger, ...]:
        return await self._inner.strangers()

    async def launch(self, request: LaunchRequest) -> tuple[Launched, ...]:
        launched = await self._inner.launch(request)
        self._fuse.burn("launch")
        return launched

    async def terminate(self, instance_ids: Sequence[str]) -> None:
        await self._inner.terminate(instance_ids)
        self._fuse.burn("terminate")

    async def instance_types(self) -> tuple[InstanceType, ...]:
        return await self._inner.instance_types()

    async def subnets(self) -> tuple[Subnet, ...]:
        return await self._inner.subnets()

    async def spot_prices(self, names: Sequence[str]) -> dict[tuple[str, str], float]:
        return await self._inner.spot_prices(names)

    async def image(self, architecture: str, *, gpu: bool) -> Image:
        return await self._inner.image(architecture, gpu=gpu)


class FragileBucket:
    """Dies behind a put or a delete."""

    def __init__(self, inner: Bucket, fuse: Fuse) -> None:
        self._inner = inner
        self._fuse = fuse

    async def put(self, key: str, body: bytes, *, only_if_new: bool = False) -> None:
        await self._inner.put(key, body, only_if_new=only_if_new)
        self._fuse.burn("put")

    async def put_file(self, key: str, path: Path) -> None:
        await self._inner.put_file(key, path)
        self._fuse.burn("put file")

    async def exists(self, key: str) -> bool:
        return await self._inner.exists(key)

    async def facts(self, key: str) -> ObjectFacts:
        return await self._inner.facts(key)

    async def renew(self, key: str) -> None:
        await self._inner.renew(key)
        self._fuse.burn("renew")

    async def ensure_rules(self, ours: Sequence[Rule]) -> bool:
        written = await self._inner.ensure_rules(ours)
        if written:
            self._fuse.burn("rules")
        return written

    async def get(self, key: str) -> bytes:
        return await self._inner.get(key)

    def read(self, key: str) -> AsyncIterator[bytes]:
        return self._inner.read(key)

    async def list(self, prefix: str) -> tuple[ObjectHead, ...]:
        return await self._inner.list(prefix)

    async def delete(self, keys: Sequence[str]) -> None:
        await self._inner.delete(keys)
        self._fuse.burn("delete")
