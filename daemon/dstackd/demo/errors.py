"""Why a demo ends early. Law: messages for the person who watches; no cause is hidden in them."""

from __future__ import annotations


class DemoError(Exception):
    """The demo cannot go on; the text says what was missing."""
