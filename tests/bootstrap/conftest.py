"""Machines with a real systemd, one a test, on the local cloud of the runner's tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from dstackd.bootstrap.zipapp import user_data
from dstackd.launch_document import JobDocument
from dstackd.local.imds import MetadataServer
from dstackd.protocol import InboxEvent
from tests.bootstrap.launch import store_launch
from tests.bootstrap.nspawn import Machine, booted, why_not
from tests.runner.conftest import Project, cloud, kinds, project, wait_until
from tests.runner.loopback import metadata

__all__ = ["cloud", "project"]

REQUIRED = "TESTS_NSPAWN"
"""Set to `required` where a test that cannot boot a machine has to fail (.ci/run)."""
INSTANCE = "i-0123456789abcdef0"


@dataclass(frozen=True)
class Life:
    """A machine that lives, and what the daemon would see of it."""

    machine: Machine
    project: Project
    metadata: MetadataServer

    def events(self) -> list[InboxEvent]:
        return self.project.inbox(INSTANCE)

    def wait_for(self, kind: str) -> InboxEvent:
        """Wait until the machine has said this."""

        def found() -> list[InboxEvent]:
            return [event for event in self.events() if event.kind == kind]

        wait_until(found, seen=lambda: f"{self.events()}\n{self.machine.story()}", deadline_s=40)
        return found()[0]

    def end(self) -> list[InboxEvent]:
        """Wait for the power-off; all that was said."""
        self.machine.wait_until_off(str(self.events()))
        return self.events()

    def kinds(self) -> list[str]:
        return kinds(self.events())


Begin = Callable[..., Life]


@pytest.fixture
def begin(project: Project, tmp_path: Path) -> Iterator[Begin]:
    """Begin a machine's life: boot it and start the user-data, changed by `edits`."""
    missing = why_not()
    if missing and os.environ.get(REQUIRED) == "required":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    with ExitStack() as stack:

        def start(
            job: JobDocument,
            *,
            lifetime_s: int | None = None,
            edits: tuple[tuple[str, str], ...] = (),
            without: tuple[str, ...] = (),
            binds: tuple[str, ...] = (),
            disk: Path | None = None,
        ) -> Life:
            text = user_data()
            for old, new in edits:
                assert text.count(old) == 1, old
                text = text.replace(old, new)
            server, _ = metadata(tags=store_launch(project, job, lifetime_s=lifetime_s))
            machine = stack.enter_context(
                booted(
                    tmp_path,
                    user_data=text,
                    metadata=server,
                    endpoint_url=project.cloud.endpoint_url,
                    without=without,
                    binds=binds,
                    disk=disk,
                )
            )
            machine.start_user_data(endpoint_url=project.cloud.endpoint_url)
            return Life(machine, project, server)

        yield start
