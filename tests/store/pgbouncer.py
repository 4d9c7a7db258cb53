"""A real pgbouncer before a real PostgreSQL. Law: on a socket in a folder of its own, as an unprivileged user; it lends a session for one
transaction, and has two of them for everybody.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.store.postgres import NOBODY, Postgres, as_user

START_S = 20.0
_SETTINGS = """
[databases]
* = host={server} user=postgres
[pgbouncer]
listen_addr =
unix_socket_dir = {folder}
listen_port = 6432
auth_type = any
pool_mode = {mode}
default_pool_size = 2
max_client_conn = 100
logfile = {folder}/log
pidfile = {folder}/pid
"""


class PgbouncerUnavailable(Exception):
    """It is not installed, or does not run here; the text says why."""


@contextmanager
def running_pgbouncer(server: Postgres, *, mode: str) -> Iterator[Path]:
    """The folder of its socket; `mode` is pgbouncer's pool_mode. Raises PgbouncerUnavailable."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        raise PgbouncerUnavailable("there is no pgbouncer (Debian: apt-get install pgbouncer)")
    folder = Path(tempfile.mkdtemp(prefix="pgb-"))
    settings = folder / "settings.ini"
    settings.write_text(_SETTINGS.format(server=server.folder, folder=folder, mode=mode))
    user = as_user()
    if user:
        shutil.chown(folder, NOBODY, "nogroup")
    process = subprocess.Popen(
        [program, "-q", str(settings)], stderr=subprocess.PIPE, text=True, cwd=folder, **user
    )
    try:
        deadline_s = time.monotonic() + START_S
        while not (folder / ".s.PGSQL.6432").exists():
            if process.poll() is not None or time.monotonic() > deadline_s:
                process.kill()
                raise PgbouncerUnavailable(f"it does not start: {process.communicate()[1]}")
            time.sleep(0.02)
        yield folder
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.communicate()
        shutil.rmtree(folder, ignore_errors=True)


def through(folder: Path, url: str) -> str:
    """The same database by way of pgbouncer."""
    return f"{url.partition('?')[0]}?host={folder}&port=6432"
