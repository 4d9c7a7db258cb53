"""What readers see of the jobs' output, on each host. Law: reads as the API does, and changes nothing."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from dstackd.http.distant_logs import DistantLogs
from dstackd.http.following import FollowBoard
from dstackd.http.log_reading import LogReader
from dstackd.http.log_steps import Selection
from dstackd.log_files import LogFiles
from dstackd.simulated.machine import AttemptKey, SimulatedMachine
from dstackd.store import queries
from tests.simulation.world import World

LATE_MAX_S = 25.0
"""Lines that come later than this may miss the verdict's time; sooner, they are all there."""
UNHEARD = "unconfirmed (0 lines arrived)"


async def look(world: World) -> None:
    """Every host shows what the commands wrote, in order and once, or says how much is missing: no more than the verdict does.
    The verdict says no more than its owner's file lacks.
    """
    known = {
        (row["job_id"], row["number"]) for row in world.sql("SELECT job_id, number FROM attempt")
    }
    for machine in world.cloud.machines:
        for key in machine.ends:
            if key in known and world.is_ours(machine):
                await _log_is_true(world, machine, key)


async def _log_is_true(world: World, machine: SimulatedMachine, key: AttemptKey) -> None:
    written = machine.written[key]
    (row,) = world.sql("SELECT * FROM attempt WHERE job_id = ? AND number = ?", *key)
    stored = sum(not line.missing for line in world.owner_files().read(*key)[0])
    is_told = key in machine.said_done and row["done_at_ms"] is not None
    for host, files in world.all_files().items():
        entries = await _shown(world, key, files)
        numbers = [entry["n"] for entry in entries if "log" in entry]
        told = sum(entry.get("missing", 0) for entry in entries)
        if numbers != sorted(set(numbers)) or any(n > written for n in numbers):
            world.blame(f"the log of {key} shows lines {numbers} of {written} {host}")
        if any(entry["log"] != f"line {entry['n']}" for entry in entries if "log" in entry):
            world.blame(f"the log of {key} shows another text {host}")
        if len(numbers) < row["log_lines_seen"]:
            world.blame(
                f"the log of {key} shows {len(numbers)} lines of {row['log_lines_seen']} {host}"
            )
        missing = entries[-1]["end"]["missing"]
        if is_told and not told <= missing == written - len(numbers):
            world.blame(
                f"the log of {key} shows {len(numbers)} of {written} lines {host}, {missing} missing"
            )
    if not is_told:
        return
    _verdict_is_true(world, key, written=written, stored=stored, row=row)


def _verdict_is_true(
    world: World, key: AttemptKey, *, written: int, stored: int, row: dict[str, Any]
) -> None:
    seen, verdict = row["log_lines_seen"], row["log_verdict"]
    missing = written - seen
    expected = f"incomplete ({missing} missing)" if missing else "complete"
    if stored > seen or verdict not in (expected, UNHEARD):
        world.blame(f"the log of {key} has {stored} of {written} lines and is {verdict}")
    faults = world.cloud.faults
    if missing and not faults.lost_share and faults.late_s < LATE_MAX_S:
        world.blame(f"the log of {key} has {stored} of {written} lines")


async def _shown(world: World, key: AttemptKey, files: LogFiles) -> list[dict[str, Any]]:
    job_id, attempt = key
    database = world.scene.database
    read = partial(queries.log_progress, job_ids=[job_id])
    progress = (await database.read(read))[job_id]
    faults = world.cloud.faults
    for counter in (faults.throttle, faults.deny, faults.lose_call, faults.lose_answer):
        counter.pop("FilterLogEvents", None)
    reader = LogReader(
        files,
        job_id=job_id,
        asked=Selection(attempt, attempt, 0, follow=False),
        board=FollowBoard(database),
        clock=world.clock,
        distant=DistantLogs(world.cloud.logs, clock=world.clock),
    )
    chunks = [chunk async for chunk in reader.entries(progress)]
    return [json.loads(line) for line in b"".join(chunks).splitlines()]
