"""Programs that tests need and a machine may lack. Law: where `.ci/run` has installed them, to miss one is a failure."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skip; fail where TESTS_TOOLS says that everything is there."""
    if os.environ.get("TESTS_TOOLS") == "required":
        pytest.fail(reason)
    pytest.skip(reason)
