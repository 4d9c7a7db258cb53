"""A container as a job's enclosure (`enclosure.py`). Law: nothing that the job asked for is left out, and
nothing of it is left behind: a failure of the engine is never the job's exit code.

`prepare` once, then `start`. The job's folder has the same path inside as outside. The container is made
first and started then, attached: what its own process ends with is what the container ended with.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from dstackd.launch_document import ContainerDocument, JobDocument
from dstackd.runner import container_processes, container_program
from dstackd.runner.container_options import (
    Entry,
    Place,
    Rights,
    container_name,
    create_arguments,
    label_of,
)
from dstackd.runner.container_owner import give, owner_of
from dstackd.runner.credentials import InstanceCredentials
from dstackd.runner.engine import STAGE, Engine, Said, last_words, require, words_of
from dstackd.runner.engine_setup import find_engine, gpu_arguments
from dstackd.runner.errors import StageFailed
from dstackd.runner.pace import Deadline
from dstackd.runner.power import is_ours
from dstackd.runner.registry import LOCAL_PREFIX, Login, ecr_login, pull, qualified
from dstackd.runner.secrets import Secrets

START = "start"
NOTE = "container"
STARTED_S = 120.0
"""A large image on a cold disk."""
ENDED_S = 5.0
"""For a container to end behind the engine's process."""
REMOVED_S = 60.0
SIGNALLED_S = 10.0
_POLL_S = 0.05
_NOT_STARTED = "0001-01-01"
"""How both engines write that there was no such time."""
_MACHINES_OWN = frozenset({"HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TMPDIR", "USER"})
"""What the image says better than the machine."""
_INIT_PROGRAMS = ("docker-init", "/usr/libexec/docker/docker-init", "/usr/lib/docker/docker-init")


