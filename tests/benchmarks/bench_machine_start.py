"""From the first instruction of the user-data to the first line of the job's commands, on this computer.

The machine is played by this process: the real user-data and runner, the local cloud's S3, and a metadata
service beside it. Where root can boot a systemd (systemd-nspawn), the same under it. The boot of the
instance itself is EC2's and not in it. A line says when it was written, so no log is waited for.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dstackd.bootstrap.zipapp import build_runner, user_data
from dstackd.launch_document import JobDocument
from dstackd.local.cloud import LocalCloud, start_local_cloud
from dstackd.local.imds import MetadataServer
from tests.benchmarks.figure import Figure
from tests.bootstrap.launch import store_launch
from tests.bootstrap.nspawn import booted, why_not
from tests.runner.conftest import Project, a_job, make_project
from tests.runner.loopback import metadata

RUNS = 9
RUNS_BOOTED = 3
BAR_S = 1.0
BAR_BYTES = 4_000_000
COMMANDS = ("date +%s.%N",)


def measure() -> Iterator[Figure]:
    """The size of what is fetched, then the starts."""
    yield Figure(
        figure="runner zipapp", value=len(build_runner().content), unit="bytes", baseline=BAR_BYTES
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        start_local_cloud(Path(folder) / "cloud") as cloud,
    ):
        yield from _starts("user-data to the job's first line", cloud, _start_here, RUNS)
        if not why_not():
            yield from _starts(
                "user-data to the job's first line, under systemd",
                cloud,
                _start_booted,
                RUNS_BOOTED,
            )


def _starts(
    what: str, cloud: LocalCloud, start: Callable[[Project, MetadataServer], float], runs: int
) -> Iterator[Figure]:
    seconds = [_measure_one(cloud, start) for _ in range(runs)]
    for name, value in (("median", statistics.median(seconds)), ("slowest", max(seconds))):
        yield Figure(
            figure=f"{what}, {name} of {runs}", value=round(value, 3), unit="s", baseline=BAR_S
        )


def _measure_one(cloud: LocalCloud, start: Callable[[Project, MetadataServer], float]) -> float:
    project = make_project(cloud)
    job = a_job(*COMMANDS)
    server, _ = metadata(tags=store_launch(project, job))
    started_at = start(project, server)
    return _first_line_at(project, job) - started_at


def _first_line_at(project: Project, job: JobDocument) -> float:
    lines = [line.text for line in project.log(job) if line.source == "stdout"]
    return float(lines[0])


def _start_here(project: Project, server: MetadataServer) -> float:
    """When the script began; returns at its end."""
    with tempfile.TemporaryDirectory() as folder:
        stand_in = Path(folder) / "shutdown"
        stand_in.write_text("#!/bin/sh\n")
        stand_in.chmod(0o755)
        Path(folder).chmod(0o755)
        environment = {
            # Before this Python an image's own: a version manager's shims are slower than both.
            "PATH": f"{folder}:/usr/local/bin:/usr/bin:/bin:{Path(sys.executable).parent}",
            "AWS_ENDPOINT_URL": project.cloud.endpoint_url,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{server.port}",
        }
        script = Path(folder) / "user-data"
        script.write_text(user_data())
        started_at = time.time()
        subprocess.run(
            ["/bin/bash", script], cwd=folder, env=environment, stdout=2, check=True, timeout=60
        )
        return started_at


def _start_booted(project: Project, server: MetadataServer) -> float:
    endpoint_url = project.cloud.endpoint_url
    with (
        tempfile.TemporaryDirectory() as folder,
        booted(
            Path(folder), user_data=user_data(), metadata=server, endpoint_url=endpoint_url
        ) as machine,
    ):
        started_at = time.time()
        machine.start_user_data(endpoint_url=endpoint_url)
        machine.wait_until_off()
        return started_at
