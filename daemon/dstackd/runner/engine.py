"""Docker or Podman as a program. Law: knows its command line and nothing of jobs; each call is bounded.

What is in a job's environment never reaches the engine's own process: `LD_PRELOAD` or `PATH` of a job
would be the engine's then.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dstackd.runner.errors import StageFailed

STAGE = "image"
ANSWER_S = 20.0
QUICK_S = 60.0
LAST_LINES = 3
"""Of what a program said."""
_PASSED_ON = frozenset(
    {"CONTAINER_HOST", "DBUS_SESSION_BUS_ADDRESS", "LANG", "PATH", "STORAGE_DRIVER", "STORAGE_OPTS"}
    | {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"}
)
_PASSED_ON_PREFIXES = ("CONTAINERS_", "DOCKER_", "XDG_")


@dataclass(frozen=True)
class Said:
    """What the engine answered."""

    code: int
    out: str
    """Bytes that are not UTF-8 are surrogates, so that nothing is lost."""
    err: str


class Engine:
    """One engine; `is_docker` where it is not Podman."""

    def __init__(self, program: str, *, is_docker: bool, environ: Mapping[str, str]) -> None:
        self.is_docker = is_docker
        self._program = program
        self._environment = engine_environment(environ)

    @property
    def name(self) -> str:
        return "docker" if self.is_docker else "podman"

    def run(self, *arguments: str, timeout_s: float = QUICK_S) -> Said:
        """One call. An engine that cannot be called, or that does not end, has the code 125 of its own."""
        try:
            done = subprocess.run(
                [self._program, *arguments],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            # Not the error's own text: it has the whole command line.
            return Said(125, "", f"{self.name} {arguments[0]} did not end within {timeout_s:.0f} s")
        except OSError as error:
            return Said(125, "", f"{self.name} {arguments[0]}: {error}")
        return Said(
            done.returncode,
            done.stdout.decode("utf-8", "surrogateescape"),
            done.stderr.decode("utf-8", "replace"),
        )

    def open(self, *arguments: str, takes_input: bool) -> subprocess.Popen[bytes]:
        """The call as a process with pipes, in a session of its own. Raises OSError."""
        return subprocess.Popen(
            [self._program, *arguments],
            env=self._environment,
            stdin=subprocess.PIPE if takes_input else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def containers(self, having: str) -> Said:
        """The whole ids of all containers to which the filter applies, running or not."""
        return self.run("ps", "--all", "--quiet", "--no-trunc", "--filter", having)

    def inspect(self, kind: str, name: str) -> dict[str, Any] | None:
        """What the engine knows of an `image` or a `container`; None when there is none."""
        said = self.run(kind, "inspect", name)
        try:
            found = json.loads(said.out)[0]
        except (ValueError, LookupError, TypeError):
            return None
        return found if isinstance(found, dict) else None


def engine_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What the engine's own process sees of the runner's: where it has its settings and its images."""
    passed_on = {
        name: text
        for name, text in environ.items()
        if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
    }
    # Not the machine's folder where one is only played: there is the person's own engine.
    return {**passed_on, "HOME": pwd.getpwuid(os.geteuid()).pw_dir}


def docker(environ: Mapping[str, str]) -> Engine | None:
    """Docker, if its daemon answers. The `docker` that is Podman in disguise is not taken for it."""
    program = shutil.which("docker", path=environ.get("PATH"))
    if program is None:
        return None
    engine = Engine(program, is_docker=True, environ=environ)
    if not engine.run("--version", timeout_s=ANSWER_S).out.startswith("Docker"):
        return None
    answer = engine.run("version", "--format", "{{.Server.Version}}", timeout_s=ANSWER_S)
    return engine if answer.code == 0 and answer.out.strip() else None


def podman(environ: Mapping[str, str]) -> Engine | None:
    """Podman, if it is installed."""
    program = shutil.which("podman", path=environ.get("PATH"))
    engine = Engine(program, is_docker=False, environ=environ) if program else None
    return engine if engine and engine.run("--version", timeout_s=ANSWER_S).code == 0 else None


def last_words(text: str, *, lines: int = LAST_LINES) -> str:
    """The end of what a program said, on one line."""
    said = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(said[-lines:])


def told(said: Said, *, lines: int = LAST_LINES) -> str:
    """Why it failed, as far as it said so."""
    return last_words(said.err, lines=lines) or f"exit code {said.code}"


def require(said: Said, what: str, *, stage: str = STAGE) -> str:
    """What the engine wrote to its standard output. Raises StageFailed when it failed."""
    if said.code != 0:
        raise StageFailed(stage, f"{what}: {told(said)}")
    return said.out


def words_of(value: object) -> Sequence[str]:
    """A list of texts as engines give it: null is none."""
    return [str(word) for word in value] if isinstance(value, list) else []
