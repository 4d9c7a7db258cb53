"""What to do about a job that waits or has ended badly. Law: one row a cause; what is not a person's to mend has none."""

from __future__ import annotations

from dstackd.core.job import Attempt, Job
from dstackd.core.phase import TERMINAL, Outcome, Phase, Reason
from dstackd.core.waiting import what_would_help
from dstackd.spec.model import RetryCause

_OPERATOR = "an operator has to look: `dstackd plan` and /healthz say what AWS answers"

_BY_REASON = {
    Reason.BAD_SPEC: "mend the field that the message names, and insert the job again",
    Reason.INPUT_UNREADABLE: "make the input readable for the daemon, below a folder of [inputs] allowed_roots, and insert the job again",
    Reason.NO_OFFERING: "widen resources or instance_types, or raise max_price; `dstackd plan` shows what fits a spec",
    Reason.BUDGET_EXHAUSTED: "lower max_duration, allow cheaper instance_types, or have the budget raised",
    Reason.LIMIT_REACHED: "wait until machines end, or have the bound raised ([scheduling] and [projects] of the configuration)",
    Reason.UNAUTHORIZED: "the backend's credentials or policy do not allow the call; compare them with the IAM policy, then it goes on by itself",
    Reason.CLOUD_UNAVAILABLE: "AWS cannot be reached; it is asked again by itself, and /healthz says since when",
    Reason.INVALID_LAUNCH: _OPERATOR,
    Reason.TIMED_OUT: "raise max_duration, or make the job save what it has (`artifacts` with `every`, `resume`) and insert it again",
    Reason.SEAL_TIMEOUT: "its artifacts took too long: fewer or smaller files, or a larger limits.seal_timeout_s",
    Reason.MACHINE_LOST: "add interruption to retry.on, or allow more attempts; `resume` takes artifacts along",
    Reason.INTERRUPTED: "add interruption to retry.on, or use spot_policy on-demand; `resume` takes artifacts along",
    Reason.INTERNAL_ERROR: "this is a bug of dstackd; its log says more",
}


def advice(job: Job, attempt: Attempt | None) -> tuple[str, ...]:
    """What would help, the nearest first; empty where all is well or nothing can be done."""
    if job.phase in {Phase.SUCCEEDED, Phase.CANCELLED} or job.reason is None:
        return ()
    told = []
    if job.phase in TERMINAL and attempt is not None:
        told += list(_of_attempt(job, attempt))
    if job.reason is Reason.NO_CAPACITY:
        told.append(f"try {what_would_help(job.spec)}")
    elif job.reason in _BY_REASON and not told:
        told.append(_BY_REASON[job.reason])
    return tuple(told)


def _of_attempt(job: Job, attempt: Attempt) -> list[str]:
    """By how the last attempt ended."""
    if attempt.exit_cause == "oom":
        gib = (job.spec.resources.memory_mib.min or 0) / 1024
        return [f"give resources.memory more than {gib:g}GB, or make the job use less"]
    if attempt.failed_stage and attempt.started_at_ms is None:
        return [
            _BY_STAGE.get(attempt.failed_stage, "the message says what the machine could not do")
        ]
    match attempt.outcome:
        case Outcome.EXITED:
            again = (
                "to have it tried more often, raise retry.max_attempts"
                if RetryCause.ERROR in job.spec.retry.on
                else "to have it tried again, add error to retry.on"
            )
            what = _BY_EXIT_CODE.get(attempt.exit_code or 0, "its log says why")
            return [f"{what}: dstackd logs {job.id}", again]
        case Outcome.BOOT_TIMEOUT:
            return [_NO_BOOT]
        case Outcome.INTERRUPTED | Outcome.LOST if job.reason is Reason.RETRIES_EXHAUSTED:
            return ["raise retry.max_attempts or retry.within, or use spot_policy on-demand"]
        case _:
            return []


_BY_EXIT_CODE = {
    126: "a command is there and cannot be executed (exit code 126), its log says which",
    127: "a command was not found on the machine (exit code 127), its log says which",
}
_NO_BOOT = (
    "its machines did not reach the bucket: look at the subnet's way out, the image and the console output; "
    "limits.boot_timeout_s is how long they have"
)
_BY_STAGE = {
    "inputs": "look at the input that the message names, and at what the machine's role may read",
    "image": "look at `image` and `registry_auth`: the machine could not fetch it",
    "secrets": "make the secret that the message names: dstackd reads it from Secrets Manager below /dstack/<bucket>/secrets/",
    "start": "look at the first of the commands, and at `working_dir`",
    "confine": "the machine could not make an unprivileged user for the job; an image of its own needs useradd, or permissions: machine",
}
