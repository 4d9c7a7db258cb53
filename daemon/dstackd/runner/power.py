"""The machine's end. Law: never powers off a computer that is not one of our machines."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping

LOCAL_VARIABLE = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
"""Set where the metadata service is not the real one: the cloud on this machine, or a person who
tries the runner. There `shutdown` must be a stand-in, which no system folder holds."""

FALLBACK = "/sbin/shutdown"
_SYSTEM_DIRS = ("/bin/", "/sbin/", "/usr/")
TIMEOUT_S = 30.0


def is_played(environ: Mapping[str, str]) -> bool:
    """Whether this computer only plays a machine."""
    return bool(environ.get(LOCAL_VARIABLE))


def is_ours(environ: Mapping[str, str]) -> bool:
    """Whether this is a machine that was launched for jobs, and the runner may change it."""
    return not is_played(environ) and os.geteuid() == 0


def shutdown_command(environ: Mapping[str, str]) -> str | None:
    """The program that ends this machine; None when there must be none."""
    found = shutil.which("shutdown", path=environ.get("PATH"))
    if not is_played(environ):
        return found or FALLBACK
    return None if found is None or found.startswith(_SYSTEM_DIRS) else found


def power_off(environ: Mapping[str, str]) -> bool:
    """Ask for the machine's end; the instance then terminates, because it was launched so."""
    command = shutdown_command(environ)
    if command is None:
        return False
    try:
        return (
            subprocess.run([command, "-h", "now"], timeout=TIMEOUT_S, check=False).returncode == 0
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
