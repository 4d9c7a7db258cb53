"""Everything that the expectations look at, gathered once the jobs are over.

Law: reads; what can be seen from outside is seen there (the cloud's machines and calls, the bucket)
and not believed because the table says so.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dstackd import artifact_manifest, protocol
from dstackd.artifact_manifest import Manifest, ManifestError
from dstackd.demo import api
from dstackd.demo.bucket import read_object
from dstackd.demo.environment import dstackd_environment
from dstackd.demo.following import stored_lines
from dstackd.demo.jobs import WORDS
from dstackd.demo.places import Places
from dstackd.demo.queue_view import JobView, LaunchView, QueueView
from dstackd.demo.texts import count_words
from dstackd.local.cloud import LocalCloud
from dstackd.local.control import MachineView

GONE_WITHIN_S: Final = 20.0
_PULL_WITHIN_S: Final = 30.0
_POLL_S: Final = 0.1

Lines = Mapping[str, Mapping[int, Sequence[str]]]
"""Stored output by job name and attempt."""


@dataclass(frozen=True, slots=True)
class LaunchCall:
    """One RunInstances that the cloud received."""

    client_token: str
    count: int


@dataclass(frozen=True, slots=True)
class Calls:
    """AWS calls by `service:Operation`, and those that launched."""

    daemon: Mapping[str, int]
    machines: Mapping[str, int]
    launches: tuple[LaunchCall, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """How the demo went."""

    jobs: tuple[JobView, ...]
    launches: tuple[LaunchView, ...]
    lines: Lines
    followed: Mapping[str, int]
    """Lines that were followed live, by job name."""
    machines: tuple[MachineView, ...]
    """As the cloud has them, gone ones included."""
    calls: Calls
    counted: Mapping[str, bytes]
    """What the artifacts of `words` have to contain, by file name."""
    pulled: Mapping[str, bytes]
    """What `dstackd artifacts pull` brought, by path."""
    manifest: Manifest | None
    """Of `words`, from the bucket."""
    reclaimed: bool
    kill_wanted: bool
    killed_while_running: bool

    def job(self, name: str) -> JobView:
        """The job that the demo calls so. KeyError when there is none."""
        for job in self.jobs:
            if job.name == name:
                return job
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Happened:
    """What the demo itself did meanwhile."""

    followed: Mapping[str, int]
    reclaimed: bool
    kill_wanted: bool
    killed_while_running: bool


def gather(
    places: Places, cloud: LocalCloud, queue: QueueView, *, calls_since: int, happened: Happened
) -> Evidence:
    """Look at everything. `calls_since`: the last call before the daemon was started."""
    machines = wait_until_gone(cloud)
    calls = read_calls(cloud.control.calls(since=calls_since))
    jobs = queue.jobs()
    words = next(job for job in jobs if job.name == WORDS)
    return Evidence(
        jobs=tuple(jobs),
        launches=tuple(queue.launches()),
        lines={job.name: _lines(places, job) for job in jobs},
        followed=happened.followed,
        machines=machines,
        calls=calls,
        counted=count_words(places.texts),
        pulled=_pull(places, words),
        manifest=_manifest(cloud.endpoint_url, words),
        reclaimed=happened.reclaimed,
        kill_wanted=happened.kill_wanted,
        killed_while_running=happened.killed_while_running,
    )


def wait_until_gone(cloud: LocalCloud) -> tuple[MachineView, ...]:
    """The cloud's machines once none is left, or after a bounded time as they are then."""
    deadline_s = time.monotonic() + GONE_WITHIN_S
    while True:
        machines = tuple(cloud.control.machines())
        if not left(machines) or time.monotonic() > deadline_s:
            return machines
        time.sleep(_POLL_S)


def left(machines: Sequence[MachineView]) -> list[str]:
    """Ids of machines that are not gone."""
    return [one["instance_id"] for one in machines if one["state"] != "terminated"]


def read_calls(report: Mapping[str, Any]) -> Calls:
    """The cloud's report, counted again from the records: those of the operator are left out."""
    sides: dict[bool, dict[str, int]] = {True: {}, False: {}}
    launches: list[LaunchCall] = []
    for record in report["records"]:
        side = sides[record["principal"] == "client"]
        name = f"{record['service_name']}:{record['operation']}"
        side[name] = side.get(name, 0) + 1
        if name == "ec2:RunInstances":
            asked = record["parameters"]
            launches.append(LaunchCall(asked.get("ClientToken", ""), int(asked["MaxCount"])))
    return Calls(daemon=sides[True], machines=sides[False], launches=tuple(launches))


def _lines(places: Places, job: JobView) -> Mapping[int, Sequence[str]]:
    try:
        return stored_lines(places.socket, job.id)
    except api.Unavailable:
        return {}


def _pull(places: Places, job: JobView) -> dict[str, bytes]:
    """What a person gets who types `dstackd artifacts pull`; nothing, if that takes too long."""
    command = [sys.executable, "-m", "dstackd", "artifacts", "pull", job.id, str(places.pulled)]
    with places.pull_log.open("wb") as log, suppress(subprocess.TimeoutExpired):
        subprocess.run(
            [*command, "--config", str(places.config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            timeout=_PULL_WITHIN_S,
            check=False,
            env=dstackd_environment(),
        )
    return _files(places.pulled)


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _manifest(endpoint_url: str, job: JobView) -> Manifest | None:
    number = job.last.number if job.last else 0
    content = read_object(endpoint_url, protocol.manifest_key(job.id, number))
    try:
        return None if content is None else artifact_manifest.decode(content)
    except ManifestError:
        return None
