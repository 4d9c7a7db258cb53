"""Which seed catches each planted bug. Law: a hint where to begin, as `make simulate TEETH=1` prints it, never a promise.

A change of the product moves all worlds a little, and then the search goes on from there. What one of the first seeds catches,
another one of them catches then; what is rare is for the long search alone.
"""

from __future__ import annotations

CAUGHT_BY: dict[str, int] = {
    "fence_not_checked": 1,
    "token_not_derived": 0,
    "unknown_taken_for_absent": 0,
    "new_machines_judged_at_once": 0,
    "wall_clock_believed": 4,
    "terminated_before_the_seal": 0,
    "reaper_off": 3,
    "reaper_takes_open_launches": 1,
    "strangers_taken_for_ours": 3,
    "retries_miscounted": 0,
    "over_before_gone": 0,
    "reports_removed_first": 2,
    "silence_taken_for_refusal": 0,
    "guard_off": 0,
    "exit_code_forgotten": 0,
    "failures_taken_for_success": 0,
    "machines_paid_twice": 0,
    "doubled_lines_kept": 0,
    "log_always_complete": 0,
    "sweep_without_overlap": 2,
    "silence_endured": 2,
    "boot_endured": 3,
    "rest_of_a_launch_forgotten": 0,
    "terminate_asked_once": 14,
    "leaving_forgotten": 0,
    "leaving_for_nothing": 54,
    "bounds_unchecked": 2,
    "queued_before_the_last_word": 0,
    "budget_unchecked": 4,
    "cancel_lost": 5,
    "conflict_taken_for_ours": 11,
    "released_machine_terminated": 11,
    "unread_taken_for_silent": 22,
    "started_taken_for_a_failed_boot": 0,
    "written_lines_not_counted": 2,
    "needs_not_waited_for": 0,
    "old_sweep_believed": 17,
    "machines_paid_from_the_answer": 2,
    "lines_elsewhere_not_read": 1,
}
UNCAUGHT = {"refusal_believed"}
"""None of the first forty seeds catches it any more: a fault or a promise is missing, or the search was too short."""
