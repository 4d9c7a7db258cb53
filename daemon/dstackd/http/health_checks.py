"""The parts of /healthz, in the words of the (expired) IETF draft health+json. Law: pure; facts in, checks out.

AWS trouble is a warning: restarting this program does not mend AWS.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from dstackd.core.orphan import STUCK_AFTER_S
from dstackd.http.probe import Answer
from dstackd.vitals import ApiCalls, LoopPulse, Vitals


class Status(StrEnum):
    """From good to bad, in this order."""

    PASS = "pass"  # noqa: S105 - a word of the draft, no password
    WARN = "warn"
    FAIL = "fail"


_BADNESS = {status: badness for badness, status in enumerate(Status)}


@dataclass(frozen=True, slots=True)
class Check:
    """One measurement of one component."""

    name: str
    """`component:measurement`."""
    component_id: str
    kind: str
    """The draft's componentType: `component`, `datastore` or `system`."""
    status: Status
    value: object
    unit: str
    output: str = ""
    """What is wrong; empty when nothing is."""
    more: tuple[tuple[str, object], ...] = ()


def overall(checks: Iterable[Check]) -> Status:
    """The worst status."""
    return max((check.status for check in checks), key=_BADNESS.__getitem__, default=Status.PASS)


def to_json(checks: Sequence[Check], *, version: str) -> dict[str, Any]:
    """The document: checks grouped by name."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for check in checks:
        entry: dict[str, Any] = {
            "componentId": check.component_id,
            "componentType": check.kind,
            "status": check.status,
            "observedValue": check.value,
            "observedUnit": check.unit,
            **dict(check.more),
        }
        if check.output:
            entry["output"] = check.output
        groups.setdefault(check.name, []).append(entry)
    return {"status": overall(checks), "releaseId": version, "checks": groups}


def database_check(answer: Answer[bool]) -> Check:
    """The database answers; `answer` comes from the probe."""
    status = Status.FAIL if answer.error else Status.PASS
    took_s = round(answer.took_s, 4)
    name = "database:responseTime"
    return Check(name, "queue", "datastore", status, took_s, "s", answer.error)


def schema_problem(vitals: Vitals) -> str:
    """Why the schema is not the one this program was written for; empty when it is."""
    if vitals.schema_head and vitals.schema_current == vitals.schema_head:
        return ""
    current = vitals.schema_current or "none"
    return f"the schema is at {current}, this program needs {vitals.schema_head or 'another'}"


def start_problem(vitals: Vitals) -> str:
    """Why this daemon does not know yet what runs in AWS; empty when it does, or need not."""
    return (
        ""
        if vitals.first_pass_done or vitals.standing_by_for
        else "the first pass over AWS is not done yet"
    )


def lease_problem(vitals: Vitals) -> str:
    """Why this daemon launches nothing and follows nothing; empty when the backend is its own."""
    owner = vitals.standing_by_for
    return f"standing by: {owner} owns the backend" if owner else ""


def lease_check(vitals: Vitals) -> Check:
    """Standing by is no fault."""
    held = "standby" if vitals.standing_by_for else "owner"
    more = (("owner", vitals.standing_by_for),) if vitals.standing_by_for else ()
    return Check("backend:lease", "daemon", "component", Status.PASS, held, "state", "", more)


def schema_check(vitals: Vitals) -> Check:
    problem = schema_problem(vitals)
    status = Status.FAIL if problem else Status.PASS
    current = vitals.schema_current
    return Check("schema:revision", "queue", "datastore", status, current, "revision", problem)


def start_check(vitals: Vitals) -> Check:
    problem = start_problem(vitals)
    status = Status.WARN if problem else Status.PASS
    done = vitals.first_pass_done
    return Check("start:firstPass", "daemon", "component", status, done, "done", problem)


def watch_check(vitals: Vitals) -> Check:
    """Whether commits of applications are noticed as they happen: without it, a job waits for the next look."""
    problem = vitals.watch_problem
    status = Status.WARN if problem else Status.PASS
    return Check("queue:commits", "queue", "datastore", status, not problem, "noticed", problem)


def rules_check(vitals: Vitals) -> Check:
    """The bucket's lifecycle rules: without them, what broke off or was forgotten is paid for."""
    problem = vitals.bucket_rules_problem
    status = Status.WARN if problem else Status.PASS
    return Check("bucket:rules", "bucket", "system", status, not problem, "set", problem)


