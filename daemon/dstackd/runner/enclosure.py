"""What the commands run in. Law: whatever they start is inside, and SIGKILL ends all of it.

`direct.py` is the machine itself, `container.py` a container; `job.py` knows neither.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from typing import Protocol


class Enclosure(Protocol):
    """One run of the commands; `start` comes first, and once."""

    def start(
        self, script_path: str, *, working_dir: str, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """The process whose end is the end of the commands: stdout and stderr are pipes, standard
        input is empty, the session is its own. Raises OSError, ValueError, StageFailed.
        """

    def ended_with(self, status: int) -> int:
        """What the commands ended with, now that their process ended with this; -n for signal n."""

    def signal(self, number: int) -> None:
        """To everything inside; no error when nothing is left."""

    def lives(self) -> bool:
        """Whether anything inside still runs."""

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel killed something inside for memory."""

    def close(self) -> None:
        """Nothing of it is left afterwards: processes, cgroup, container. May be called twice."""
