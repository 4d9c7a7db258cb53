"""A job's output as it comes over the API.

Law: no line twice and none left out, also when the daemon is restarted in the middle of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dstackd.cli.api import Daemon, Unreachable, unreachable_message
from dstackd.cli.waiting import Patience

Entry = dict[str, Any]


def position_of(entry: Entry) -> str:
    """Where to go on behind the entry: `attempt:line`."""
    return f"{entry['attempt']}:{entry['n'] + max(entry.get('missing', 0), 1) - 1}"


def stored_log(daemon: Daemon, job_id: str, *, attempt: str | None) -> Iterator[Entry]:
    """What there is now; the last entry is the end."""
    entries = daemon.lines("v1", "jobs", job_id, "logs", attempt=attempt)
    for entry in entries:
        yield entry
        if "end" in entry:
            return
    raise _broken_off(daemon)


def followed_log(
    daemon: Daemon, job_id: str, *, attempt: str | None, after: str | None
) -> Iterator[Entry]:
    """Entries as they come, until the job (or the one attempt) is over; the last one is the end."""
    patience = Patience()
    while True:
        try:
            for entry in daemon.lines(
                "v1", "jobs", job_id, "logs", attempt=attempt, after=after, follow=True
            ):
                patience.answered()
                yield entry
                if "end" in entry:
                    return
                after = position_of(entry)
            raise _broken_off(daemon)
        except Unreachable as error:
            patience.bear(error)


def _broken_off(daemon: Daemon) -> Unreachable:
    error = ConnectionError("the stream broke off")
    return Unreachable(unreachable_message(daemon.config, error))
