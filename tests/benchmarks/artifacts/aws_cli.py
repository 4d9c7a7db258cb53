"""The AWS CLI, in an environment of its own. Law: installed from the package index that this computer is
configured with, once; nothing of the project sees it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

PLACE = Path(tempfile.gettempdir()) / f"dstackd-bench-awscli-{os.getuid()}"
INSTALL_S = 300


class NoCliError(Exception):
    """It cannot be had here; the text says why."""


def aws_cli() -> Path:
    """The program. Raises NoCliError."""
    program = PLACE / "bin" / "aws"
    if program.exists():
        return program
    for command in (
        [sys.executable, "-m", "venv", str(PLACE)],
        [str(PLACE / "bin" / "python"), "-m", "pip", "install", "--quiet", "awscli"],
    ):
        try:
            subprocess.run(command, check=True, timeout=INSTALL_S, stdout=sys.stderr)
        except (OSError, subprocess.SubprocessError) as error:
            raise NoCliError(f"{' '.join(command)}: {error}") from error
    return program
