"""What the table says about logs, and when."""

from __future__ import annotations

from typing import Any

import pytest

from dstackd import protocol
from dstackd.protocol import InboxEvent
from dstackd.store import inbox, logs, machines
from dstackd.store.engine import Database
from tests.builders import NOW_MS
from tests.store.rows import attempt, boot, rows

KEY = ("job-1", 1)


async def report(database: Database, *events: tuple[str, tuple[str, ...]]) -> None:
    """The machine says so, in that order."""
    reports = [
        (InboxEvent("i-1", seq, kind, "job-1", 1, fields), NOW_MS + seq)
        for seq, (kind, fields) in enumerate(events, 1)
    ]
    await database.write(lambda connection: inbox.record(connection, reports, now_ms=NOW_MS))


async def see(database: Database, lines: int) -> None:
    """So many lines have arrived."""
    await database.write(
        lambda connection: logs.save_seen(connection, [(*KEY, lines)], now_ms=NOW_MS)
    )


async def end(database: Database) -> None:
    """The machine is gone."""
    await database.write(lambda connection: machines.end_attempts(connection, [KEY], now_ms=NOW_MS))


async def said(database: Database) -> list[str]:
    """The verdicts in the history."""
    found = await rows(database, "SELECT message FROM event WHERE kind = 'log_verdict' ORDER BY id")
    return [str(row["message"]) for row in found]


async def test_the_verdict_comes_with_the_last_line(database: Database) -> None:
    """As soon as the machine has said how many lines there are and they are all here; saying it again changes nothing."""
    await boot(database)
    await see(database, 5)
    assert await said(database) == []
    await report(
        database, (protocol.STARTED, ()), (protocol.DONE, ("5", "40", "0", "0", "idle", "1", "9"))
    )
    await see(database, 5)
    await end(database)
    assert (await attempt(database))["log_verdict"] == "complete"
    assert await said(database) == ["complete"]


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        (("5", "40"), "incomplete (2 missing)"),
        (("5",), "incomplete (2 missing)"),
        (("5", "40", "7", "1"), "incomplete (3 missing, 7 over the quota)"),
        (("5", "40", "x", "-1"), "incomplete (2 missing)"),
        (("many",), "unconfirmed (3 lines arrived)"),
        ((), "unconfirmed (3 lines arrived)"),
    ],
)
async def test_an_end_makes_a_verdict(
    database: Database, fields: tuple[str, ...], verdict: str
) -> None:
    """With the machine's last word or without, with all of its fields or with fewer, the ended attempt has one."""
    await boot(database)
    await see(database, 3)
    await report(database, (protocol.STARTED, ()), (protocol.DONE, fields))
    assert (await attempt(database))["log_verdict"] == ""
    await end(database)
    assert (await attempt(database))["log_verdict"] == verdict


async def test_late_lines_mend_a_verdict(database: Database) -> None:
    """What comes after the end is counted; each change is in the history."""
    await boot(database)
    await report(database, (protocol.STARTED, ()))
    await end(database)
    await report(database, (protocol.DONE, ("4", "1")))
    for lines in (2, 2, 4):
        await see(database, lines)
    assert await said(database) == [
        "unconfirmed (0 lines arrived)",
        "incomplete (4 missing)",
        "incomplete (2 missing)",
        "complete",
    ]


async def test_what_never_ran_has_none(database: Database) -> None:
    """No commands, no log."""
    await boot(database)
    await report(database, (protocol.FAILED, ("document", "not there")))
    await end(database)
    found: dict[str, Any] = await attempt(database)
    assert found["log_verdict"] == ""
    assert await said(database) == []
