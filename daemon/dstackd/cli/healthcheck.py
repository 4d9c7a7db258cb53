"""`dstackd healthcheck`. Law: asks whether the process lives, nothing more: a supervisor starts it again when this fails."""

from __future__ import annotations

from pathlib import Path

import click

from dstackd.cli.api import connect
from dstackd.cli.failures import say
from dstackd.cli.options import config_option


@click.command()
@config_option
def healthcheck(config: Path | None) -> None:
    """Exit with 0 if the daemon lives, with 69 if not."""
    connect(config).check("livez")
    say("the daemon lives")
