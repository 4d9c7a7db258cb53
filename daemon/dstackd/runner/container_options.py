"""How a job's container is asked for. Law: pure; equal arguments give an equal command line, and no secret
is in it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dstackd.launch_document import PERMISSIONS_MACHINE, ContainerDocument, JobDocument

LABEL = "dstackd.folder"
"""The runner's folder: whose container it is, also after that runner was killed."""


def label_of(base_dir: str) -> str:
    """The label of all containers of the runner in this folder."""
    return f"{LABEL}={base_dir}"


def container_name(job: JobDocument) -> str:
    return f"dstackd-{job.job_id}-{job.attempt}"


@dataclass(frozen=True)
class Place:
    """The job's folders; inside the container they are called as outside."""

    base_dir: str
    job_dir: str
    working_dir: str


@dataclass(frozen=True)
class Entry:
    """What runs first. `takes_input`: a shell that gets its program over its standard input;
    otherwise the image's own entry point, with an environment that has no secret.
    """

    takes_input: bool
    script_path: str | None = None
    environment: Mapping[str, str] | None = None

    def options(self) -> list[str]:
        if not self.takes_input:
            pairs = [f"{name}={text}" for name, text in (self.environment or {}).items()]
            return [word for pair in pairs for word in ("--env", pair)]
        options = ["--interactive", "--entrypoint", "sh"]
        if self.script_path is not None:
            options += ["--mount", _bind(self.script_path, is_readonly=True)]
        return options


@dataclass(frozen=True)
class Rights:
    """What the machine gives: `is_ours` where it was launched for jobs, so that the engine's network is
    known; `gpu_arguments` of `engine_setup`.
    """

    is_docker: bool
    is_ours: bool
    has_init: bool
    memory_max_bytes: int | None
    gpu_arguments: Sequence[str]


def create_arguments(
    job: JobDocument,
    container: ContainerDocument,
    *,
    image: str,
    place: Place,
    entry: Entry,
    rights: Rights,
) -> list[str]:
    """The arguments of `create`."""
    arguments = ["create", "--name", container_name(job), "--label", label_of(place.base_dir)]
    # The image was pulled; the log is ours, and the engine's would be a copy that is not masked.
    arguments += ["--pull", "never", "--log-driver", "none"]
    arguments += ["--mount", _bind(place.job_dir), "--workdir", place.working_dir]
    arguments += _confinement(job, rights)
    if rights.has_init:
        arguments.append("--init")
    if rights.memory_max_bytes is not None:
        arguments += ["--memory", f"{rights.memory_max_bytes}b"]
    if container.shm_size_mib is not None:
        arguments += ["--shm-size", f"{container.shm_size_mib}m"]
    arguments += rights.gpu_arguments
    arguments += entry.options()
    return [*arguments, image]


def _confinement(job: JobDocument, rights: Rights) -> list[str]:
    options = []
    if job.permissions == PERMISSIONS_MACHINE:
        # The machine's network: a bridge is one hop too far for the machine's role.
        options += ["--network", "host", "--user", "0:0"]
    else:
        options += ["--security-opt", "no-new-privileges"]
        if rights.is_ours:
            options += ["--network", "bridge"]
    if not rights.is_docker:
        # As Docker does: no label on the job's folder, no bound of 2,048 processes, and not what the
        # runner's unit has for itself.
        options += ["--security-opt", "label=disable", "--pids-limit", "-1"]
        if rights.is_ours:
            options += ["--oom-score-adj", "0"]
    return options


def _bind(path: str, *, is_readonly: bool = False) -> str:
    """A `--mount` of the path to the same path; engines read it as a line of CSV."""
    fields = ["type=bind", f"source={path}", f"target={path}"]
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([*fields, *(["readonly"] if is_readonly else [])])
    return line.getvalue()
