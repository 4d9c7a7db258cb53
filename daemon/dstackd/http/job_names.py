"""Finding the one job that a person means. Law: never guesses between two."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from dstackd.http.responses import Refusal
from dstackd.store import queries
from dstackd.store.engine import Database

# The CHECK of job.id; anything else is the id of no job.
_ID = re.compile(r"[a-z0-9-]{1,64}")


async def one_job(database: Database, name: str) -> dict[str, Any]:
    """The row of the job whose id is `name`, or begins with it.

    Raises Refusal: 404 when there is none, 409 when there are several.
    """
    rows: list[dict[str, Any]] = []
    if _ID.fullmatch(name):
        rows = await database.read(partial(queries.find_job, name=name))
    if not rows:
        message = f"no job has an id that begins with {name[:64]!r}; `dstackd ps -a` lists all jobs"
        raise Refusal(404, "no_such_job", message)
    if len(rows) > 1:
        ids = " and ".join(row["id"] for row in rows)
        message = f"{name!r} could be {ids}, or more; write more of the id"
        raise Refusal(409, "ambiguous_job", message)
    return rows[0]
