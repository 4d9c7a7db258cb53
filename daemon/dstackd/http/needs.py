"""What a job needs of other jobs, for people. Law: as its spec has it, with where these are now; read only."""

from __future__ import annotations

from functools import partial
from typing import Any

from dstackd.spec.errors import SpecError
from dstackd.spec.parse import parse_spec_json
from dstackd.store.dependencies import needs_now
from dstackd.store.engine import Database


async def needs_json(database: Database, spec: str) -> list[dict[str, Any]]:
    """`{id, on, phase}` each, in the spec's order; `phase` null: there is no such job. Nothing of a spec that cannot be read."""
    try:
        wanted = parse_spec_json(spec).depends_on
    except SpecError:
        return []
    if not wanted:
        return []
    needs = await database.read(partial(needs_now, wanted=wanted))
    return [{"id": each.job_id, "on": each.on, "phase": each.phase} for each in needs]
