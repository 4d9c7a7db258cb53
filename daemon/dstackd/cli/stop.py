"""`dstackd stop`. Law: asks for it; the daemon stops the job, and terminates its machine, in its own time."""

from __future__ import annotations

from pathlib import Path

import click

from dstackd.cli.api import Refused, connect
from dstackd.cli.failures import say
from dstackd.cli.options import config_option


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@config_option
@click.pass_context
def stop(context: click.Context, jobs: tuple[str, ...], config: Path | None) -> None:
    """Stop jobs.

    JOB is an id, or the beginning of one.

    A running job gets SIGTERM and its stop_grace, its artifacts are kept, and its machine goes. This
    returns at once; `dstackd wait JOB` says when it is over. A job that has ended stays as it is.
    """
    daemon = connect(config)
    worst = 0
    for job in jobs:
        try:
            answer = daemon.post("v1", "jobs", job, "stop")
        except Refused as error:
            say(f"{job}: {error.message}")
            worst = max(worst, error.exit_code)
            continue
        if answer["stopping"]:
            say(f"{answer['id']} is being stopped (phase {answer['phase']})")
        else:
            say(f"{answer['id']} has already ended: {answer['phase']}")
    context.exit(worst)
