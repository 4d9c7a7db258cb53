"""Whole jobs, from a row to the end of their machine, through real processes and real HTTP."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dstackd.aws.operations import OPERATIONS
from tests.end_to_end.installation import Installation, wait_until
from tests.end_to_end.stores import IS_POSTGRES

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(IS_POSTGRES, reason="the README's example is for the file")
def test_the_readme_example_runs_as_it_stands(site: Installation) -> None:
    """A second process inserts a job by plain SQL, then one with the client, and reads both exit codes."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-I", "-c", "".join(examples)],
        cwd=site.folder.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.stdout.strip(), done.returncode) == ("failed 3\n3", 0), done.stderr


def test_log_artifact_and_exit_code_come_back(site: Installation) -> None:
    """Inputs go there, lines and artifacts come back, and the machine is gone before the job is over."""
    (site.folder / "inputs" / "numbers").mkdir(exist_ok=True)
    (site.folder / "inputs" / "numbers" / "a.txt").write_text("3\n4\n")
    job_id = site.insert(
        {
            "name": "sum",
            "inputs": [f"{site.folder}/inputs/numbers:in"],
            "commands": ["echo adding >&2", "awk '{s += $1} END {print s}' in/a.txt | tee sum.txt"],
            "artifacts": ["sum.txt"],
        }
    )
    job = site.wait_for(job_id)

    assert (job["phase"], job["exit_code"], job["attempt"]) == ("succeeded", 0, 1)
    assert site.run("logs", job_id) == "7\n"
    site.run("artifacts", "pull", job_id, str(site.folder / "pulled"))
    assert (site.folder / "pulled" / "sum.txt").read_text() == "7\n"
    ((instance_id, sent, seen),) = site.sql(
        "SELECT instance_id, log_lines_sent, log_lines_seen FROM attempt WHERE job_id = ?", job_id
    )
    assert (sent, seen) == (2, 2)
    assert instance_id not in site.live_machines()


def test_a_bad_row_is_rejected_and_stops_nobody(site: Installation) -> None:
    """A broken spec ends as rejected with the field's name; the row behind it runs."""
    bad_id = site.insert({"commands": ["true"], "resources": {"memory": "lots"}})
    good_id = site.insert({"commands": ["true"]})

    assert site.wait_for(good_id)["phase"] == "succeeded"
    bad = site.job(bad_id)
    assert (bad["phase"], bad["reason"]) == ("rejected", "bad_spec")
    assert "resources.memory" in bad["message"]


def test_cancel_by_sql_stops_the_job_and_keeps_its_artifacts(site: Installation) -> None:
    """`UPDATE job SET cancel_requested = 1` gives the job its SIGTERM, seals what it wrote, and ends the machine."""
    job_id = site.insert(
        {
            "commands": ["trap 'echo stopped > state; exit 0' TERM", "echo up", "sleep 300 & wait"],
            "artifacts": ["state"],
        }
    )
    site.wait_for(job_id, "running")
    wait_until(lambda: "up" in site.run("logs", job_id), what=lambda: "the first line")
    site.sql("UPDATE job SET cancel_requested = 1 WHERE id = ?", job_id)
    job = site.wait_for(job_id)

    assert (job["phase"], job["reason"]) == ("cancelled", "cancel_requested")
    listing = json.loads(site.run("artifacts", "ls", "--json", job_id))
    assert [entry["path"] for entry in listing["files"]] == ["state"]
    assert site.live_machines() == []


def test_every_call_is_one_of_the_table(site: Installation) -> None:
    """What the daemon has called over HTTP is inside the table of operations, and so inside the policy."""
    site.wait_for(site.insert({"commands": ["true"]}))
    called = set(site.cloud.control.calls()["client"])
    known = {f"{service}:{operation}" for service, operation in OPERATIONS}
    by_the_test = {"s3:CreateBucket"}

    assert called - by_the_test - known == set()
    assert "ec2:RunInstances" in called


def test_launch_documents_do_not_stay(site: Installation) -> None:
    """The document with the job's environment is deleted once the launch is over."""
    site.wait_for(site.insert({"commands": ["true"], "env": {"WORD": "x"}}))

    def keys() -> list[str]:
        listed = site.client("s3").list_objects_v2(Bucket="end-to-end", Prefix="dstackd/launches/")
        return [entry["Key"] for entry in listed.get("Contents", [])]

    wait_until(lambda: keys() == [], what=lambda: f"no launch document; there are {keys()}")
