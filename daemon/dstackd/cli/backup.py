"""`dstackd backup`: a copy of the queue while the daemon runs. Law: it needs no daemon, and it changes nothing but the new file."""

from __future__ import annotations

from pathlib import Path

import click

from dstackd.cli import exit_codes
from dstackd.cli.failures import Failure, config_errors, say
from dstackd.cli.options import config_option


@click.command()
@config_option
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
def backup(config: Path | None, path: Path) -> None:
    """Copy the SQLite queue to the new file PATH.

    The daemon, and applications that insert jobs, go on meanwhile. The copy is checked, and readable by you alone: it
    holds the jobs' environment.
    """
    from dstackd.config import load_settings
    from dstackd.errors import StorageFailed
    from dstackd.store.backup import back_up
    from dstackd.store.engine import async_url, sqlite_path

    with config_errors():
        url = async_url(load_settings(config, needs_backend=False).database.url)
    source = sqlite_path(url)
    if source is None:
        what = "the queue is on PostgreSQL: back it up with pg_dump, or with the server's own archiving"
        raise Failure(what, exit_code=exit_codes.REFUSED)
    try:
        size_bytes = back_up(source, path)
    except FileExistsError:
        message = f"{path} (or {path}.partial of a backup that was ended) exists: give another name, or remove it"
        raise Failure(message, exit_code=exit_codes.REFUSED) from None
    except (StorageFailed, OSError) as error:
        raise Failure(f"no backup was made: {error}", exit_code=exit_codes.REFUSED) from None
    say(f"{path}: {size_bytes:,} bytes, whole")
