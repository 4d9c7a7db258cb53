"""Every metric of ours: name, type, labels, meaning. Law: a metric that is not here does not exist, and a test compares the two.

Names are public: monitoring elsewhere depends on them. Base units only; never an id as a label.
The process metrics (`process_...`) are prometheus-client's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Kind(StrEnum):
    """Prometheus' types, as far as they are used."""

    GAUGE = "gauge"
    COUNTER = "counter"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Metric:
    """One row. `name` is the name of the samples."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()


BUILD_INFO = Metric(
    "dstackd_build_info",
    Kind.INFO,
    "Always 1; which program this is.",
    ("version", "python"),
)
DATABASE_UP = Metric(
    "dstackd_database_up",
    Kind.GAUGE,
    "1 when the database answered the last question; at 0 the jobs, machines and queue metrics are absent.",
)
SCHEMA_UP_TO_DATE = Metric(
    "dstackd_schema_up_to_date",
    Kind.GAUGE,
    "1 when the schema is the one that this program was written for.",
)
COMMITS_NOTICED = Metric(
    "dstackd_commits_noticed",
    Kind.GAUGE,
    "1 while commits of applications are noticed as they happen; at 0 the table is looked at twice a second instead.",
)
STANDING_BY = Metric(
    "dstackd_standing_by",
    Kind.GAUGE,
    "1 while another daemon owns the backend and this one waits for it; 0 once it is its own.",
)
JOBS = Metric(
    "dstackd_jobs",
    Kind.GAUGE,
    "Jobs in the table by phase, the finished ones too.",
    ("phase",),
)
QUEUE_OLDEST_AGE = Metric(
    "dstackd_queue_oldest_age_seconds",
    Kind.GAUGE,
    "Age of the oldest job that is submitted or queued; 0 when none is.",
)
MACHINES = Metric(
    "dstackd_machines",
    Kind.GAUGE,
    "Machines that were not seen gone yet, by EC2's state and market.",
    ("state", "market"),
)
IDLE_MACHINES = Metric(
    "dstackd_idle_machines",
    Kind.GAUGE,
    "Machines that wait for another job (`reuse` in the spec); they are paid for.",
)
TERMINATIONS_STUCK = Metric(
    "dstackd_terminations_stuck",
    Kind.GAUGE,
    "Machines that nobody needs for more than 15 minutes and that were not seen gone; terminating is tried again each minute.",
)
ORPHANS_TERMINATED = Metric(
    "dstackd_orphans_terminated_total",
    Kind.COUNTER,
    "Machines of ours without a live attempt that were terminated since the start.",
)
SPOT_REQUESTS_CANCELLED = Metric(
    "dstackd_spot_requests_cancelled_total",
    Kind.COUNTER,
    "Spot requests of ours that waited without a launch and were cancelled since the start.",
)
COST_RATE = Metric(
    "dstackd_cost_usd_per_hour",
    Kind.GAUGE,
    "What the machines that were not seen gone yet cost an hour, at the prices of their launches.",
)
AWS_REQUESTS = Metric(
    "dstackd_aws_requests_total",
    Kind.COUNTER,
    "AWS calls since the start; code is OK or the error code.",
    ("service", "operation", "code"),
)
AWS_REQUEST_SECONDS = Metric(
    "dstackd_aws_request_seconds_total",
    Kind.COUNTER,
    "Time that AWS calls have taken since the start.",
    ("service", "operation"),
)
AWS_PACED_SECONDS = Metric(
    "dstackd_aws_paced_seconds_total",
    Kind.COUNTER,
    "Time that AWS calls have waited at our own gate, before they were sent.",
    ("service", "operation"),
)
AWS_WAITING = Metric(
    "dstackd_aws_waiting",
    Kind.GAUGE,
    "AWS calls that wait at our own gate now.",
    ("service", "operation"),
)
LOOP_PASSES = Metric(
    "dstackd_loop_passes_total",
    Kind.COUNTER,
    "Passes that have ended, good or bad.",
    ("loop",),
)
LOOP_FAILURES = Metric(
    "dstackd_loop_failures_total",
    Kind.COUNTER,
    "Passes that ended with an error.",
    ("loop",),
)
LOOP_LAST_SUCCESS_AGE = Metric(
    "dstackd_loop_last_success_age_seconds",
    Kind.GAUGE,
    "Time since the loop's last good pass; before the first one, since its start.",
    ("loop",),
)

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            *(BUILD_INFO, DATABASE_UP, SCHEMA_UP_TO_DATE, COMMITS_NOTICED, STANDING_BY),
            *(JOBS, QUEUE_OLDEST_AGE, MACHINES, IDLE_MACHINES, COST_RATE),
            *(TERMINATIONS_STUCK, ORPHANS_TERMINATED, SPOT_REQUESTS_CANCELLED),
            *(AWS_REQUESTS, AWS_REQUEST_SECONDS, AWS_PACED_SECONDS, AWS_WAITING),
            *(LOOP_PASSES, LOOP_FAILURES, LOOP_LAST_SUCCESS_AGE),
        )
    }
)
