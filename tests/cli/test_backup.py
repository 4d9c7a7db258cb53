"""`dstackd backup`: whole, private, beside everybody's work, and never over a file."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.program import dstackd

VARIABLES = {"DSTACKD_DATABASE__URL": "sqlite:///queue.db"}

# Each transaction inserts two jobs: half of one must never be in a copy.
_WRITER = """
import sqlite3
connection = sqlite3.connect("queue.db", timeout=30, isolation_level=None)
print("writes", flush=True)
while True:
    connection.execute("INSERT INTO job (spec) VALUES ('{}'), ('{}')")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a migrated queue."""
    assert dstackd("migrate", variables=VARIABLES, folder=tmp_path).code == 0
    return tmp_path


def test_a_copy_beside_a_writer_is_whole(folder: Path) -> None:
    """A writer in a tight loop is not held up, no transaction is there by half, and only the owner may read it."""
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER], cwd=folder, stdout=subprocess.PIPE, text=True
    ) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "writes\n"
            done = dstackd("backup", "copy.db", variables=VARIABLES, folder=folder)
            assert writer.poll() is None
        finally:
            writer.kill()
    assert done.code == 0, done.err
    assert "whole" in done.err
    copy = folder / "copy.db"
    assert copy.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(copy)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM job").fetchone()
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert count % 2 == 0
    assert {path.name for path in folder.glob("copy*")} == {"copy.db"}


def test_nothing_is_overwritten(folder: Path) -> None:
    """Neither a file nor the rest of a backup that was killed; and what is missing is said."""
    (folder / "copy.db").write_text("mine")
    (folder / "other.db.partial").write_text("half")
    for name in ("copy.db", "other.db"):
        done = dstackd("backup", name, variables=VARIABLES, folder=folder)
        assert (done.code, "exists" in done.err) == (1, True)
    assert (folder / "copy.db").read_text() == "mine"
    gone = dstackd(
        "backup", "x.db", variables={"DSTACKD_DATABASE__URL": "sqlite:///no.db"}, folder=folder
    )
    assert gone.code == 1
    assert "there is no database" in gone.err
    assert not (folder / "no.db").exists()


def test_postgresql_has_its_own_tool(tmp_path: Path) -> None:
    """It is named."""
    variables = {"DSTACKD_DATABASE__URL": "postgresql://host/queue"}
    done = dstackd("backup", "copy.db", variables=variables, folder=tmp_path)
    assert done.code == 1
    assert "pg_dump" in done.err
