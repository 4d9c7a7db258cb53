"""Rows as the API shows them. Law: columns by their own names; JSON columns as JSON, 0 and 1 as false and true.

What another application wrote is shown as it is, however odd: one row never breaks a page.
"""

from __future__ import annotations

import json
from typing import Any

Row = dict[str, Any]


def job_json(row: Row) -> Row:
    """A job, with its spec as a JSON value where the row has it."""
    shown = {**row, "cancel_requested": bool(row["cancel_requested"])}
    if "spec" in row:
        shown["spec"] = _json_or_text(row["spec"])
    return shown


def schedule_json(row: Row) -> Row:
    """A schedule, with its spec as a JSON value."""
    return {**row, "enabled": bool(row["enabled"]), "spec": _json_or_text(row["spec"])}


def event_json(row: Row) -> Row:
    """An event, with its detail as a JSON value."""
    return {**row, "detail": _json_or_text(row["detail"])}


def _json_or_text(written: str) -> object:
    """The value; the text itself when Python cannot hold it, or could not write it again (too deep, too long a number, one that
    JSON has not: `1e999` is infinite for Python).
    """
    try:
        value = json.loads(written)
        json.dumps([[[[value]]]], allow_nan=False)
    except (ValueError, RecursionError):
        return written
    return value
