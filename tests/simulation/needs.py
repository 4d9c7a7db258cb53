"""Jobs that need other jobs of the seed. Law: as `invariants`, which looks here at each of its looks."""

from __future__ import annotations

import json
import random
from typing import Any

from tests.simulation.world import World

_DEPENDENTS = """SELECT id, phase, attempt, reason, json_extract(spec, '$.depends_on') AS needs
    FROM job WHERE spec LIKE '%"depends_on": [%'"""
_OVER = frozenset({"succeeded", "failed", "cancelled", "rejected"})


def drawn_needs(seed_name: str, number: int) -> dict[str, object]:
    """What the job of this number needs, now and then: one or two that come before it."""
    dice = random.Random(f"needs-{seed_name}-{number}")
    if number == 0 or dice.random() > 0.15:
        return {}
    needed = dice.sample(range(number), min(number, dice.randint(1, 2)))
    ends = ("success", "any")
    return {"depends_on": [{"id": f"job-{each}", "on": dice.choice(ends)} for each in needed]}


def is_excused(world: World, fields: dict[str, object]) -> bool:
    """An operator may have deleted what it needs before it came; then it is rejected."""
    needs = fields.get("depends_on")
    return isinstance(needs, list) and any(each["id"] in world.excused for each in needs)


def look(world: World, jobs: dict[str, dict[str, Any]]) -> None:
    """A job that needs others has no attempt before these have ended as it needs, and is not given up without cause."""
    for row in world.look_up(_DEPENDENTS):
        needs = [(each["id"], each["on"]) for each in json.loads(row["needs"])]
        there = [(jobs[job_id]["phase"], on) for job_id, on in needs if job_id in jobs]
        if len(there) < len(needs):  # an operator has deleted one
            continue
        unmet = [
            phase
            for phase, on in there
            if phase not in _OVER or (on == "success" and phase != "succeeded")
        ]
        if unmet and row["attempt"] > 0:
            world.blame(f"{row['id']} began while what it needs was {unmet[0]}")
        if row["reason"] == "dependency_failed" and not set(unmet) & _OVER:
            world.blame(f"{row['id']} was given up, and what it needs was {there}")
