"""The container of a machine that ends: its engine is this person's, and no process of the machine's.

Law: standard library only, light to import. Ends only the container that the machine's own runner has noted.
"""

import contextlib
import os
import time
from collections.abc import Mapping

NOTE = "dstackd/container"
"""`ENGINE NAME`, written by the runner before it makes the container, and gone when that is."""
_PREFIX = "dstackd-"
_TIMEOUT_S = 20.0
_TRIES = 4
_PAUSE_S = 0.2


def end_container(directory: str, environ: Mapping[str, str]) -> None:
    """Kill and remove it, if the machine in `directory` has one. `environ`: where the engine is; its HOME is
    not asked, but that of the user.
    """
    path = f"{directory}/{NOTE}"
    try:
        with open(path, encoding="utf-8", errors="replace") as note:  # noqa: PTH123  pathlib costs 10 ms
            engine, _, name = note.read().strip().partition(" ")
    except OSError:
        return
    if engine in {"docker", "podman"} and name.startswith(_PREFIX):
        # Who ends the machine meanwhile in another thread may end the engine's program, too.
        for left in reversed(range(_TRIES)):
            if _remove(engine, name, environ) or not left:
                break
            time.sleep(_PAUSE_S)
    with contextlib.suppress(OSError):
        os.unlink(path)  # noqa: PTH108


def _remove(engine: str, name: str, environ: Mapping[str, str]) -> bool:
    """Whether the engine says that there is no such container any more."""
    import pwd  # noqa: PLC0415  few machines have a container
    import subprocess  # noqa: PLC0415

    removed = False
    seen = {**environ, "HOME": pwd.getpwuid(os.getuid()).pw_dir}
    # Podman's `rm --force` alone is patient first.
    for words in (("kill", "--signal", "SIGKILL"), ("rm", "--force", "--volumes")):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(
                [engine, *words, name],
                env=seen,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
            removed = done.returncode == 0
    return removed
