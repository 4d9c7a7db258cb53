"""`dstackd artifacts ls` and `pull`. Law: a manifest comes from a machine, so its paths and sizes are not trusted: see pulling.py."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dstackd.cli import exit_codes
from dstackd.cli.api import connect
from dstackd.cli.failures import Failure, say
from dstackd.cli.options import config_option, json_option
from dstackd.cli.pulling import PullError, pull_file
from dstackd.cli.text import count_text, size_text, table

attempt_option = click.option(
    "--attempt", type=click.IntRange(1), metavar="N", help="Else the newest that has artifacts."
)


@click.group()
def artifacts() -> None:
    """List and fetch what jobs have left."""


@artifacts.command()
@click.argument("job")
@attempt_option
@json_option
@config_option
def ls(*, job: str, attempt: int | None, as_json: bool, config: Path | None) -> None:
    """List the artifacts of a job.

    JOB is an id, or the beginning of one.
    """
    listed = connect(config).get("v1", "jobs", job, "artifacts", attempt=attempt)
    if as_json:
        click.echo(json.dumps(listed, indent=2))
        return
    files = listed["files"]
    rows = [
        (f"{file['mode']:04o}", size_text(file["size"]), file["sha256"][:12], file["path"])
        for file in files
    ]
    click.echo("\n".join(table(("MODE", "SIZE", "SHA256", "PATH"), rows, right=("SIZE",))))
    say(f"attempt {listed['attempt']}, {listed['verdict']}: {count_text(len(files), 'file')}")


@artifacts.command(epilog=exit_codes.TABLE)
@click.argument("job")
@click.argument("directory", required=False, type=click.Path(path_type=Path, file_okay=False))
@attempt_option
@config_option
def pull(*, job: str, directory: Path | None, attempt: int | None, config: Path | None) -> None:
    """Fetch the artifacts of a job into DIRECTORY (else a new one named after the job).

    JOB is an id, or the beginning of one.

    Each file is compared with its checksum while it is written, and takes its name when it is
    complete; a file of that name is replaced, or left alone where it is already the same.
    """
    daemon = connect(config)
    job_id = str(daemon.get("v1", "jobs", job)["job"]["id"])
    listed = daemon.get("v1", "jobs", job_id, "artifacts", attempt=attempt)
    root = Path(job_id) if directory is None else directory
    root.mkdir(parents=True, exist_ok=True)
    problems: list[str] = []
    for file in listed["files"]:
        try:
            pull_file(daemon, job_id, attempt=listed["attempt"], file=file, root=root)
        except PullError as error:
            problems.append(str(error))
    arrived = len(listed["files"]) - len(problems)
    size = size_text(sum(file["size"] for file in listed["files"]))
    say(f"attempt {listed['attempt']}: {count_text(arrived, 'file')} in {root} (of {size} in all)")
    if listed["verdict"] != "complete":
        say(f"the machine sealed them as {listed['verdict']}: dstackd describe {job_id} says why")
    if problems:
        raise Failure("\n".join(problems), exit_code=exit_codes.REFUSED)
