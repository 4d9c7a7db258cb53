"""The daemon is crash-only: stopping it harms nothing, starting it goes on."""

from __future__ import annotations

import signal

import pytest

from tests.end_to_end.installation import Installation, installation, wait_until


def slow_job(site: Installation) -> dict[str, object]:
    """A job that goes on until the test lets it: however slow this machine is, it does not end by itself."""
    return {
        "commands": [
            "for i in 1 2 3 4; do echo $i; done",
            f"while [ ! -e {site.folder}/go ]; do sleep 0.1; done",
            "for i in 5 6 7 8; do echo $i; done",
            "echo done > result",
        ],
        "artifacts": ["result"],
    }


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_job_outlives_the_daemon(number: signal.Signals) -> None:
    """A running job goes on without the daemon; the next one brings its lines, artifact and end home, in one attempt."""
    with installation() as site:
        site.start_daemon()
        job_id = site.insert(slow_job(site))
        site.wait_for(job_id, "running")
        machines = site.live_machines()
        status = site.end_daemon(number)

        assert status == (0 if number == signal.SIGTERM else -signal.SIGKILL)
        assert site.live_machines() == machines
        (site.folder / "go").touch()
        site.start_daemon()
        job = site.wait_for(job_id)
        assert (job["phase"], job["attempt"]) == ("succeeded", 1)
        assert site.run("logs", job_id).split() == list("12345678")
        wait_until(lambda: site.live_machines() == [], what=lambda: "no machine")
        assert len(site.cloud.control.machines()) == 1


@pytest.mark.timeout(120)
def test_a_job_that_ended_while_the_daemon_was_away() -> None:
    """The machine ends itself without a daemon; what it did is read when one comes back."""
    with installation() as site:
        site.start_daemon()
        wait = f"while [ ! -e {site.folder}/go ]; do sleep 0.1; done"
        job_id = site.insert({"commands": [wait, "exit 7"]})
        site.wait_for(job_id, "running")
        site.end_daemon(signal.SIGKILL)
        (site.folder / "go").touch()
        wait_until(lambda: site.live_machines() == [], what=lambda: "the machine to end itself")
        site.start_daemon()

        job = site.wait_for(job_id)
        assert (job["phase"], job["exit_code"], job["attempt"]) == ("failed", 7, 1)


def test_a_second_daemon_is_refused() -> None:
    """Two daemons on one state directory would both launch: the second says so and exits with 78."""
    with installation() as site:
        site.start_daemon()
        second = site.spawn_daemon()

        assert second.wait(30) == 78
        assert "another daemon" in site.log()
