"""What a reader of a job's log does next. Law: pure; progress and position in, step out.

An attempt's log is whole when as many lines are stored as the machine says it sent, a line that stands for lost ones counting
for all of them. A machine that died did not say: then a while without new lines has to do. The end comes with the verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from dstackd.core.log_line import StoredLine
from dstackd.store.queries import AttemptProgress, LogProgress

LATE_LINES_S = 10.0
"""How long to wait for lines that are still to come after the attempt has ended: CloudWatch shows some late."""


class Step(Enum):
    """After everything that is stored has been shown."""

    WAIT = auto()
    NEXT_ATTEMPT = auto()
    END = auto()


@dataclass(frozen=True, slots=True)
class Selection:
    """What was asked for. `attempt` None: all attempts in order. Reading begins behind line `after` of attempt `first`."""

    attempt: int | None
    first: int
    after: int
    follow: bool


@dataclass(slots=True)
class Position:
    """How far the reader is."""

    attempt: int
    last_n: int
    """Number of the last line seen (or said to be missing) in this attempt."""
    offset: int = 0
    lines: int = 0
    """Over all attempts."""
    missing: int | None = 0
    """Over all attempts; None: some machine did not say how many it wrote."""
    quiet_since_s: float | None = None
    """Since when the attempt is over and nothing new came."""
    holes: int = 0
    """Lines of this attempt that the reader was told are missing."""
    skipped: int = 0
    """Lines of this attempt that the reader has had before: nobody remembers how many of them were missing."""
    asked_up_to: int = 0
    """How many arrived lines there were when CloudWatch was asked last."""

    def move_on(self, attempt: int) -> None:
        """Begin another attempt."""
        self.attempt, self.last_n, self.offset, self.quiet_since_s = attempt, 0, 0, None
        self.holes = self.skipped = self.asked_up_to = 0


def attempt_of(progress: LogProgress, number: int) -> AttemptProgress | None:
    """The attempt, or None when it has not begun."""
    return next((each for each in progress.attempts if each.number == number), None)


def is_over(progress: LogProgress, number: int) -> bool:
    """The attempt will write nothing more: it ended, or a later one has begun, or the job is over."""
    attempt = attempt_of(progress, number)
    ended = attempt is not None and attempt.ended
    return ended or progress.finished or any(each.number > number for each in progress.attempts)


def is_whole(attempt: AttemptProgress | None, last_n: int) -> bool:
    """No line can come any more; for an attempt that is over."""
    if attempt is None or not attempt.started:
        return True
    all_here = attempt.lines_sent is not None and last_n >= attempt.lines_sent
    return all_here and bool(attempt.verdict)


def next_step(progress: LogProgress, position: Position, asked: Selection, *, now_s: float) -> Step:
    """What to do, once all that is stored of the attempt has been shown."""
    number = position.attempt
    attempt, over = attempt_of(progress, number), is_over(progress, number)
    if asked.follow and attempt is not None and not over:
        return Step.WAIT
    quiet_s = 0.0 if position.quiet_since_s is None else now_s - position.quiet_since_s
    if asked.follow and not is_whole(attempt, position.last_n) and quiet_s < LATE_LINES_S:
        return Step.WAIT
    if asked.attempt is not None:
        return Step.END
    if any(each.number > number for each in progress.attempts):
        return Step.NEXT_ATTEMPT
    return Step.WAIT if asked.follow and not progress.finished else Step.END


def lines_seen(progress: LogProgress, number: int) -> int:
    """How many lines of the attempt have arrived, at whichever daemon."""
    attempt = attempt_of(progress, number)
    return 0 if attempt is None else attempt.lines_seen


def is_elsewhere(progress: LogProgress, position: Position, hole: StoredLine) -> bool:
    """Whether lines of a hole in this host's file have arrived at another daemon: with it there were more missing than are."""
    attempt = attempt_of(progress, position.attempt)
    if attempt is None or attempt.lines_sent is None:
        return False
    return position.holes + hole.missing > attempt.lines_sent - attempt.lines_seen


def lacking_at_end(
    progress: LogProgress, position: Position, *, is_last_word: bool
) -> StoredLine | None:
    """What is behind this host's file, when lines have arrived at another daemon that it has not got: as many as have; for the
    last word, as many as were sent.
    """
    attempt = attempt_of(progress, position.attempt)
    if attempt is None:
        return None
    arrived_n, sent = attempt.lines_seen + position.holes, attempt.lines_sent
    known_missing = 0 if sent is None else max(0, sent - attempt.lines_seen)
    if position.last_n >= arrived_n + min(position.skipped, known_missing):
        return None
    last_n = arrived_n if sent is None else sent if is_last_word else min(arrived_n, sent)
    first_n = position.last_n + 1
    return StoredLine(first_n, missing=last_n - first_n + 1) if last_n >= first_n else None


def missing_at_end(progress: LogProgress, position: Position) -> int | None:
    """Lines behind the position that were never stored: 0 while the attempt runs, None when nobody knows."""
    attempt = attempt_of(progress, position.attempt)
    if attempt is None or not attempt.started or not is_over(progress, attempt.number):
        return 0
    if attempt.lines_sent is None:
        return None
    return max(0, attempt.lines_sent - position.last_n)
