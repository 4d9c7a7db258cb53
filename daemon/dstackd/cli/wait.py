"""`dstackd wait`. Law: looks and leaves; it changes no job."""

from __future__ import annotations

from pathlib import Path

import click

from dstackd.cli import exit_codes
from dstackd.cli.api import connect
from dstackd.cli.options import config_option, read_duration
from dstackd.cli.waiting import detaching, wait_for_jobs


@click.command(epilog=exit_codes.TABLE)
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@click.option(
    "--timeout", callback=read_duration, metavar="DURATION", help="Give up after it: 90, 5m, 2h."
)
@config_option
@click.pass_context
def wait(
    context: click.Context, jobs: tuple[str, ...], timeout: float | None, config: Path | None
) -> None:
    """Wait until jobs have ended.

    JOB is an id, or the beginning of one.

    Prints a line for each as it ends: id, phase, exit code. Exits with the job's own code; of
    several, with the first in the given order that is not 0. Ctrl-C leaves the jobs running.
    """
    daemon = connect(config)
    ids = [str(daemon.get("v1", "jobs", job)["job"]["id"]) for job in jobs]
    with detaching(ids):
        code = wait_for_jobs(daemon, ids, timeout_s=timeout)
    context.exit(code)
