"""What a look for orphans has found, for a person. Law: values only."""

from __future__ import annotations

from dataclasses import dataclass

from dstackd.core.instance import Snapshot
from dstackd.core.orphan import Marks, Stranger


@dataclass(frozen=True, slots=True)
class Suspect:
    """A machine or a spot request that nobody needs."""

    id: str
    marked_since_ms: int | None
    """When an earlier look has said so first; None: this is the first one."""
    confirmed: bool
    """The earlier look is long enough ago: it goes."""
    launch_id: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """Everything with this bucket's tag, and what is suspected now."""

    snapshot: Snapshot
    marks: Marks
    orphans: tuple[Suspect, ...]
    requests: tuple[Suspect, ...]
    strangers: tuple[Stranger, ...]


@dataclass(frozen=True, slots=True)
class Reaped:
    """Ids, by what has become of them: asked to go, or waiting for a second look."""

    terminated: tuple[str, ...]
    marked: tuple[str, ...]
    cancelled: tuple[str, ...]
    marked_requests: tuple[str, ...]
