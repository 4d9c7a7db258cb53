"""Every path of one job's life, by name. Law: values only; each says what befalls the job and how it has to end.

The paths of a machine that is used again are in `sharing_scenarios.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dstackd.simulated.faults import Faults, Script
from tests.builders import spec_json
from tests.controllers.scenario import LINES, Scenario

AWAY_S = 900.0


def no_spot(faults: Faults) -> None:
    """The first choice is sold out."""
    faults.capacity |= {"m5.large|us-east-1a|spot": 0}


def nothing_at_all(faults: Faults) -> None:
    """Everything is sold out."""
    faults.capacity |= {"*": 0}


def one_of_two(faults: Faults) -> None:
    """There is less than what is asked for."""
    faults.capacity |= {"m5.large|us-east-1a|spot": 1}


def left_open(faults: Faults) -> None:
    """A shortage leaves a spot request behind, which waits."""
    no_spot(faults)
    faults.left_open = 1


def left_and_fulfilled(faults: Faults) -> None:
    """It becomes a machine that no launch knows."""
    left_open(faults)
    faults.fulfilled_after_s = 60.0


def busy(faults: Faults) -> None:
    """EC2 does not take the launch at once."""
    faults.throttle["RunInstances"] = 3


def slow_to_boot(faults: Faults) -> None:
    """No command begins before a cancel is heard; and EC2 does not take the launch at once."""
    faults.throttle["RunInstances"] = 3
    faults.boot_s = 50.0


def slow_to_start(faults: Faults) -> None:
    """Inputs and image take longer than is allowed."""
    faults.start_s = 1000.0


def slow_to_go(faults: Faults) -> None:
    """An old machine is there long after its last word, longer than the second attempt takes."""
    faults.shutdown_s = 100.0


def silent_end(faults: Faults) -> None:
    """Machines do not hear the first order to go."""
    faults.lose_call["TerminateInstances"] = 1
    faults.shutdown_s = 30.0


def without_notice(faults: Faults) -> None:
    """A spot machine is taken back at once."""
    faults.notice_s = 0.0


def late_lines(faults: Faults) -> None:
    """Log lines are there long after they were written."""
    faults.late_share, faults.late_s = 0.5, 20.0


def lost_lines(faults: Faults) -> None:
    """Log lines never arrive."""
    faults.lost_share = 1.0


PLAIN = Script(lines=LINES, run_s=10.0)
RECLAIMED = Script(lines=LINES, reclaim_after_s=4.0, run_s=9.0)
ENDLESS = Script(lines=LINES, run_s=30_000.0)
LONG = replace(PLAIN, run_s=700.0)
SEALING = Script(lines=LINES, run_s=10.0, seal_s=25.0)
CANCELLED = Scenario(
    spec_json(ENDLESS), phase="cancelled", exit_code=143, cancel_in="running", lines={1: 0}
)
UNBORN = replace(CANCELLED, exit_code=None, attempts=0, lines={}, machines=0)
UNHEARD = replace(CANCELLED, exit_code=None, set_up=slow_to_boot, lines={}, ran=0)
TWICE = Scenario(spec_json([RECLAIMED, PLAIN]), attempts=2, lines={1: 2, 2: LINES})
NOT_BOOTED = replace(TWICE, ran=1, lines={2: LINES})
OF_TWO = Scenario(spec_json(PLAIN, array=2), job_ids=("job-1-0", "job-1-1"))
FALLBACK = Scenario(spec_json(PLAIN), set_up=no_spot)


def first_does(**befalls: Any) -> str:  # noqa: ANN401 - fields of a Script
    """The spec of a job whose first attempt is this, and whose second one is plain."""
    return spec_json([Script(**{"lines": LINES, "run_s": 9.0} | befalls), PLAIN])


SCENARIOS = {
    "plain": Scenario(spec_json(PLAIN), seals={1: "complete"}),
    "rejected": Scenario('{"commands": 7}', "rejected", exit_code=None, attempts=0, lines={}),
    "inputs": Scenario(spec_json(PLAIN, inputs=[{"source": "INPUTS/code", "target": "code"}])),
    "array": OF_TWO,
    "sold out first": FALLBACK,
    "sold out first, away": replace(FALLBACK, away_s=AWAY_S),
    "request left open": Scenario(spec_json(LONG), set_up=left_open, round_s=30.0),
    "request fulfilled late": Scenario(
        spec_json(LONG), set_up=left_and_fulfilled, machines=2, round_s=30.0
    ),
    "partial fill": replace(OF_TWO, set_up=one_of_two),
    "no capacity": replace(
        UNBORN,
        spec=spec_json(PLAIN, retry={"within": "60s"}),
        phase="failed",
        cancel_in="",
        set_up=nothing_at_all,
    ),
    "throttled": Scenario(spec_json(PLAIN), set_up=busy),
    "failed": Scenario(spec_json(replace(PLAIN, exit_code=3)), "failed", exit_code=3),
    "tried again": replace(
        TWICE,
        spec=spec_json([replace(PLAIN, exit_code=3), PLAIN], retry={"on": ["error"]}),
        lines={1: LINES, 2: LINES},
    ),
    "reclaimed": replace(TWICE, seals={1: "partial", 2: "complete"}),
    "reclaimed without notice": replace(TWICE, set_up=without_notice),
    "reclaimed for good": Scenario(
        spec_json(RECLAIMED, retry={"on": ["error"]}),
        "failed",
        exit_code=None,
        lines={1: 2},
        seals={1: "partial"},
    ),
    "overlapping": replace(TWICE, set_up=slow_to_go, first_point=12),
    "lost": replace(TWICE, spec=first_does(dies_after_s=4.0)),
    "silent": replace(TWICE, spec=first_does(hangs_after_s=4.0)),
    "cut off": replace(TWICE, spec=first_does(silence_after_s=4.0)),
    "gone before the seal": Scenario(
        spec_json(replace(PLAIN, dies_after_s=15.0, seal_s=60.0)), seals={1: ""}
    ),
    "never sealed": Scenario(spec_json(replace(PLAIN, seal_s=5000.0)), seals={1: ""}),
    "never booted": replace(NOT_BOOTED, spec=first_does(never_boots=True)),
    "never prepared": Scenario(
        spec_json(PLAIN),
        "failed",
        exit_code=None,
        attempts=3,
        ran=0,
        lines={},
        set_up=slow_to_start,
        round_s=30.0,
    ),
    "failed to boot": replace(NOT_BOOTED, spec=first_does(fails_at="inputs")),
    "failed to boot for good": Scenario(
        spec_json(Script(fails_at="inputs", fails_final=True)),
        "failed",
        exit_code=None,
        ran=0,
        lines={},
    ),
    "timed out": Scenario(
        spec_json(ENDLESS, max_duration="10s"), "failed", exit_code=143, lines={1: 0}
    ),
    "late lines": Scenario(spec_json(PLAIN), set_up=late_lines),
    "lost lines": Scenario(spec_json(PLAIN), set_up=lost_lines, lost_lines=True),
    "not heard": Scenario(spec_json(replace(PLAIN, lingers=True)), set_up=silent_end),
    "cancelled in submitted": replace(UNBORN, cancel_in="submitted"),
    "cancelled in queued": replace(UNBORN, cancel_in="queued", set_up=nothing_at_all),
    "cancelled in launching": replace(UNHEARD, cancel_in="launching"),
    "cancelled in booting": replace(UNHEARD, cancel_in="booting"),
    "cancelled in running": CANCELLED,
    "cancelled in running, away": replace(CANCELLED, away_s=AWAY_S),
    "cancelled, deaf": replace(
        CANCELLED, spec=spec_json(replace(ENDLESS, deaf=True)), exit_code=None
    ),
    "cancelled in sealing": Scenario(spec_json(SEALING), cancel_in="sealing"),
    "cancelled in terminating": Scenario(
        spec_json(PLAIN), cancel_in="terminating", set_up=slow_to_go
    ),
}
