"""Which engine runs the image. Law: installs nothing on a computer that is not one of our machines."""

from __future__ import annotations

import glob
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from dstackd.runner.engine import (
    STAGE,
    Engine,
    docker,
    engine_environment,
    last_words,
    podman,
)
from dstackd.runner.errors import StageFailed
from dstackd.runner.pace import Deadline
from dstackd.runner.power import is_ours

INSTALL_S = 600.0
"""For all of it: a fresh image's package lists, about 100 MB, and a first start."""
STARTED_S = 60.0
_POLL_S = 0.5
_CDI_SPECS = ("/etc/cdi/nvidia*", "/var/run/cdi/nvidia*")
# Another package program may be at work in a machine's first minutes (unattended-upgrades).
_APT = ("apt-get", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3")
_INSTALLERS: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...] = (
    (
        "apt-get",
        (
            (*_APT, "update"),
            (*_APT, "install", "--yes", "--no-install-recommends", "docker.io"),
        ),
    ),
    ("dnf", (("dnf", "install", "--assumeyes", "docker"),)),
    ("yum", (("yum", "install", "--assumeyes", "docker"),)),
)


def find_engine(environ: Mapping[str, str], *, say: Callable[[str], None]) -> Engine:
    """Docker if its daemon answers, else Podman, else, on a machine of ours, a Docker that is installed
    now. Raises StageFailed.
    """
    ours = is_ours(environ)
    engine = docker(environ)
    if engine is None and ours and shutil.which("dockerd", path=environ.get("PATH")):
        engine = _started_docker(environ)
    engine = engine or podman(environ)
    if engine is not None:
        return engine
    if not ours:
        raise StageFailed(
            STAGE,
            "the job has an image, and neither a running Docker nor Podman is on this computer: "
            "install or start one",
        )
    return _install(environ, say=say)


def gpu_arguments(engine: Engine, environ: Mapping[str, str]) -> list[str]:
    """What gives a container every GPU of the machine. Raises StageFailed where the engine cannot.

    Source: NVIDIA, "Container Toolkit", Docker with `--gpus`, Podman with the Container Device Interface.
    """
    path = environ.get("PATH")
    if engine.is_docker:
        if any(shutil.which(f"nvidia-container-{name}", path=path) for name in ("runtime", "cli")):
            return ["--gpus", "all"]
        raise _without_toolkit(engine)
    if not any(glob.glob(pattern) for pattern in _CDI_SPECS):
        toolkit = shutil.which("nvidia-ctk", path=path)
        if toolkit is None or not is_ours(environ):
            raise _without_toolkit(engine)
        _call((toolkit, "cdi", "generate", "--output=/etc/cdi/nvidia.yaml"), environ, 120.0)
    return ["--device", "nvidia.com/gpu=all"]


def _without_toolkit(engine: Engine) -> StageFailed:
    return StageFailed(
        STAGE,
        f"the job asks for GPUs, and {engine.name} has no NVIDIA Container Toolkit here: use a machine "
        "image that has it, such as AWS's Deep Learning Base AMI",
    )


def _install(environ: Mapping[str, str], *, say: Callable[[str], None]) -> Engine:
    deadline = Deadline(INSTALL_S)
    for program, commands in _INSTALLERS:
        if shutil.which(program, path=environ.get("PATH")) is None:
            continue
        say(f"image: installing Docker with {program}")
        for command in commands:
            _call(command, environ, deadline.left_s())
        engine = _started_docker(environ)
        if engine is None:
            raise StageFailed(STAGE, "Docker was installed and does not answer")
        return engine
    raise StageFailed(
        STAGE,
        "no Docker, no Podman, and no apt-get, dnf or yum to install it: use a machine image that has one",
    )


def _started_docker(environ: Mapping[str, str]) -> Engine | None:
    for start in (("systemctl", "start", "docker"), ("service", "docker", "start")):
        if shutil.which(start[0], path=environ.get("PATH")) and _works(start, environ):
            break
    deadline = Deadline(STARTED_S)
    while True:
        engine = docker(environ)
        if engine is not None or deadline.left_s() == 0:
            return engine
        time.sleep(_POLL_S)


def _works(command: Sequence[str], environ: Mapping[str, str]) -> bool:
    try:
        _call(command, environ, STARTED_S)
    except StageFailed:
        return False
    return True


def _call(command: Sequence[str], environ: Mapping[str, str], timeout_s: float) -> None:
    """One command that changes the machine. Raises StageFailed with its last words."""
    try:
        done = subprocess.run(
            command,
            env={**engine_environment(environ), "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=max(1.0, timeout_s),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StageFailed(STAGE, f"{' '.join(command)}: {error}") from error
    if done.returncode != 0:
        said = last_words((done.stderr or done.stdout).decode("utf-8", "replace"))
        raise StageFailed(STAGE, f"{' '.join(command)}: {said}")