class Container:
    """One container for one run of one job. Implements `enclosure.Enclosure`."""

    def __init__(
        self,
        job: JobDocument,
        *,
        base_dir: str,
        job_dir: str,
        secrets: Secrets,
        environ: Mapping[str, str],
        credentials: InstanceCredentials,
        say: Callable[[str], None],
        memory_max_bytes: int | None = None,
    ) -> None:
        """`base_dir`: the runner's folder. Raises StageFailed when the job has no image."""
        if job.container is None:
            raise StageFailed(STAGE, "the job has no image")
        self._job = job
        self._document: ContainerDocument = job.container
        self._base_dir = base_dir
        self._job_dir = job_dir
        self._secrets = secrets
        self._environ = environ
        self._credentials = credentials
        self._say = say
        self._memory_max_bytes = memory_max_bytes
        self._name = container_name(job)
        self._image = qualified(self._document.image)
        self._engine: Engine | None = None
        self._image_config: dict[str, Any] = {}
        self._gpu_arguments: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._id = ""
        self._first_pid = 0
        self._has_init = False
        self._is_gone = True

    def prepare(self, *, stopped: Callable[[], bool]) -> None:
        """Find or install the engine, remove what a killed runner left, bring the image here. Minutes.
        Returns early when `stopped`; `start` is not for then. Raises StageFailed.
        """
        engine = self._engine = find_engine(self._environ, say=self._say)
        self._remove_leftovers(engine)
        if self._document.gpus > 0:
            self._gpu_arguments = gpu_arguments(engine, self._environ)
        if not self._image.startswith(LOCAL_PREFIX):
            self._say(f"image: pulling {self._image} with {engine.name}")
            pull(engine, self._image, login=self._login(), stopped=stopped)
        if stopped():
            return
        found = engine.inspect("image", self._image)
        if found is None:
            raise StageFailed(
                STAGE,
                f"{self._image} is not on this machine, and {LOCAL_PREFIX} is no registry to ask: "
                "have the image on the machine, or name its registry",
                final=True,
            )
        self._image_config = found.get("Config") or {}

    def start(
        self, script_path: str, *, working_dir: str, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """See `Enclosure.start`. `environment` may hold secrets."""
        try:
            return self._start(script_path, working_dir, environment)
        except BaseException:
            self.close()
            self._close_output()
            raise

    def _start(
        self, script_path: str, working_dir: str, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        engine = self._ready_engine()
        visible = self._visible(environment)
        entry = self._entry(script_path, visible)
        self._note(f"{engine.name} {self._name}\n")
        self._id = self._create(engine, entry, working_dir)
        self._is_gone = False
        user = str(self._image_config.get("User") or "")
        give(self._job_dir, owner_of(engine, self._id, user))
        interactive = ["--interactive"] if entry.takes_input else []
        process = self._process = engine.open(
            "start", "--attach", *interactive, self._id, takes_input=entry.takes_input
        )
        if entry.takes_input:
            self._send(process, container_program.program(self._command(script_path), visible))
        self._wait_until_started(engine, process)
        return process

    def ended_with(self, status: int) -> int:
        """See `Enclosure.ended_with`. The engine's own process may end before its container, and with 0: Docker's
        does when it is sent SIGTERM (20.10). What is not known is no success.
        """
        if status < 0:
            return status
        deadline = Deadline(ENDED_S)
        while (state := self._state()).get("Running") and deadline.left_s() > 0:
            time.sleep(_POLL_S)
        code = state.get("ExitCode")
        if state.get("Running") or not isinstance(code, int):
            return status or -signal.SIGKILL
        return code

    def signal(self, number: int) -> None:
        """See `Enclosure.signal`."""
        if not self.lives():
            return
        engine = self._ready_engine()
        name = signal.Signals(number).name
        if number != signal.SIGKILL:
            if container_processes.signal_inside(
                self._first_pid, self._id, number, spare_first=self._has_init
            ):
                return
            command = container_program.signal_command(name, spare_first=self._has_init)
            said = engine.run("exec", self._id, "sh", "-c", command, timeout_s=SIGNALLED_S)
            if said.code == 0:
                return
        engine.run("kill", "--signal", name, self._id)

    def lives(self) -> bool:
        """See `Enclosure.lives`."""
        if self._process is not None and self._process.poll() is None:
            return True
        if not self._is_gone:
            # The attached process may have been killed while the container runs on.
            self._is_gone = not self._state().get("Running", False)
        return not self._is_gone

    def ran_out_of_memory(self) -> bool:
        """See `Enclosure.ran_out_of_memory`."""
        if not self._id:
            return False
        is_seen_by_engine = bool(self._state().get("OOMKilled", False))
        return is_seen_by_engine or container_processes.killed_for_memory(self._id)

    def close(self) -> None:
        """See `Enclosure.close`."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        if self._engine is not None and self._id:
            self._remove(self._engine, [self._id])
            self._is_gone = True
            self._id = ""
            self._note("")
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _close_output(self) -> None:
        """For whom nobody reads it."""
        for pipe in (self._process.stdout, self._process.stderr) if self._process else ():
            if pipe is not None:
                pipe.close()

    def _note(self, text: str) -> None:
        """For whoever has to end the container without this process. Where a machine is only played, it is
        more than one of the machine's processes, and outlives them.
        """
        path = os.path.join(self._base_dir, NOTE)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    def _ready_engine(self) -> Engine:
        if self._engine is None:
            raise StageFailed(START, "the container was not prepared")
        return self._engine

    def _login(self) -> Login | None:
        auth = self._document.registry_auth
        if auth is None:
            return ecr_login(self._image, credentials=self._credentials, environ=self._environ)
        resolve = self._secrets.resolve_text
        return Login(resolve(auth.username), resolve(auth.password))

    def _visible(self, environment: Mapping[str, str]) -> dict[str, str]:
        asked = self._job.env
        return {
            name: text
            for name, text in environment.items()
            if name in asked or name not in _MACHINES_OWN
        }

    def _entry(self, script_path: str, environment: Mapping[str, str]) -> Entry:
        if self._job.commands:
            return Entry(takes_input=True, script_path=script_path)
        # What an engine is told of an environment it keeps on disk.
        if self._secrets.are_in(environment.values()):
            return Entry(takes_input=True)
        return Entry(takes_input=False, environment=environment)

    def _command(self, script_path: str) -> str:
        if self._job.commands:
            return container_program.script_command(script_path)
        config = self._image_config
        words = [*words_of(config.get("Entrypoint")), *words_of(config.get("Cmd"))]
        if not words:
            raise StageFailed(STAGE, f"{self._image} has no entry point: give the job commands")
        return container_program.words_command(words)

    def _create(self, engine: Engine, entry: Entry, working_dir: str) -> str:
        """The container's id. Raises StageFailed."""
        # A shell is an init, too: it takes what its children leave, and it knows the signals.
        self._has_init = not entry.takes_input and _may_have_init(engine)
        said = self._try_to_create(engine, entry, working_dir)
        if said.code != 0 and self._has_init and "init" in said.err:
            self._has_init = False
            said = self._try_to_create(engine, entry, working_dir)
        created = require(said, f"cannot make a container of {self._image}", stage=START)
        return created.split()[-1]

    def _try_to_create(self, engine: Engine, entry: Entry, working_dir: str) -> Said:
        rights = Rights(
            is_docker=engine.is_docker,
            is_ours=is_ours(self._environ),
            has_init=self._has_init,
            memory_max_bytes=self._memory_max_bytes,
            gpu_arguments=self._gpu_arguments,
        )
        arguments = create_arguments(
            self._job,
            self._document,
            image=self._image,
            place=Place(self._base_dir, self._job_dir, working_dir),
            entry=entry,
            rights=rights,
        )
        return engine.run(*arguments, timeout_s=STARTED_S)

    def _send(self, process: subprocess.Popen[bytes], program: bytes) -> None:
        def write() -> None:
            # Ends early when the container does.
            with contextlib.suppress(OSError, ValueError):
                if process.stdin is not None:
                    process.stdin.write(program)
                    process.stdin.flush()

        threading.Thread(target=write, name="program", daemon=True).start()

    def _wait_until_started(self, engine: Engine, process: subprocess.Popen[bytes]) -> None:
        deadline = Deadline(STARTED_S)
        while True:
            has_ended = process.poll() is not None
            state = self._state()
            if not str(state.get("StartedAt") or _NOT_STARTED).startswith(_NOT_STARTED):
                self._first_pid = int(state.get("Pid") or 0)
                return
            if has_ended or deadline.left_s() == 0:
                raise self._not_started(engine, process, has_ended=has_ended)
            time.sleep(_POLL_S)

    def _not_started(
        self, engine: Engine, process: subprocess.Popen[bytes], *, has_ended: bool
    ) -> StageFailed:
        said = ""
        if has_ended and process.stderr is not None:
            said = last_words(process.stderr.read().decode("utf-8", "replace"))
        hint = " (commands need an image that has sh)" if '"sh"' in said else ""
        words = said or f"{engine.name} did not say why"
        return StageFailed(START, f"cannot start {self._image}: {words}{hint}")

    def _state(self) -> dict[str, Any]:
        found = self._ready_engine().inspect("container", self._id) if self._id else None
        state = (found or {}).get("State")
        return state if isinstance(state, dict) else {}

    def _remove_leftovers(self, engine: Engine) -> None:
        listed = engine.containers(f"label={label_of(self._base_dir)}")
        named = engine.containers(f"name=^{self._name}$")
        left = sorted({*listed.out.split(), *named.out.split()})
        if left:
            self._say(f"image: removing {len(left)} container(s) of an earlier run")
            self._remove(engine, left)

    def _remove(self, engine: Engine, containers: list[str]) -> None:
        # Podman's `rm --force` alone is patient first.
        engine.run("kill", "--signal", "SIGKILL", *containers, timeout_s=REMOVED_S)
        said = engine.run("rm", "--force", "--volumes", *containers, timeout_s=REMOVED_S)
        if said.code != 0:
            self._say(f"image: cannot remove the container: {last_words(said.err)}")


def _may_have_init(engine: Engine) -> bool:
    """Podman says at once that it has none; Docker only when the container starts."""
    if not engine.is_docker or not sys.platform.startswith("linux"):
        return True
    return any(shutil.which(program) or os.path.exists(program) for program in _INIT_PROGRAMS)
