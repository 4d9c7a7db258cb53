"""An attempt's row as the decisions see it. Law: what comes out is frozen; the columns are labelled `attempt_...`."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Label, Row

from dstackd.core.instance import Market
from dstackd.core.job import Attempt
from dstackd.core.phase import Outcome
from dstackd.store.tables import ATTEMPT


def attempt_columns() -> list[Label[Any]]:
    """What `attempt_of` reads."""
    return [column.label(f"attempt_{column.name}") for column in ATTEMPT.c]


def attempt_of(row: Row[Any]) -> Attempt:
    """The frozen form of `attempt` columns labelled `attempt_...`."""
    return Attempt(
        job_id=row.attempt_job_id,
        number=row.attempt_number,
        launch_id=row.attempt_launch_id,
        launch_index=row.attempt_launch_index,
        instance_id=row.attempt_instance_id,
        market=Market(row.attempt_market),
        price_usd_h=row.attempt_price_usd_h,
        launched_at_ms=row.attempt_launched_at_ms,
        outcome=None if row.attempt_outcome is None else Outcome(row.attempt_outcome),
        exit_code=row.attempt_exit_code,
        booted_at_ms=row.attempt_booted_at_ms,
        started_at_ms=row.attempt_started_at_ms,
        notice_at_ms=row.attempt_notice_at_ms,
        exited_at_ms=row.attempt_exited_at_ms,
        exit_cause=row.attempt_exit_cause,
        exit_signal=row.attempt_exit_signal,
        sealed_at_ms=row.attempt_sealed_at_ms,
        seal_verdict=row.attempt_seal_verdict,
        done_at_ms=row.attempt_done_at_ms,
        failed_stage=row.attempt_failed_stage,
        failed_message=row.attempt_failed_message,
        failed_final=bool(row.attempt_failed_final),
        stop_requested_at_ms=row.attempt_stop_requested_at_ms,
        terminate_requested_at_ms=row.attempt_terminate_requested_at_ms,
        reused=bool(row.attempt_reused),
        released_at_ms=row.attempt_released_at_ms,
        log_lines_sent=row.attempt_log_lines_sent,
        log_lines_seen=row.attempt_log_lines_seen,
    )
