"""The commands on the machine itself. Law: they begin with their account's rights, inside their set of
processes, or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import marshal
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from dstackd.runner.account import Account
from dstackd.runner.processes import Processes, send
from dstackd.runner.trampoline import READY

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
"""Where `dstackd` is imported from: a folder, or the zipapp."""
_TRAMPOLINE = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from dstackd.runner.trampoline import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)
_INTERPRETER_OPTIONS = ("-I", "-S", "-X", "utf8", "-c")
"""Nothing from the environment or the site is heard: for a moment this is root."""


def shell_command(script_path: str) -> list[str]:
    """What runs the script: the first command that fails ends it, as does a pipe of which any part
    failed. Without bash there is no such rule for pipes.
    """
    bash = shutil.which("bash")
    return [bash, "-eo", "pipefail", script_path] if bash else ["/bin/sh", "-e", script_path]


class Direct:
    """The enclosure (`enclosure.py`) that is the machine itself."""

    def __init__(
        self,
        *,
        account: Account,
        gather: Callable[[], Processes],
        no_new_privs: bool,
        say: Callable[[str], None],
    ) -> None:
        """`gather`: makes the set that the commands start in. `no_new_privs`: no program may give
        them more rights, sudo neither.
        """
        self._account = account
        self._gather = gather
        self._processes: Processes | None = None
        self._no_new_privs = no_new_privs
        self._say = say

    def start(
        self, script_path: str, *, working_dir: str, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Returns when the shell has taken over from the trampoline. Raises OSError, ValueError."""
        plan = {
            "uid": self._account.uid if self._account.is_other else None,
            "gid": self._account.gid,
            "groups": self._account.groups,
            "no_new_privs": self._no_new_privs,
            "working_dir": working_dir,
            "argv": shell_command(script_path),
            "environment": _checked(environment),
        }
        self._processes = processes = self._gather()
        plan_out, plan_in = os.pipe()
        error_out, error_in = os.pipe()
        with os.fdopen(plan_in, "wb") as plan_pipe, os.fdopen(error_out, "rb") as error_pipe:
            try:
                process = _spawn(plan_out, error_in)
                processes.began(process.pid)
            finally:
                os.close(plan_out)
                os.close(error_in)
            try:
                _hand_over({**plan, "join": processes.join}, plan_pipe, error_pipe)
            except OSError:
                process.communicate()
                raise
        return process

    def signal(self, number: int) -> None:
        if self._processes is None:
            return
        if number != signal.SIGKILL:
            send(self._processes.pids(), number)
        elif not self._processes.kill():
            self._say(f"confine: SIGKILL did not end {self._processes.pids()}")

    def lives(self) -> bool:
        return self._processes is not None and bool(self._processes.pids())

    def ended_with(self, status: int) -> int:
        return status

    def ran_out_of_memory(self) -> bool:
        return self._processes is not None and self._processes.ran_out_of_memory()

    def close(self) -> None:
        self.signal(signal.SIGKILL)
        if self._processes is not None:
            self._processes.remove()


def _spawn(plan_out: int, error_in: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            *(sys.executable, *_INTERPRETER_OPTIONS),
            *(_TRAMPOLINE, _ROOT, str(plan_out), str(error_in)),
        ],
        cwd="/",
        env={},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(plan_out, error_in),
        start_new_session=True,
    )


def _hand_over(plan: dict[str, Any], plan_pipe: BinaryIO, error_pipe: BinaryIO) -> None:
    """Tell the plan, and wait until the trampoline is the shell. Raises OSError."""
    # A trampoline that died before it read says why, or nothing, on the other pipe.
    with contextlib.suppress(BrokenPipeError), plan_pipe:
        plan_pipe.write(marshal.dumps(plan))
    said = error_pipe.read()
    if said == READY:
        return
    if not said.strip(READY):
        raise OSError(errno.ECHILD, "the process that was to become the shell ended before it did")
    number, _, text = said.lstrip(READY).decode("utf-8", "replace").partition(" ")
    raise OSError(int(number), text)


def _checked(environment: Mapping[str, str]) -> dict[str, str]:
    """Raises ValueError for what cannot be in an environment."""
    for name, value in environment.items():
        if "\0" in name or "\0" in value or "=" in name or not name:
            raise ValueError(f"{name!r} cannot be an environment variable")
    return dict(environment)
