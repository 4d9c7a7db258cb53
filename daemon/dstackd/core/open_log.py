"""One attempt's log while it may still grow. Law: no I/O; everything here can be found out again."""

from __future__ import annotations

from dataclasses import dataclass

from dstackd import protocol
from dstackd.core.log_assembly import Gap, LogAssembly

Key = tuple[str, int]
"""Job id, number of the attempt."""

LOOK_FIRST_S = 2.0
"""How long a gap may close by itself before it is looked for."""
LOOK_MAX_S = 30.0
"""Between two looks, after some that found nothing."""


@dataclass(frozen=True, slots=True)
class WantedLog:
    """What the table says of it. `lines_sent` None: the machine has not said yet.

    `lines_seen`: how many have arrived, at whichever owner; it never falls.
    `asked_at_ms` is when its launch was committed: no line is older, however late EC2's answer was saved.
    """

    job_id: str
    attempt: int
    asked_at_ms: int
    lines_sent: int | None
    lines_seen: int
    has_ended: bool = False


@dataclass(slots=True)
class OpenLog:
    """What is known of it, and when it was last looked after. Times are monotonic seconds."""

    entry: WantedLog
    assembly: LogAssembly
    size_bytes: int
    """Of its file."""
    quiet_since_s: float
    """The last new line, the attempt's end, or the opening, whichever came last."""
    is_known: bool
    """Something of its stream was read: it exists."""
    is_full: bool = False
    unkept: int = 0
    """Lines that arrived when the file was full already."""
    must_look: bool = False
    """Lines that were read could not be written, and must be read again."""
    gap_since_s: float | None = None
    next_look_s: float = 0.0
    looks: int = 0

    @property
    def key(self) -> Key:
        return self.entry.job_id, self.entry.attempt

    @property
    def stream(self) -> str:
        """Its name in CloudWatch."""
        return protocol.log_stream(*self.key)

    @property
    def seen(self) -> int:
        """How many lines are here."""
        return self.assembly.seen - self.unkept

    def learn(self, entry: WantedLog, *, now_s: float) -> None:
        """Take in what the machine and the table say now; late lines are waited for from the end on."""
        if entry.has_ended and not self.entry.has_ended:
            self.quiet_since_s = now_s
        self.entry = entry
        self.assembly.expected = entry.lines_sent

    @property
    def has_gap(self) -> bool:
        """Whether lines are missing."""
        return not self.is_full and (
            self.assembly.pending > 0 or self.assembly.is_short or self.must_look
        )

    def gap(self) -> Gap | None:
        """Where lines are missing."""
        if not self.has_gap:
            return None
        return self.assembly.gap() or Gap(self.assembly.last_at_ms, None)

    def note_gap(self, now_s: float) -> None:
        """Begin or end the wait for what is missing; to be called on each pass."""
        if not self.has_gap:
            self.gap_since_s = None
        elif self.gap_since_s is None:
            self.gap_since_s, self.looks = now_s, 0
            self.next_look_s = now_s + (0.0 if self.must_look else LOOK_FIRST_S)

    def looked(self, now_s: float) -> None:
        """A look at the gap is over; the next one is later."""
        self.must_look = False
        self.looks += 1
        self.next_look_s = now_s + min(LOOK_FIRST_S * 2.0**self.looks, LOOK_MAX_S)
