"""From the runner to the commands' shell. Law: runs in a process of its own that ends as the shell; what
cannot be done is told, and nothing is run instead.

A program of its own, not code between fork and exec: the runner has threads, and what a fork copies
of them (locks, above all) must not be leant on. It is started without the job's variables, because
as long as it is root a LD_PRELOAD of the job's must not be heard. It imports little, as each start waits for it:
neither `json` nor `typing`, which take longer than all the rest.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import signal
import sys

PR_SET_NO_NEW_PRIVS = 38
"""linux/prctl.h. From then on no program gives its user more rights: sudo and setuid do not work."""
OOM_SCORE_ADJ = "500"
"""Where no cgroup bounds the job's memory, the kernel is to kill the job, not the runner."""
READY = b"+"
"""All is done but the last step; whoever reads this and then the end of the pipe knows that the shell
runs. An end without it is a trampoline that broke."""
FAILED = 127
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


def main(plan_fd: int, error_fd: int) -> None:
    """Read the plan, become the shell; or say why not on `error_fd`, which the shell never sees."""
    os.set_inheritable(error_fd, False)  # noqa: FBT003 - the standard library's way
    try:
        with os.fdopen(plan_fd, "rb") as pipe:
            plan = marshal.loads(pipe.read())  # noqa: S302 - the runner's words
        _join(plan["join"])
        if plan["uid"] is not None:
            _become(plan["uid"], gid=plan["gid"], groups=plan["groups"])
        if plan["no_new_privs"]:
            _give_up_privileges()
        # As the user: what it must not enter, it does not get as its working directory either.
        os.chdir(plan["working_dir"])
        os.umask(0o022)
        for number in _IGNORED_BY_PYTHON:
            signal.signal(number, signal.SIG_DFL)
        os.write(error_fd, READY)
        os.execve(plan["argv"][0], plan["argv"], plan["environment"])  # noqa: S606 - it is one
    except BaseException as error:  # noqa: BLE001 - there is nobody else to tell
        os.write(error_fd, _described(error).encode("utf-8", "replace"))
        os._exit(FAILED)


def _described(error: BaseException) -> str:
    """The number of the error, a space, and what was wrong."""
    if not isinstance(error, OSError) or error.errno is None:
        return f"0 {error!r}"
    where = f": {error.filename}" if error.filename else ""
    return f"{error.errno} {error.strerror}{where}"


def _join(paths: list[str]) -> None:
    for path in paths:
        _write(path, str(os.getpid()))
    try:
        _write("/proc/self/oom_score_adj", OOM_SCORE_ADJ)
    except OSError:
        return  # not Linux, or a /proc that is read-only


def _become(uid: int, *, gid: int, groups: list[int]) -> None:
    os.setgroups(groups)
    os.setgid(gid)
    os.setuid(uid)


def _give_up_privileges() -> None:
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_NO_NEW_PRIVS): {os.strerror(number)}")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
