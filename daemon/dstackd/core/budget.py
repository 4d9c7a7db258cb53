"""What a job may cost at the worst. Law: an estimate of machines only, at the price of the launch; no clock, no ledger.

Volumes, traffic and S3 are not in it, and a spot price may rise after the launch.
"""

from __future__ import annotations

from datetime import UTC, datetime

from dstackd.core.job import Job
from dstackd.core.lifetime import bounds_s
from dstackd.core.limits import Limits
from dstackd.core.phase import Reason
from dstackd.spec.model import JobSpec

IDLE_MARGIN_S = 120.0
"""After an idle machine's time is over, until it counts as one that nobody needs: it has to say that it leaves, and go."""
GOING_S = 120.0
"""From the request to terminate until EC2 shows the machine terminated, which is as long as its cost is counted."""
_DAY_MS = 86_400_000
_ROUNDING_USD = 1e-9
"""What sums of floats are off by."""


def worst_case_s(spec: JobSpec, *, limits: Limits) -> float | None:
    """Seconds that one attempt's machine can exist if each wait lasts to its bound; None: there is no bound."""
    if spec.max_duration_s is None:
        return None
    return (
        bounds_s(spec.max_duration_s, spec, limits=limits)
        + (0.0 if spec.reuse_s is None else spec.reuse_s + IDLE_MARGIN_S)
        + GOING_S
    )


def worst_case_usd(spec: JobSpec, *, price_usd_h: float, limits: Limits) -> float | None:
    """What one attempt can cost at the worst; None: there is no bound."""
    longest_s = worst_case_s(spec, limits=limits)
    return None if longest_s is None else price_usd_h * longest_s / 3600


def allowed(limit_usd: float) -> float:
    """The largest amount that keeps the limit."""
    return limit_usd + _ROUNDING_USD


def exceeds(amount_usd: float, limit_usd: float) -> bool:
    """Whether an amount is over a limit by more than floats are off."""
    return amount_usd > allowed(limit_usd)


def day_start_ms(now_ms: int) -> int:
    """The last midnight UTC."""
    return now_ms // _DAY_MS * _DAY_MS


def day_end_ms(now_ms: int) -> int:
    """The next midnight UTC."""
    return day_start_ms(now_ms) + _DAY_MS


def text_of_over_budget(
    *, budget_usd: float, spent_usd: float, worst_usd: float | None, machine: str
) -> str:
    """Why a job cannot keep its own budget on `machine`, and what would help."""
    budget = f"the job's budget is {budget_usd:.2f} USD"
    if worst_usd is None:
        return f"{budget}, and without max_duration nothing bounds what it costs; set max_duration"
    spent = f"{spent_usd:.2f} USD are spent and " if spent_usd else ""
    attempt = "another attempt" if spent_usd else "it"
    return (
        f"{budget}; {spent}{attempt} may cost up to {worst_usd:.2f} USD on {machine}; "
        "lower max_duration, allow cheaper instance_types, or raise budget"
    )


def text_of_never(name: str, *, budget_usd: float, worst_usd: float | None) -> str:
    """Why no day's budget is enough for a job, and what would help."""
    if worst_usd is None:
        return (
            f"{name} is {budget_usd:.2f}, and without max_duration nothing bounds what the job costs; "
            "cancel it and insert it again with max_duration set"
        )
    return (
        f"the job may cost up to {worst_usd:.2f} USD and {name} is {budget_usd:.2f}, so no day is "
        "enough; insert it again with a lower max_duration or cheaper instance_types, or have the "
        "budget raised"
    )


def text_of_exhausted(
    job: Job,
    name: str,
    *,
    budget_usd: float,
    worst_usd: float,
    spent_usd: float,
    reserved_usd: float,
    now_ms: int,
) -> str:
    """What a job waits for when the day's money is taken.

    The figures at its end move all the time; a job that waits for the same already keeps those that it
    was told, with their time, so that a thousand waiting jobs do not leave a thousand events a minute.
    """
    until = datetime.fromtimestamp(day_end_ms(now_ms) / 1000, tz=UTC)
    fixed = (
        f"{name} is {budget_usd:.2f} and the job may cost up to {worst_usd:.2f} USD; it waits until "
        f"running jobs end for less than they may cost, or until {until:%Y-%m-%d %H:%M} UTC; "
    )
    if job.reason is Reason.BUDGET_EXHAUSTED and job.message.startswith(fixed):
        return job.message
    at = datetime.fromtimestamp(now_ms / 1000, tz=UTC)
    return f"{fixed}{spent_usd:.2f} spent and {reserved_usd:.2f} reserved at {at:%H:%M} UTC"
