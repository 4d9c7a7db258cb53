"""Bugs between two daemons for one backend. Law: as `planted.py`, which has them in its table."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from pytest import MonkeyPatch  # noqa: PT013 - the class, not a mark of a test

from dstackd.core.log_line import StoredLine
from dstackd.http.distant_logs import DistantLogs


def fence_not_checked(patch: MonkeyPatch) -> None:
    """A daemon that stalled commits what it has in hand when it wakes, whoever owns the backend by then."""

    async def pass_by(*_: object, **__: object) -> None:
        return None

    patch.setattr("dstackd.store.engine.guard", pass_by)


def lines_elsewhere_not_read(patch: MonkeyPatch) -> None:
    """A reader gets what this host's file has, wherever the lines have arrived."""

    async def nothing(*_: object, **__: object) -> AsyncGenerator[list[StoredLine]]:
        for none in list[list[StoredLine]]():
            yield none

    patch.setattr(DistantLogs, "lines", nothing)
