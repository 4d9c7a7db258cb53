"""What the web server is given. Law: no settings, no globals; the composition root makes it once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from dstackd.catalogue import Catalogue
from dstackd.core.bounds import Bounds
from dstackd.core.instance import Snapshot
from dstackd.core.limits import Limits
from dstackd.core.plan_view import PlanView
from dstackd.core.reaping import Look, Reaped
from dstackd.http.distant_logs import DistantLogs
from dstackd.log_files import LogFiles
from dstackd.market import MarketBlocks
from dstackd.ports import Bucket, Clock
from dstackd.spec.model import JobSpec
from dstackd.store.engine import Database
from dstackd.vitals import ApiCalls, Vitals


class Reaping(Protocol):
    """The reaper, as an operator may use it. Both ask EC2 and may raise CloudError."""

    async def look(self) -> Look:
        """What a look would find; changes nothing."""
        ...

    async def reap_now(self) -> Reaped:
        """A look that counts."""
        ...


@dataclass(frozen=True, slots=True)
class Insight:
    """What the loops decide by, for those who explain it: read, never changed."""

    catalogue: Catalogue
    blocks: MarketBlocks
    bounds: Bounds
    snapshot: Callable[[], Snapshot | None]
    """The last one of the machines loop."""
    heartbeat_ms: Callable[[str], int | None]
    """A machine's last sign of life, as the decisions take it."""
    look_ahead: int = 1000


@dataclass(frozen=True, slots=True)
class HttpContext:
    """The parts of the daemon that a request may look at."""

    database: Database
    vitals: Vitals
    api_calls: Callable[[], Iterable[ApiCalls]]
    """How each AWS operation has answered since the start; cheap, from memory."""
    log_files: LogFiles
    bucket: Bucket | None
    """None: there is no backend, so nobody can see artifacts."""
    clock: Clock
    version: str
    plan: Callable[[JobSpec], Awaitable[PlanView]] | None = None
    """What a spec would be launched on, without launching; may raise CloudError. None: there is no backend."""
    reaper: Reaping | None = None
    """None: there is no backend."""
    insight: Insight | None = None
    """What an explanation looks at; None: there is no backend, and queued jobs are explained by their rows alone."""
    limits: Limits = field(default_factory=Limits)
    distant_logs: DistantLogs | None = None
    """Lines that are not in this host's files; None: there is no backend."""
