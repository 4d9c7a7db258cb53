"""Why and how the job has to stop. Law: the first cause stays; a later order can only hurry."""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass
from types import FrameType

STOPPED = "stopped"
TIMED_OUT = "timed_out"
INTERRUPTED = "interrupted"
SILENCE = "silence"
"""The machine has not reached its bucket for so long that nobody may be there any more."""
EXIT = "exit"
"""Not a cause of stopping: the commands ended by themselves."""
OUT_OF_MEMORY = "oom"
"""Neither: the kernel took the commands, or a part of them, for their memory."""


GOING_DOWN_GRACE_S = 15.0
"""When the machine itself is being shut down; its unit has longer, for the artifacts."""


@dataclass(frozen=True)
class StopOrder:
    """The job's stop signal now, SIGKILL after `grace_s`."""

    cause: str
    grace_s: float
    deadline_s: float | None = None
    """`time.monotonic()` when EC2 takes the machine; None: nobody has said so."""


class StopSwitch:
    """Where whoever wants the job to stop and whoever runs it meet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._order: StopOrder | None = None

    def order(self, cause: str, *, grace_s: float, deadline_s: float | None = None) -> None:
        """Ask for the stop. Not for a signal handler: it takes a lock."""
        with self._lock:
            first = self._order or StopOrder(cause, grace_s, deadline_s)
            known = [each for each in (first.deadline_s, deadline_s) if each is not None]
            self._order = StopOrder(
                first.cause, min(first.grace_s, grace_s), min(known, default=None)
            )
        self._changed.set()

    def current(self) -> StopOrder | None:
        return self._order

    def wake(self) -> None:
        """Let the waiter look again."""
        self._changed.set()

    def wait(self, timeout_s: float | None) -> None:
        """Until something changed, or `timeout_s`."""
        self._changed.wait(timeout_s)
        self._changed.clear()


def obey_signals(switch: StopSwitch) -> None:
    """From now on SIGTERM to the runner orders the stop at `switch`. In the main thread only."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        # In a thread: the handler runs between two lines of the main thread, which may hold the
        # switch's lock.
        threading.Thread(
            target=switch.order, args=(INTERRUPTED,), kwargs={"grace_s": GOING_DOWN_GRACE_S}
        ).start()

    signal.signal(signal.SIGTERM, stop)
