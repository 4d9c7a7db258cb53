"""What a command's exit code says.

Law: one table, and the one place that turns a job into an exit code. Public: scripts depend on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

SUCCEEDED: Final = 0
REFUSED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 69
"""EX_UNAVAILABLE of sysexits.h."""
CONFIG: Final = 78
"""EX_CONFIG of sysexits.h."""
NO_EXIT_CODE: Final = 100
STILL_RUNNING: Final = 101
CANCELLED: Final = 103
TIMED_OUT: Final = 124
"""As of timeout(1)."""
DETACHED: Final = 130
"""128 + SIGINT."""

TABLE: Final = f"""\b
Exit codes:
  {SUCCEEDED}    it is done; of wait, submit --wait and logs -f --exit-code: the job succeeded
  N    of these three: the job's own exit code (128 + n for signal n)
  {REFUSED}    the daemon refused, or what arrived is not what was sealed
  {USAGE}    the command line or the spec is wrong, or there is no such job
  {UNREACHABLE}   no daemon answers, or it cannot answer now
  {CONFIG}   the configuration is wrong
  {NO_EXIT_CODE}  the job ended without an exit code of its own: rejected, or its machine was lost
  {STILL_RUNNING}  it had not ended when --timeout was over
  {CANCELLED}  the job was cancelled
  {TIMED_OUT}  the job was stopped after its max_duration
  {DETACHED}  Ctrl-C; the job goes on"""

TERMINAL: Final = frozenset({"succeeded", "failed", "cancelled", "rejected"})

_OTHER_PHASES: Final = {"succeeded": SUCCEEDED, "cancelled": CANCELLED, "rejected": NO_EXIT_CODE}
_BYTE: Final = 255


def exit_code_of(job: Mapping[str, Any]) -> int:
    """The exit code that stands for an ended job (a row, or the end of its log)."""
    phase, code = job["phase"], job["exit_code"]
    if phase != "failed":
        return _OTHER_PHASES[phase]
    if job["reason"] == "timed_out":
        return TIMED_OUT
    return code if isinstance(code, int) and 0 < code <= _BYTE else NO_EXIT_CODE
