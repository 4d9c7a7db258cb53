"""What time it is for AWS. Law: this machine's own clock, until an answer of AWS's shows it to be wrong.

A machine's first minutes may be without a time server. Signatures and the times of log lines go by AWS's
clock: the one is refused otherwise, and the other is looked for where it is not.
"""

from __future__ import annotations

import email.utils
import time

IGNORED_S = 60.0
_WHOLE_SECOND_S = 2.0


class WallClock:
    """May be used from several threads."""

    def __init__(self) -> None:
        self._off_s = 0.0

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time() + self._off_s

    def learn(self, date: str, *, asked_at: float) -> None:
        """`date`: an answer's Date header; `asked_at`: what `time.time` said before it was asked for. AWS's clock
        said `date` at some moment since then.
        """
        try:
            told = email.utils.parsedate_to_datetime(date).timestamp()
        except (TypeError, ValueError):
            return
        least_s, most_s = told - time.time(), told - asked_at
        if least_s <= IGNORED_S and most_s >= -IGNORED_S:
            self._off_s = 0.0
        elif not least_s - _WHOLE_SECOND_S <= self._off_s <= most_s + _WHOLE_SECOND_S:
            self._off_s = least_s if least_s > 0 else most_s
