"""Staying with jobs until they end.

Law: leaving never stops a job. A daemon that has answered once may go away for a while (it is made
to be restarted at any moment); a client that waits outlasts that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar

import click

from dstackd.cli import exit_codes
from dstackd.cli.api import Daemon, Unreachable
from dstackd.cli.failures import say
from dstackd.cli.text import duration_text
from dstackd.plain_text import harmless

T = TypeVar("T")

PATIENCE_S: Final = 60.0
"""How long a daemon that has answered before may be away."""
_RETRY_S: Final = 0.5
_LOOK_MIN_S: Final = 0.1
_LOOK_MAX_S: Final = 2.0
_LOOK_GROWTH: Final = 1.5


class Patience:
    """Outlasts a restart of the daemon; raises the error itself when it takes too long."""

    def __init__(self) -> None:
        self._away_since_s: float | None = None

    def answered(self) -> None:
        """The daemon is there."""
        self._away_since_s = None

    def bear(self, error: Unreachable) -> None:
        """The daemon is not there: wait a moment, or raise `error`."""
        now_s = time.monotonic()
        if self._away_since_s is None:
            self._away_since_s = now_s
            say("the daemon does not answer; waiting for it to come back")
        elif now_s - self._away_since_s > PATIENCE_S:
            raise error
        time.sleep(_RETRY_S)

    def call(self, ask: Callable[[], T]) -> T:
        """The answer, however often it takes."""
        while True:
            try:
                answer = ask()
            except Unreachable as error:
                self.bear(error)
            else:
                self.answered()
                return answer


@contextmanager
def detaching(job_ids: Sequence[str]) -> Iterator[None]:
    """Ctrl-C leaves; the jobs go on, and the person is told how to stop them."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"\ndetached, not stopped; to stop: dstackd stop {' '.join(job_ids)}")
        raise click.exceptions.Exit(exit_codes.DETACHED) from None


def wait_for_jobs(daemon: Daemon, job_ids: Sequence[str], *, timeout_s: float | None) -> int:
    """Print a line for each job that ends, `id phase exit-code`; the first exit code in the given
    order that is not 0. When `timeout_s` is over first, 101.
    """
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    codes: dict[str, int] = {}
    patience, look_s = Patience(), _LOOK_MIN_S
    while True:
        for job_id in [each for each in job_ids if each not in codes]:
            job = patience.call(partial(daemon.get, "v1", "jobs", job_id))["job"]
            if job["phase"] in exit_codes.TERMINAL:
                codes[job_id] = exit_codes.exit_code_of(job)
                report_end(job)
        if len(codes) == len(job_ids):
            return next((codes[each] for each in job_ids if codes[each]), 0)
        left_s = look_s if deadline_s is None else min(look_s, deadline_s - time.monotonic())
        if left_s <= 0:
            waiting = [each for each in job_ids if each not in codes]
            say(f"not over yet: {', '.join(waiting)}")
            return exit_codes.STILL_RUNNING
        time.sleep(left_s)
        look_s = min(look_s * _LOOK_GROWTH, _LOOK_MAX_S)


def report_end(job: dict[str, Any]) -> None:
    """The job's end: for programs on standard output, for people on standard error."""
    code = "-" if job["exit_code"] is None else job["exit_code"]
    click.echo(f"{job['id']} {job['phase']} {code}")
    took_s = (job["finished_at_ms"] - job["submitted_at_ms"]) / 1000
    why = harmless(": ".join(filter(None, (job["reason"], job["message"]))))
    say(f"{job['id']} {job['phase']} after {duration_text(took_s)}: {why}")
