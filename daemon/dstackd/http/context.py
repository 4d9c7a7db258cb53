"""What the web server is given. Law: no settings, no globals; the composition root makes it once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dstackd.log_files import LogFiles
from dstackd.ports import Bucket, Clock
from dstackd.store.engine import Database
from dstackd.vitals import ApiCalls, Vitals


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
