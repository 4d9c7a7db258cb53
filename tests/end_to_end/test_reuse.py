"""One machine for several jobs: the installed daemon and the real runner, on the cloud on this machine."""

from __future__ import annotations

import json
import signal

import pytest

from tests.end_to_end.installation import Installation, installation, wait_until

SECOND = {"commands": ['echo "token ${TOKEN-none}"; ls -A'], "reuse": "2s"}


def first(site: Installation) -> dict[str, object]:
    """A job that leaves as much behind as it can."""
    return {
        "commands": [
            "echo first; echo secret > left-behind; echo result > result.txt",
            f"(trap '' HUP TERM; sleep 300; touch {site.folder}/survived) > /dev/null 2>&1 &",
        ],
        "env": {"TOKEN": "of the first"},
        "artifacts": ["result.txt"],
        "reuse": "60s",
    }


def instances(site: Installation, *job_ids: str) -> list[str]:
    """The machine of each job's only attempt."""
    found = []
    for job_id in job_ids:
        ((instance_id,),) = site.sql("SELECT instance_id FROM attempt WHERE job_id = ?", job_id)
        found.append(str(instance_id))
    return found


def is_idle(site: Installation) -> bool:
    """Whether a machine waits for a job."""
    return bool(site.sql("SELECT 1 FROM machine WHERE idle_until_ms IS NOT NULL"))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("restarts", [False, True])
def test_the_second_job_runs_on_the_machine_of_the_first(restarts: bool) -> None:
    """Also when the daemon was killed while the machine was idle: one machine, nothing of the first job, and it goes by itself."""
    with installation() as site:
        site.start_daemon()
        one = site.insert(first(site))
        assert site.wait_for(one)["phase"] == "succeeded"
        wait_until(lambda: is_idle(site), what=lambda: f"an idle machine; {site.log()[-3000:]}")
        if restarts:
            site.end_daemon(signal.SIGKILL)
            site.start_daemon()
        two = site.insert(SECOND)
        assert site.wait_for(two)["phase"] == "succeeded"

        machine, again = instances(site, one, two)
        assert machine == again
        assert site.run("logs", one).split() == ["first"]
        assert site.run("logs", two).split() == ["token", "none"]
        wait_until(lambda: site.live_machines() == [], what=lambda: "the machine to go")
        assert len(site.cloud.control.machines()) == 1
        assert not (site.folder / "survived").exists()
        wait_until(
            lambda: not site.sql("SELECT 1 FROM machine WHERE gone_at_ms IS NULL"),
            what=lambda: "the daemon to see it gone",
        )
        shown = json.loads(site.run("describe", one, "--json"))
        assert shown["attempts"][0]["idle_ms"] > 0
        assert "used again" in site.run("describe", two)


@pytest.mark.timeout(120)
def test_reuse_starts_sooner_than_a_boot() -> None:
    """From the row to the first command, by the machine's own reports: the second job does not wait for a boot."""
    with installation() as site:
        site.start_daemon()
        one = site.insert({"commands": ["true"], "reuse": "60s"})
        site.wait_for(one)
        wait_until(lambda: is_idle(site), what=lambda: f"an idle machine; {site.log()[-3000:]}")
        two = site.insert({"commands": ["true"], "reuse": "1s"})
        site.wait_for(two)
        taken_ms = {}
        for job_id in (one, two):
            ((at_ms,),) = site.sql(
                "SELECT e.at_ms - j.submitted_at_ms FROM job j JOIN event e ON e.job_id = j.id "
                "WHERE j.id = ? AND e.kind = 'machine_started'",
                job_id,
            )
            taken_ms[job_id] = at_ms
        print("row to started, ms: boot", taken_ms[one], "reuse", taken_ms[two])  # noqa: T201 - the figure
        assert taken_ms[two] < taken_ms[one]
