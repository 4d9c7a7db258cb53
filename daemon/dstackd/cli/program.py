"""`dstackd`: the list of commands. Law: a command's module is imported when the command is wanted, so that none waits for another."""

from __future__ import annotations

from importlib import import_module
from typing import Final

import click

from dstackd import __version__
from dstackd.cli import exit_codes
from dstackd.cli.overriding import override

_MODULES: Final = {
    "artifacts": "artifacts",
    "backup": "backup",
    "config": "config_commands",
    "demo": "daemon_commands",
    "describe": "describe",
    "explain": "explain",
    "dev": "daemon_commands",
    "healthcheck": "healthcheck",
    "logs": "logs",
    "migrate": "daemon_commands",
    "plan": "plan",
    "prices": "prices",
    "ps": "ps",
    "reap": "reap",
    "run": "daemon_commands",
    "schedules": "schedules",
    "stop": "stop",
    "submit": "submit",
    "version": "program",
    "wait": "wait",
}
"""Which module of this package holds the command, under its own name."""


class Program(click.Group):
    """The commands by name."""

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_MODULES)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _MODULES:
            return None
        module = import_module(f"dstackd.cli.{_MODULES[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command


@click.group(
    cls=Program,
    epilog=exit_codes.TABLE,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, message="dstackd %(version)s")
def program() -> None:
    """Insert a row, get an EC2 machine, get the logs, the artifacts and the exit code back.

    Commands speak with the daemon through its socket, which they find in its configuration: the file
    after --config, else $DSTACKD_CONFIG, else ./dstackd.toml, else /etc/dstackd/dstackd.toml.
    What you ask for goes to standard output, all else to standard error.
    """


@click.command()
def version() -> None:
    """Show the version."""
    click.echo(f"dstackd {__version__}")