def loop_problem(pulse: LoopPulse, *, now_s: float) -> str:
    """Why the loop counts as wedged; empty when it turns."""
    if not pulse.is_wedged(now_s):
        return ""
    last_s = pulse.started_s if pulse.last_pass_s is None else pulse.last_pass_s
    return f"no pass has ended for {now_s - last_s:.0f} s (interval {pulse.interval_s:g} s)"


def loop_checks(vitals: Vitals, *, now_s: float) -> list[Check]:
    """Each loop's age: seconds since its last success, null before the first."""
    return [_loop_check(pulse, now_s=now_s) for pulse in vitals.loops.values()]


def _loop_check(pulse: LoopPulse, *, now_s: float) -> Check:
    wedged = loop_problem(pulse, now_s=now_s)
    status = Status.FAIL if wedged else Status.WARN if pulse.last_error else Status.PASS
    age_s = None if pulse.last_success_s is None else round(now_s - pulse.last_success_s, 3)
    more = (("passes", pulse.passes), ("failures", pulse.failures))
    problem = wedged or pulse.last_error
    return Check("loop:age", pulse.name, "component", status, age_s, "s", problem, more)


def aws_checks(api_calls: Iterable[ApiCalls]) -> list[Check]:
    """Each AWS operation; one whose last answer was an error is a warning."""
    return [_aws_check(calls) for calls in api_calls]


def _aws_check(calls: ApiCalls) -> Check:
    error_at_ms, success_at_ms = calls.last_error_at_ms, calls.last_success_at_ms
    is_bad = error_at_ms is not None and (success_at_ms is None or error_at_ms > success_at_ms)
    more: tuple[tuple[str, object], ...] = (
        ("lastSuccessAtMs", success_at_ms),
        ("lastErrorAtMs", error_at_ms),
        ("lastErrorCode", calls.last_error_code),
        ("errors", dict(calls.errors)),
    )
    status = Status.WARN if is_bad else Status.PASS
    problem = f"the last call failed: {calls.last_error_code}" if is_bad else ""
    component_id = f"{calls.service}:{calls.operation}"
    return Check("aws:calls", component_id, "system", status, calls.calls, "calls", problem, more)


def oldest_waiting_s(counts: dict[str, Any], *, now_ms: int) -> float:
    """Age of the oldest job without a machine, 0 when none waits."""
    at_ms = counts["oldest_waiting_at_ms"]
    return 0.0 if at_ms is None else max(0.0, (now_ms - at_ms) / 1000)


def queue_checks(answer: Answer[dict[str, Any]], *, now_ms: int) -> list[Check]:
    """Oldest waiting job and live machines: figures, never a judgement. A machine that does not go is a warning."""
    if answer.value is None:
        problem = answer.error
        return [
            Check("queue:oldestAge", "queue", "datastore", Status.WARN, None, "s", problem),
            Check("machines:live", "machines", "system", Status.WARN, None, "machines", problem),
            Check("machines:stuck", "machines", "system", Status.WARN, None, "machines", problem),
        ]
    age_s = oldest_waiting_s(answer.value, now_ms=now_ms)
    live = sum(count for _, _, count in answer.value["machines"])
    return [
        Check("queue:oldestAge", "queue", "datastore", Status.PASS, age_s, "s"),
        Check("machines:live", "machines", "system", Status.PASS, live, "machines"),
        _stuck_check(int(answer.value["stuck_machines"])),
    ]


def _stuck_check(stuck: int) -> Check:
    """EC2 was asked again and again, and nothing mends that here: somebody has to look."""
    status = Status.WARN if stuck else Status.PASS
    problem = (
        f"{stuck} machine(s) were to be gone {STUCK_AFTER_S / 60:.0f} minutes ago and are still there; "
        "`dstackd reap --dry-run` names them"
    )
    output = problem if stuck else ""
    return Check("machines:stuck", "machines", "system", status, stuck, "machines", output)
