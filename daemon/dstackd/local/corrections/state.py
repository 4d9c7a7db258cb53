"""What all corrections share: the knobs, one lock, the machines, and what moto does not keep.

Law: no moto class is patched here. `lock` is held around every change of an instance's state; it
is never held while waiting for a process.
"""

import itertools
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from dstackd.local.faults import Faults


@dataclass(slots=True, eq=False)
class SpotRequest:
    """The request record of one spot instance; moto keeps none for RunInstances."""

    id: str
    instance_id: str
    """Empty while the request is open."""
    zone: str
    max_price: str
    created_at: float
    state: str = "active"
    code: str = "fulfilled"
    updated_at: float = 0.0
    ended_at: float | None = None


@dataclass(slots=True, eq=False)
class Launched:
    """One instance: moto's object and what moto does not know about it."""

    instance: Any
    backend: Any
    reservation: Any
    sequence: int
    launched_at: float
    launch_index: int
    role: Any = None
    """moto's instance profile, or None."""
    spot: SpotRequest | None = None
    ends_as: str = ""
    """`terminated` or `stopped` once it is on its way down."""
    ended_at: float | None = None

    @property
    def id(self) -> str:
        return str(self.instance.id)

    @property
    def state(self) -> str:
        return str(self.instance.state)

    @property
    def market(self) -> str:
        return "on-demand" if self.spot is None else "spot"

    @property
    def zone(self) -> str:
        return str(self.instance.availability_zone)


@dataclass(slots=True, eq=False)
class Waiting:
    """A spot request that has no instance: open, or cancelled."""

    request: SpotRequest
    backend: Any
    sequence: int
    instance_type: str


class Machines(Protocol):
    """Where instances run. Called with the lock held; must not block."""

    def boot(self, launched: Launched) -> None:
        """Start a machine for a new, pending instance."""
        ...

    def end(self, launched: Launched) -> None:
        """End the machine of an instance that is shutting down, then report it ended."""
        ...

    def tags_changed(self, launched: Launched) -> None:
        """Show the instance's tags in its metadata, if it may show any."""
        ...


@dataclass(slots=True, eq=False)
class CloudState:
    """One local cloud. `machines` is set before the first request is served."""

    faults: Faults
    prices: dict[str, float]
    """On-demand US dollars an hour by instance type; types not listed are estimated."""
    machines: Machines | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)
    sequence: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    instances: dict[str, Launched] = field(default_factory=dict)
    """By instance id, in launch order."""
    requests: dict[str, Launched] = field(default_factory=dict)
    """By the id of its spot request, also when the instance is no longer described."""
    waiting: dict[str, Waiting] = field(default_factory=dict)
    """By the id of the spot request."""

    def now(self) -> float:
        """Epoch seconds."""
        return time.time()

    def visible(self, backend: Any) -> list[Launched]:
        """Return what Describe may show in one account and region, oldest first.

        Instances terminated long ago are forgotten here, as EC2 does after about an hour.
        """
        now = self.now()
        gone = now - self.faults.terminated_visible_s
        for launched in list(self.instances.values()):
            if launched.state == "terminated" and (launched.ended_at or now) < gone:
                self._forget(launched)
        return [
            launched
            for launched in self.instances.values()
            if launched.backend is backend and launched.launched_at + self.faults.not_found_s <= now
        ]

    def _forget(self, launched: Launched) -> None:
        del self.instances[launched.id]
        launched.reservation.instances.remove(launched.instance)


def tags_of(launched: Launched) -> Mapping[str, str]:
    """Return an instance's tags by key."""
    return dict(launched.backend.tags.get(launched.id, {}))
