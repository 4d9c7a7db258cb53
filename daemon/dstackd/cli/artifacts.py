"""`dstackd artifacts ls`, `pull`, `verify`. Law: a manifest comes from a machine, so its paths and sizes are not trusted: see pulling.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from dstackd.cli import exit_codes
from dstackd.cli.api import Daemon, Unreachable, connect
from dstackd.cli.failures import Failure, say
from dstackd.cli.options import config_option, json_option
from dstackd.cli.text import count_text, size_text, table
from dstackd.plain_text import harmless

attempt_option = click.option(
    "--attempt", type=click.IntRange(1), metavar="N", help="Else the newest that has artifacts."
)


@click.group()
def artifacts() -> None:
    """List, fetch and check what jobs have left."""


@artifacts.command()
@click.argument("job")
@attempt_option
@json_option
@config_option
def ls(*, job: str, attempt: int | None, as_json: bool, config: Path | None) -> None:
    """List the artifacts of a job.

    JOB is an id, or the beginning of one. While the job runs, it is what has been uploaded so far.
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
    say(f"{_which(listed)}: {count_text(len(files), 'file')}")


@artifacts.command(epilog=exit_codes.TABLE)
@click.argument("job")
@click.argument("directory", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@attempt_option
@config_option
def pull(
    *,
    job: str,
    directory: Path | None,
    patterns: tuple[str, ...],
    attempt: int | None,
    config: Path | None,
) -> None:
    """Fetch the artifacts of a job into DIRECTORY (else a new one named after the job).

    JOB is an id, or the beginning of one. PATTERN: only these files; a path, a folder, or a glob in
    quotes, whose * also stands for slashes.

    Each file is compared with its checksum while it is written, and takes its name when it is
    complete; a file of that name is replaced, or left alone where it is already the same. So what
    broke off goes on where it was when it is called again.
    """
    from dstackd.cli.pulling import Pull, chosen

    daemon = connect(config)
    job_id = str(daemon.get("v1", "jobs", job)["job"]["id"])
    listed = daemon.get("v1", "jobs", job_id, "artifacts", attempt=attempt)
    files = chosen(listed["files"], patterns)
    root = _folder(Path(job_id) if directory is None else directory)
    problems = Pull(daemon, job_id, attempt=listed["attempt"], root=root).run(files)
    if problems and not listed["sealed"]:
        listed, problems = _once_more(daemon, job_id, listed, sorted(problems), root=root)
    arrived = len(files) - len(problems)
    size = size_text(sum(file["size"] for file in files))
    say(f"attempt {listed['attempt']}: {count_text(arrived, 'file')} in {root} (of {size} in all)")
    if not listed["sealed"]:
        say("they are not sealed: it is what the machine has uploaded so far")
    elif listed["verdict"] != "complete":
        say(f"the machine sealed them as {listed['verdict']}: dstackd describe {job_id} says why")
    if problems:
        shown = "\n".join(problems[path] for path in sorted(problems))
        raise Failure(shown, exit_code=exit_codes.REFUSED)


def _folder(root: Path) -> Path:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"{root}: cannot be made: {error.strerror}"
        raise Failure(message, exit_code=exit_codes.REFUSED) from None
    return root


def _once_more(
    daemon: Daemon, job_id: str, before: Mapping[str, Any], paths: Sequence[str], *, root: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """A job that runs replaces what it uploads: those that were not as listed, as they are now."""
    from dstackd.cli.pulling import Pull

    asked = {"attempt": before["attempt"], "as_they_are": 1}
    listed = daemon.get("v1", "jobs", job_id, "artifacts", **asked)
    files = [file for file in listed["files"] if file["path"] in set(paths)]
    return listed, Pull(daemon, job_id, attempt=before["attempt"], root=root).run(files)


@artifacts.command(epilog=exit_codes.TABLE)
@click.argument("job")
@attempt_option
@json_option
@config_option
def verify(*, job: str, attempt: int | None, as_json: bool, config: Path | None) -> None:
    """Compare what is in the bucket with what was sealed: every file is there, with its size and content.

    JOB is an id, or the beginning of one. One line for each file that is not as it should be, and
    exit code 1 if there is any. A file that went up in parts is read for it, by the daemon.
    """
    lines = connect(config).lines("v1", "jobs", job, "artifacts", "verify", attempt=attempt)
    head: dict[str, Any] = {}
    end: dict[str, Any] = {}
    problems: list[dict[str, Any]] = []
    for line in lines:
        head = head or line
        if "problem" in line:
            problems.append(line)
            if not as_json:
                click.echo(f"{harmless(line['path'])}: {line['problem']}")
        end = line
    if "done" not in end:
        raise Unreachable(end.get("error") or "the answer broke off: try again")
    if as_json:
        click.echo(json.dumps({**head, "problems": problems}, indent=2))
    read = f", {size_text(end['read_bytes'])} of them read" if end["read_bytes"] else ""
    files = count_text(end["checked"], "file")
    say(f"{_which(head)}: {files}, {size_text(head['bytes'])}{read}; {_verdict(end, head)}")
    if problems:
        raise SystemExit(exit_codes.REFUSED)


def _verdict(end: Mapping[str, Any], head: Mapping[str, Any]) -> str:
    if not end["problems"]:
        return "all as listed"
    why = "" if head["sealed"] else " (the machine may be uploading them anew)"
    return f"{end['problems']} not as listed{why}"


def _which(listed: Mapping[str, Any]) -> str:
    state = listed["verdict"] if listed["sealed"] else "not sealed (uploaded so far)"
    return f"attempt {listed['attempt']}, {state}"
