"""S3 and CloudWatch refuse for a while: whatever a job is at meanwhile, it ends as it would have."""

from __future__ import annotations

import time
from collections.abc import Iterator
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
from tests.end_to_end.installation import Installation, installation, wait_until

LINES = 50
REFUSED_S = 30.0
BOTH = (*operations_of("s3"), *operations_of("logs"))


@pytest.fixture(scope="module")
def site() -> Iterator[Installation]:
    """A running installation."""
    with installation() as made:
        made.start_daemon()
        yield made


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


def refused_for(seconds: float, site: Installation, operations: tuple[str, ...], *, status: int, go: Path) -> None:
    """Refuse; let the job that waits for `go` end at once."""
    with refusing(site, operations, status=status):
        until = time.monotonic() + seconds
        go.touch()
        wait_until(Path(f"{go}.done").exists, what=lambda: "the job to end meanwhile")
        wait_until(lambda: time.monotonic() > until, what=lambda: "the time to be over")


@pytest.mark.parametrize(
    ("operations", "status", "seconds"),
    [
        pytest.param(BOTH, 503, REFUSED_S, id="all for 30 s"),
        pytest.param(operations_of("s3"), 0, 5.0, id="S3 hangs up"),
        pytest.param(operations_of("logs"), 400, 5.0, id="CloudWatch is slowed down"),
    ],
)
@pytest.mark.timeout(120)
def test_aws_refuses(
    site: Installation, operations: tuple[str, ...], status: int, seconds: float
) -> None:
    """While a job runs, while another one seals, and before a third one has read its document."""
    job_ids, through, ends = stages(site)
    refused_for(seconds, site, operations, status=status, go=ends)
    through.touch()

    for job_id in job_ids:
        assert_all_there(site, job_id)
    wait_until_gone(site)
