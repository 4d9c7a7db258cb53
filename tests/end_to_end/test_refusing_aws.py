"""S3 and CloudWatch refuse for a while: whatever a job is at meanwhile, it ends as it would have."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.end_to_end.hostility import (
    attempt_of,
    log_of,
    operations_of,
    refusing,
    sealed,
    wait_for_attempt,
    wait_until_gone,
)
from tests.end_to_end.installation import Installation, wait_until

LINES = 50
REFUSED_S = 30.0
HANGS_UP = 0


def job(go: Path) -> dict[str, object]:
    """Writes lines and a file, waits, writes more of both."""
    part = f"for n in $(seq {LINES}); do echo {{}} $n; done; head -c 9000000 /dev/urandom > {{}}"
    return {
        "commands": [
            part.format("before", "one"),
            f"while [ ! -e {go} ]; do sleep 0.05; done",
            part.format("after", "two"),
            "touch DONE; mv DONE " + str(go) + ".done",
        ],
        "artifacts": ["two", {"path": "one", "every": "1s"}],
    }


EXPECTED = [f"{when} {n}" for when in ("before", "after") for n in range(1, LINES + 1)]


def assert_all_there(site: Installation, job_id: str) -> None:
    """One attempt, which has everything."""
    ended = site.wait_for(job_id)
    tried = attempt_of(site, job_id)
    assert (ended["phase"], ended["exit_code"], ended["attempt"]) == ("succeeded", 0, 1), tried
    assert log_of(site, job_id) == EXPECTED
    assert (tried["log_verdict"], tried["seal_verdict"]) == ("complete", "complete"), tried
    assert [file.path for file in sealed(site, job_id).files] == ["one", "two"]


def stages(site: Installation) -> tuple[list[str], Path, Path]:
    """Three jobs: one that runs through, one that ends meanwhile, and one whose machine has only been launched."""
    through, ends = site.folder / "through", site.folder / "ends"
    for path in (through, ends):
        for each in (path, Path(f"{path}.done")):
            each.unlink(missing_ok=True)
    running = [site.insert(job(go)) for go in (through, ends)]
    for job_id in running:
        wait_until(
            lambda: len(log_of(site, job_id)) == LINES,  # noqa: B023 - called before the next
            what=lambda: f"{site.job(job_id)}",  # noqa: B023
        )
    site.cloud.control.faults(boot_delay_s=1.0)
    launched = site.insert(job(through))
    wait_for_attempt(site, launched, 1, "instance_id")
    site.cloud.control.faults(boot_delay_s=0.0)
    return [*running, launched], through, ends


@pytest.mark.parametrize(
    ("refusals", "seconds"),
    [
        pytest.param([("s3", 503), ("logs", 503)], REFUSED_S, id="unavailable for 30 s"),
        pytest.param([("s3", HANGS_UP), ("logs", 400)], 5.0, id="hung up and throttled for 5 s"),
    ],
)
@pytest.mark.timeout(120)
def test_aws_refuses(site: Installation, refusals: list[tuple[str, int]], seconds: float) -> None:
    """While a job runs, while another one seals, and before a third one has read its document."""
    job_ids, through, ends = stages(site)
    with ExitStack() as refused:
        for service, status in refusals:
            refused.enter_context(refusing(site, operations_of(service), status=status))
        until = time.monotonic() + seconds
        ends.touch()
        wait_until(Path(f"{ends}.done").exists, what=lambda: "the job to end meanwhile")
        wait_until(lambda: time.monotonic() > until, what=lambda: "the time to be over")
    through.touch()

    for job_id in job_ids:
        assert_all_there(site, job_id)
    wait_until_gone(site)
