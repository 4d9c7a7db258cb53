"""Noticing what other processes commit."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator
from contextlib import aclosing, closing
from pathlib import Path

import anyio
import pytest

from dstackd.store import watch
from dstackd.store.watch import CommitWatch

SPEC = '{"commands": ["true"]}'
ACCEPT = "UPDATE job SET phase = 'queued', version = 1, next_visit_at_ms = 99"


async def changes_of(commits: CommitWatch) -> AsyncGenerator[tuple[bool, bool], None]:
    """The watch's answers, as something that can be closed."""
    async for change in commits.changes():
        yield change


@pytest.mark.parametrize("with_inotify", [True, False])
async def test_a_foreign_commit_is_noticed(
    with_inotify: bool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each commit of another connection ends the wait, and the answer says whether there is anything to do."""
    if not with_inotify:
        monkeypatch.setattr(watch, "inotify_simple", None)
    with (
        closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as other,
        CommitWatch(path) as commits,
        anyio.fail_after(20),
    ):
        other.execute("PRAGMA journal_mode = WAL")
        async with aclosing(changes_of(commits)) as changes:
            assert await anext(changes) == (False, False)
            other.execute("INSERT INTO job (spec) VALUES (?)", (SPEC,))
            assert await anext(changes) == (True, False)
            other.execute(ACCEPT)
            assert await anext(changes) == (False, False)
            other.execute("UPDATE job SET cancel_requested = 1")
            assert await anext(changes) == (False, True)


async def test_nothing_is_noticed_while_nothing_happens(path: Path) -> None:
    """A write that is rolled back is no commit, and a file that lies beside the database is none either."""
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as other,
        CommitWatch(path) as commits,
    ):
        other.execute("PRAGMA journal_mode = WAL")
        async with aclosing(changes_of(commits)) as changes:
            await anext(changes)
            other.execute("BEGIN IMMEDIATE")
            other.execute("INSERT INTO job (spec) VALUES (?)", (SPEC,))
            other.execute("ROLLBACK")
            path.with_name("queue.db-note").write_text("x")
            with anyio.move_on_after(2 * watch.FALLBACK_S) as waited:
                await anext(changes)
            assert waited.cancelled_caught
