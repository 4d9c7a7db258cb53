"""The environment of the processes that the demo starts. Law: what the caller configured for other purposes stays out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_SOURCE_ROOT: Final = Path(__file__).resolve().parents[2]
_LEFT_OUT: Final = ("AWS_", "DSTACKD_", "NOTIFY_", "WATCHDOG_")


def outside_environment() -> dict[str, str]:
    """The caller's variables without those that would configure dstackd or AWS, or a proxy."""
    return {
        name: text
        for name, text in os.environ.items()
        if not name.startswith(_LEFT_OUT) and not name.lower().endswith("_proxy")
    }


def dstackd_environment() -> dict[str, str]:
    """The same, and the place of this installation."""
    path = [str(_SOURCE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**outside_environment(), "PYTHONPATH": os.pathsep.join(path)}
