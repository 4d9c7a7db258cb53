"""Jobs in containers of a real engine, run as the runner does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dstackd.launch_document import ContainerDocument, JobDocument
from dstackd.runner.container import Container
from dstackd.runner.job import Outcome, RunningJob
from dstackd.runner.job_log import JobLog
from dstackd.runner.secrets import Secrets
from dstackd.runner.spool import Spool
from dstackd.runner.stopping import StopSwitch
from tests.runner import engines
from tests.runner.conftest import a_job, wait_until
from tests.runner.engines import BUSYBOX, DOCKER, FULL, PODMAN, Rig
from tests.runner.loopback import credentials

ENGINES = [PODMAN, DOCKER]


def open_rig(name: str, factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """For a fixture: an engine with two images, which has no container left in the end."""
    with engines.opened(name, factory.mktemp(name)) as rig:
        rig.make_image(BUSYBOX, engines.busybox_tree())
        rig.make_image(FULL, engines.full_tree())
        yield rig
        assert rig.containers() == [], "a test left a container"


def no_words(_: str) -> None:
    """Nobody listens."""


@dataclass
class Bench:
    """Runs jobs in containers as the runner does."""

    rig: Rig
    folder: Path
    spool: Spool
    switch: StopSwitch = field(default_factory=StopSwitch)
    running: RunningJob | None = None

    @property
    def job_dir(self) -> Path:
        return self.folder / "job"

    def job(self, *commands: str, image: str = BUSYBOX, **fields: Any) -> JobDocument:  # noqa: ANN401 - as JobDocument
        shm_size_mib = fields.pop("shm_size_mib", None)
        document = ContainerDocument(image=image, shm_size_mib=shm_size_mib)
        return a_job(*commands, container=document, **fields)

    def container(
        self,
        job: JobDocument,
        *,
        secrets: Secrets | None = None,
        memory_max_bytes: int | None = None,
    ) -> Container:
        """A prepared container."""
        container = Container(
            job,
            base_dir=str(self.folder),
            job_dir=str(self.job_dir),
            secrets=secrets or Secrets({}),
            environ=self.rig.environ,
            credentials=credentials(),
            say=no_words,
            memory_max_bytes=memory_max_bytes,
        )
        container.prepare(stopped=lambda: False)
        return container

    def start(self, job: JobDocument, container: Container) -> RunningJob:
        self.job_dir.mkdir(exist_ok=True)
        self.running = RunningJob(
            job,
            enclosure=container,
            script_path=str(self.folder / "commands.sh"),
            working_dir=str(self.job_dir),
            environment={"PATH": "/of/the/machine", "HOME": "/of/the/machine", **job.env},
            log=JobLog(self.spool),
            switch=self.switch,
        )
        return self.running

    def run(self, *commands: str, **fields: Any) -> tuple[Outcome, list[str]]:  # noqa: ANN401 - as JobDocument
        """The outcome and the output's lines."""
        job = self.job(*commands, **fields)
        running = self.start(job, self.container(job))
        return self.end(running)

    def end(self, running: RunningJob) -> tuple[Outcome, list[str]]:
        outcome = running.wait()
        running.drain()
        self.running = None
        return outcome, self.output()

    def output(self) -> list[str]:
        return engines.spooled_texts(self.spool)

    def wait_for_file(self, name: str) -> None:
        wait_until((self.job_dir / name).exists)


def open_bench(rig: Rig, folder: Path) -> Iterator[Bench]:
    """For a fixture: a folder of a machine, whose job is ended after the test."""
    spool = Spool(str(folder / "spool"))
    bench = Bench(rig, folder, spool)
    yield bench
    if bench.running is not None:
        bench.switch.order("stopped", grace_s=0.0)
        bench.end(bench.running)
    spool.close()
