"""What must be true when the storm is over. Law: reads the database, the bucket, the log files and the cloud's own record; every
sentence it returns is a broken promise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dstackd import artifact_manifest, protocol
from tests.end_to_end.deaths.jobs import STEPS, StormJob
from tests.end_to_end.deaths.site import StormSite
from tests.end_to_end.installation import BUCKET

CENT_OF_A_CENT = 1e-6


@dataclass(frozen=True)
class Aftermath:
    """The table, read once."""

    site: StormSite
    disturbed: Collection[str]
    """Instances that something befell."""
    jobs: dict[str, StormJob]
    rows: dict[str, dict[str, Any]]
    attempts: dict[tuple[str, int], dict[str, Any]]

    def asked(self, job_id: str) -> StormJob:
        """What was submitted: an element's is its array's."""
        return self.jobs[self.rows[job_id]["array_parent"] or job_id]

    def ended_by_itself(self, attempt: dict[str, Any]) -> bool:
        """Whether nothing befell it: all of it has to be there."""
        return attempt["outcome"] == "exited" and attempt["instance_id"] not in self.disturbed


def read(
    site: StormSite, jobs: Sequence[StormJob], *, disturbed: Collection[str] = ()
) -> Aftermath:
    """As things are now."""
    return Aftermath(
        site,
        disturbed,
        {job.id: job for job in jobs},
        {row["id"]: row for row in site.rows("SELECT * FROM job ORDER BY seq")},
        {
            (row["job_id"], row["number"]): row
            for row in site.rows("SELECT * FROM attempt ORDER BY job_id, number")
        },
    )


def broken_promises(after: Aftermath) -> list[str]:
    """All of them; none is what a test wants."""
    return [f"{check.__name__}: {sentence}" for check in CHECKS for sentence in check(after)]


def lost_jobs(after: Aftermath) -> Iterator[str]:
    """Every job that was committed is there, and ended as its commands did."""
    for job in after.jobs.values():
        elements = [f"{job.id}-{index}" for index in range(job.elements)]
        for job_id in (job.id, *elements):
            row = after.rows.get(job_id)
            if row is None:
                yield f"{job_id} is not in the table"
            elif (row["phase"], row["exit_code"]) not in _ends(job, is_array=job_id in elements):
                shown = {name: row[name] for name in ("phase", "reason", "message", "exit_code")}
                yield f"{job_id} ({job.kind}) ended as {shown}"


def _ends(job: StormJob, *, is_array: bool) -> set[tuple[str, int | None]]:
    if job.is_cancelled:
        return {("cancelled", code) for code in (None, 143, 137)}
    if job.elements and not is_array:
        return {("succeeded", 0), ("succeeded", None)}
    return {("failed" if job.exit_code else "succeeded", job.exit_code)}


def histories(after: Aftermath) -> Iterator[str]:
    """Each move begins where the one before ended; the last one ends where the job is."""
    moves: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in after.site.rows("SELECT * FROM event ORDER BY id"):
        if event["kind"] == "phase":
            moves[event["job_id"]].append(event)
        elif event["kind"] in {"orphan", "terminate_stuck"}:
            yield f"{event['kind']}: {event['message']}"
    for job_id, row in after.rows.items():
        phase = "submitted"
        for move in moves[job_id]:
            if move["phase_from"] != phase:
                yield f"{job_id}: {move['phase_from']} -> {move['phase_to']} while {phase}"
            phase = move["phase_to"]
        if phase != row["phase"]:
            yield f"{job_id} is {row['phase']}, its history ends with {phase}"


def money(after: Aftermath) -> Iterator[str]:
    """A job costs what its attempts cost together, an array what its elements do."""
    for job_id, row in after.rows.items():
        parts = [each["cost_usd"] for key, each in after.attempts.items() if key[0] == job_id]
        parts += [
            each["cost_usd"] for each in after.rows.values() if each["array_parent"] == job_id
        ]
        if abs(row["cost_usd"] - sum(parts)) > CENT_OF_A_CENT or row["cost_usd"] < 0:
            yield f"{job_id} costs {row['cost_usd']}, its parts {parts}"


def duplicates(after: Aftermath) -> Iterator[str]:
    """No attempt ran twice, none ran that the table does not know, and no launch index has two machines."""
    if after.site.twice.exists():
        yield f"ran twice: {after.site.twice.read_text().split()}"
    for path in after.site.ran.iterdir():
        job_id, _, number = path.name.rpartition(".")
        if (job_id, int(number)) not in after.attempts:
            yield f"{path.name} ran, and is no attempt of the table"
    for name in ("client_token", "launch"):
        places: dict[tuple[str, int], list[str]] = defaultdict(list)
        for view in after.site.cloud.control.machines():
            mark = (
                view["client_token"]
                if name == "client_token"
                else view["tags"][protocol.TAG_LAUNCH]
            )
            places[mark, view["launch_index"]].append(view["instance_id"])
        yield from (f"{name} {key}: {ids}" for key, ids in places.items() if len(ids) > 1)


def orphans(after: Aftermath) -> Iterator[str]:
    """Every instance there ever was belonged to an attempt, the one that its launch names, and is gone."""
    launched = {
        (each["launch_id"], each["launch_index"]): each["instance_id"]
        for each in after.attempts.values()
        if not each["reused"]
    }
    for view in after.site.cloud.control.machines():
        place = (view["tags"][protocol.TAG_LAUNCH], view["launch_index"])
        if view["state"] != "terminated":
            yield f"{view['instance_id']} is {view['state']}"
        if launched.get(place) != view["instance_id"]:
            yield f"{view['instance_id']} is of launch {place}, whose attempt has {launched.get(place)}"
    for row in after.site.rows("SELECT instance_id FROM machine WHERE gone_at_ms IS NULL"):
        yield f"{row['instance_id']} is not gone in the table"
    for row in after.site.rows("SELECT id FROM launch WHERE state = 'intended'"):
        yield f"launch {row['id']} has no answer"


def attempts(after: Aftermath) -> Iterator[str]:
    """They are numbered without a gap, are over, and ended by themselves unless something befell their machine."""
    for job_id, row in after.rows.items():
        numbers = [key[1] for key in after.attempts if key[0] == job_id]
        if numbers != list(range(1, row["attempt"] + 1)):
            yield f"{job_id} is at attempt {row['attempt']} and has {numbers}"
    for key, each in after.attempts.items():
        if each["ended_at_ms"] is None:
            yield f"{key} is not over"
        if each["instance_id"] in after.disturbed:
            continue
        if each["outcome"] not in {"exited", "cancelled"}:
            told = {name: each[name] for name in ("outcome", "failed_stage", "failed_message")}
            yield f"{key}: {told}, and nothing befell {each['instance_id']}"
        if each["outcome"] == "exited" and key[1] != after.rows[key[0]]["attempt"]:
            yield f"{key} has exited, and another one followed"


def logs(after: Aftermath) -> Iterator[str]:
    """Every line of every attempt that ended by itself is there, once and in order; no verdict says more than is true."""
    for (job_id, number), each in after.attempts.items():
        found = after.site.lines(job_id, number)
        if (trouble := _out_of_order(found)) is not None:
            yield f"{job_id} {number}: {trouble}"
        is_whole = after.ended_by_itself(each)
        if is_whole and each["log_verdict"] != "complete":
            yield f"{job_id} {number}: verdict {each['log_verdict']!r}"
        if each["log_verdict"] != "complete":
            continue
        if len(found) != each["log_lines_sent"] or any("missing" in line for line in found):
            yield f"{job_id} {number}: complete, with {len(found)} of {each['log_lines_sent']}"
        printed = [line.get("log") for line in found if line.get("source") == "stdout"]
        asked = after.asked(job_id)
        expected = asked.printed(job_id, number, after.rows[job_id]["array_index"])
        if asked.kind == "resume":
            expected += _steps(printed)
        if is_whole and printed != expected:
            yield f"{job_id} {number}: {len(printed)} lines, not the {len(expected)} that it printed: {printed[:30]}"


def _out_of_order(lines: Sequence[dict[str, Any]]) -> str | None:
    expected = 1
    for line in lines:
        if line["n"] != expected:
            return f"line {line['n']} where {expected} should be"
        expected += line.get("missing", 1)
    return None


def _steps(printed: Sequence[str | None]) -> list[str]:
    """What a resuming job prints when it begins where it says."""
    began = str(printed[1] if len(printed) > 1 else "").removeprefix("from ")
    first = int(began) if began.isdecimal() else 0
    return [f"from {first}", *(f"step {step}" for step in range(first + 1, STEPS + 1))]


def artifacts(after: Aftermath) -> Iterator[str]:
    """Every attempt that ended by itself has a sealed manifest, complete, and every file is what it says and what it should be."""
    s3 = after.site.client("s3")
    pages = s3.get_paginator("list_objects_v2").paginate(
        Bucket=BUCKET, Prefix=protocol.ARTIFACT_PREFIX
    )
    keys = {item["Key"] for page in pages for item in page.get("Contents", ())}
    for (job_id, number), each in after.attempts.items():
        asked = after.asked(job_id)
        key = protocol.manifest_key(job_id, number)
        is_whole = after.ended_by_itself(each)
        if key not in keys:
            if asked.files and is_whole:
                yield f"{job_id} {number}: no manifest"
            continue
        manifest = artifact_manifest.decode(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())
        for file in manifest.files:
            name = manifest.key_of(file)
            body = s3.get_object(Bucket=BUCKET, Key=name)["Body"].read() if name in keys else b""
            if protocol.sha256_hex(body) != file.sha256:
                yield f"{job_id} {number}: {file.path} is not what the manifest says"
        if is_whole and (
            manifest.verdict != artifact_manifest.COMPLETE
            or {file.path: file.sha256 for file in manifest.files} != asked.files
        ):
            yield f"{job_id} {number}: {manifest.verdict} with {[file.path for file in manifest.files]}"


CHECKS: tuple[Callable[[Aftermath], Iterator[str]], ...] = (
    *(lost_jobs, histories, money, duplicates, orphans, attempts, logs, artifacts),
)
