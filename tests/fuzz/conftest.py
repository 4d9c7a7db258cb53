"""Fixtures of other folders that are wanted here too."""

from __future__ import annotations

from tests.controllers.conftest import quiet, template, world

__all__ = ["quiet", "template", "world"]
