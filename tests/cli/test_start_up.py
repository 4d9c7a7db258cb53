"""What a client command costs before it does anything."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from dstackd.cli.program import program
from tests.cli.program import DEADLINE_S, environment

MODULES_MAX = 230
"""Of which about 140 are Python's own, click and http.client. A single import of asyncio is 60 more."""

HEAVY = (
    "aiobotocore",
    "aiohttp",
    "alembic",
    "anyio",
    "asyncio",
    "botocore",
    "dstackd.app",
    "dstackd.config",
    "moto",
    "pydantic",
    "rich",
    "sqlalchemy",
    "sqlmodel",
    "structlog",
    "typing_extensions",
    "yaml",
)

PROGRAM = """
import json, sys
import dstackd.cli
sys.argv = ["dstackd", *json.loads(sys.argv[1])]
try:
    dstackd.cli.main()
except SystemExit:
    pass
print("\\n" + json.dumps(sorted(sys.modules)))
"""


def modules_after(*arguments: str) -> list[str]:
    """The modules that are loaded when the command ends."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(arguments)],
        env=environment(DSTACKD_STATE__DIRECTORY="/nonexistent"),
        capture_output=True,
        timeout=DEADLINE_S,
        check=True,
    )
    modules: list[str] = json.loads(done.stdout.splitlines()[-1])
    return modules


@pytest.mark.parametrize(
    "arguments",
    [
        ("ps",),
        ("logs", "-f", "x"),
        ("stop", "x"),
        ("wait", "x"),
        ("describe", "x"),
        ("explain", "x"),
        ("reap", "--dry-run"),
        ("artifacts", "ls", "x"),
        ("submit", "--dry-run", "--", "true"),
        ("submit", "--", "true"),
        ("healthcheck",),
        ("--help",),
    ],
    ids=" ".join,
)
def test_clients_import_little(arguments: tuple[str, ...]) -> None:
    """A client command imports none of the daemon's heavy packages, and few modules in all."""
    modules = modules_after(*arguments)
    assert [name for name in HEAVY if name in modules] == []
    assert len(modules) <= MODULES_MAX


def test_a_command_waits_for_no_other() -> None:
    """`ps` loads no module of another command, and nothing of the spec."""
    modules = modules_after("ps")
    ours = {name.removeprefix("dstackd.cli.") for name in modules if "dstackd.cli." in name}
    assert ours.isdisjoint({"submit", "logs", "describe", "artifacts", "daemon_commands", "wait"})
    assert [name for name in modules if name.startswith("dstackd.spec")] == []


@pytest.mark.parametrize("command", [*program.list_commands(click.Context(program)), "config show"])
def test_every_command_explains_itself(command: str) -> None:
    """`--help` of each command exits with 0 and says what it does, in whole words."""
    runner = CliRunner()
    done = runner.invoke(program, [*command.split(), "--help"], prog_name="dstackd")
    listed = runner.invoke(program, ["--help"], prog_name="dstackd")
    assert (done.exit_code, done.stderr, listed.exit_code) == (0, "", 0)
    assert done.stdout.startswith(f"Usage: dstackd {command} ")
    assert f"  {command.split(maxsplit=1)[0]} " in listed.stdout


def test_importing_the_package_is_free() -> None:
    """`dstackd.cli` itself imports nothing of ours: the script's entry point is cheap to load."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys, dstackd.cli; print(*sys.modules)"],
        env=environment(),
        capture_output=True,
        timeout=DEADLINE_S,
        check=True,
    )
    ours = {name for name in done.stdout.decode().split() if name.startswith("dstackd")}
    assert ours == {"dstackd", "dstackd.cli"}
