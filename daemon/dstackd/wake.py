"""How one loop tells another that there is something to do. Law: a wake is a hint; whoever misses one finds the work anyway."""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio


class Wake:
    """A bell for one loop. Rung before the loop waits, it is not lost; rung ten times, it is heard once."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def ring(self) -> None:
        """Have the loop's next pass begin now."""
        self._event.set()

    async def wait(self, timeout_s: float) -> bool:
        """Until rung or `timeout_s` has passed; whether it was rung."""
        with anyio.move_on_after(timeout_s):
            await self._event.wait()
        rung = self._event.is_set()
        if rung:
            self._event = anyio.Event()
        return rung


@dataclass(frozen=True, slots=True)
class Wakes:
    """One bell a loop."""

    intake: Wake = field(default_factory=Wake)
    holding: Wake = field(default_factory=Wake)
    inputs: Wake = field(default_factory=Wake)
    planning: Wake = field(default_factory=Wake)
    launches: Wake = field(default_factory=Wake)
    reusing: Wake = field(default_factory=Wake)
    machines: Wake = field(default_factory=Wake)
    inbox: Wake = field(default_factory=Wake)
    logs: Wake = field(default_factory=Wake)
    schedules: Wake = field(default_factory=Wake)


@dataclass(slots=True)
class Heartbeats:
    """The machines' last signs of life, as last listed. Times are the bucket's clock."""

    at_ms: dict[str, int] = field(default_factory=dict)
    read_at_ms: int | None = None
    """When the list was read, by our clock; None: never, and silence proves nothing."""

    def of(self, instance_id: str, *, now_ms: int, every_s: float) -> int | None:
        """The machine's last heartbeat (0: none yet), or None when the list, which is read `every_s`, is too old to judge by."""
        if self.read_at_ms is None or now_ms - self.read_at_ms > int(every_s * 3000):
            return None
        return self.at_ms.get(instance_id, 0)
