"""`dstackd run`, `migrate`, `dev`, `demo`: the heavy half. Law: each imports what it starts when it is called, and nothing before."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click

from dstackd.cli import exit_codes
from dstackd.cli.failures import Failure, config_errors, say
from dstackd.cli.options import config_option
from dstackd.config_paths import DEV_DIRECTORY_VARIABLE


@click.command()
@config_option
def run(config: Path | None) -> None:
    """Run the daemon in the foreground.

    SIGTERM or Ctrl-C ends it at once; machines go on, and the next start goes on with them.
    """
    import sys

    import anyio

    from dstackd.app import run_daemon
    from dstackd.config import load_settings
    from dstackd.logging_setup import configure_logging

    with config_errors():
        settings = load_settings(config)
        configure_logging(
            level=settings.logging.level, style=settings.logging.format, stream=sys.stderr
        )
        anyio.run(run_daemon, settings)


@click.command()
@config_option
def migrate(config: Path | None) -> None:
    """Bring the database's schema up to date. It needs no backend."""
    import anyio

    from dstackd.clock import SystemClock
    from dstackd.config import load_settings
    from dstackd.store.engine import open_database
    from dstackd.store.migrate import SchemaPosition, upgrade

    async def work(url: str) -> SchemaPosition:
        async with open_database(url, clock=SystemClock()) as database:
            return await upgrade(database)

    with config_errors():
        settings = load_settings(config, needs_backend=False)
        before = anyio.run(work, settings.database.url)
    if before.up_to_date:
        say(f"the schema is at {before.head} already")
    else:
        say(f"the schema went from {before.current or 'nothing'} to {before.head}")


@click.command()
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    envvar=DEV_DIRECTORY_VARIABLE,
    default=Path(".dstackd-dev"),
    show_default=True,
    show_envvar=True,
    help="Where everything is kept.",
)
@click.option("--http-port", type=click.IntRange(1, 65535), help="Health and metrics; else none.")
@click.option("--cloud-port", type=click.IntRange(0, 65535), default=0, help="0: any free one.")
def dev(*, directory: Path, http_port: int | None, cloud_port: int) -> None:
    """Run the daemon on a cloud on this machine.

    No AWS account is needed. Jobs run as processes of this machine, as you: this is for trying things out. Ctrl-C ends the
    daemon, the cloud and its machines. The queue stays in the directory; machines and the bucket
    with the artifacts do not.
    """
    _require_local()
    from dstackd.cli.dev import run_dev

    with config_errors():
        run_dev(directory.absolute(), http_port=http_port, cloud_port=cloud_port)


@click.command()
@click.option("--keep", is_flag=True, help="Leave the demo's folder for a look.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep everything in it; else in a new one, removed after a success.",
)
@click.option(
    "--kill-daemon-after",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="End the daemon with kill -9 so long after the jobs came, and start it again.",
)
@click.pass_context
def demo(
    context: click.Context, *, keep: bool, directory: Path | None, kill_daemon_after: float | None
) -> None:
    """Watch real jobs on a cloud on this machine."""
    _require_local()
    from dstackd.demo.main import run_demo

    context.exit(run_demo(keep, directory, kill_daemon_after_s=kill_daemon_after))


def _require_local() -> None:
    """The cloud on this machine is an extra. Raises Failure that says how to install it."""
    missing = [name for name in ("moto", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        what = f"the cloud on this machine needs {' and '.join(missing)}"
        raise Failure(f"{what}: pip install 'dstackd[local]'", exit_code=exit_codes.REFUSED)
