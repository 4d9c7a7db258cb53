"""A daemon that dies at a chosen moment. Law: it dies right behind an effect, when the effect is done and nothing is known of it.

Dying before an effect is dying behind the one before it, and a transaction that was not committed is no effect.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection
from typing_extensions import override

from dstackd.log_files import LogFiles, StoredLine
from dstackd.ports import Compute
from dstackd.store.engine import Database
from tests.controllers.installation import Ports
from tests.intercepted import CONDITIONAL_PUT, InterceptedBucket, InterceptedCompute

T = TypeVar("T")

EFFECTS = frozenset(
    {
        *("RunInstances", "TerminateInstances", "CancelSpotInstanceRequests"),
        *("PutObject", CONDITIONAL_PUT, "CopyObject", "DeleteObjects"),
        "PutBucketLifecycleConfiguration",
    }
)
"""Operations that change something in the cloud."""


class Crash(BaseException):
    """The process is gone; nothing may catch this but who restarts it."""


def is_crash(error: BaseException) -> bool:
    """Whether that is all it is: a loop's task group wraps what ends it."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_crash(each) for each in error.exceptions)
    return isinstance(error, Crash)


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

    async def call(self, operation: str, work: Callable[[], Awaitable[T]], shown: str = "") -> T:
        """A call to AWS: if it changes something there, that is an effect."""
        result = await work()
        # False: the rules were as they are to be.
        if operation in EFFECTS and result is not False:
            self.burn(f"{operation} {shown}".rstrip())
        return result

    def around(self, ports: Ports) -> Ports:
        """The same ports, each of whose effects burns."""
        return replace(
            ports,
            database=FragileDatabase(ports.database, self),
            compute=FragileCompute(ports.compute, self),
            bucket=InterceptedBucket(ports.bucket, self.call),
            files=FragileFiles(ports.files.directory, self),
        )


class FragileDatabase(Database):
    """Dies behind a commit."""

    def __init__(self, inner: Database, fuse: Fuse) -> None:
        super().__init__(
            inner._writer,
            inner._reader,
            url=inner.url,
            clock=inner._clock,
            tenure=inner.tenure,
        )
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


class FragileCompute(InterceptedCompute):
    """Dies behind a launch, a cancel or a termination."""

    def __init__(self, inner: Compute, fuse: Fuse) -> None:
        super().__init__(inner, fuse.call)
