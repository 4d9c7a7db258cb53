"""A job as it comes over the API. Law: all errors at once, and nothing is inserted unless the row would be accepted as it is
by intake: what a submitter hears here is what intake would write into the row later.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from dstackd.http.responses import Refusal
from dstackd.spec.errors import FieldError, SpecError
from dstackd.spec.parse import parse_spec_json

# The CHECKs of table job.
PROJECT_CHARS_MAX = 64
PRIORITY_MAX = 1000
UNIQUE_KEY_CHARS_MAX = 200
FIRST_YEAR = 1970

_FIELDS = ("spec", "project", "priority", "unique_key", "run_at")


@dataclass(frozen=True, slots=True)
class Submitted:
    """Columns for the row; None: the database's default."""

    spec: str
    project: str | None
    priority: int | None
    unique_key: str | None
    run_at: str | None
    """ISO 8601 in UTC."""


def read_submission(body: dict[str, object]) -> Submitted:
    """The body of POST /v1/jobs. Raises Refusal 422 with each field that is wrong."""
    spec, errors = _read_spec(body)
    project, priority = body.get("project"), body.get("priority")
    errors += [
        FieldError(name, "is not a field of a submission", f"use {', '.join(_FIELDS)} only")
        for name in body
        if name not in _FIELDS
    ]
    if not (project is None or _is_text(project, chars_max=PROJECT_CHARS_MAX)):
        fix = f"write 1 to {PROJECT_CHARS_MAX} characters"
        errors.append(FieldError("project", "is not the name of a project", fix))
    if not (priority is None or _is_priority(priority)):
        fix = f"write a whole number from {-PRIORITY_MAX} to {PRIORITY_MAX}"
        errors.append(FieldError("priority", "is not a priority", fix))
    unique_key = body.get("unique_key")
    if not (unique_key is None or _is_text(unique_key, chars_max=UNIQUE_KEY_CHARS_MAX)):
        fix = f"write 1 to {UNIQUE_KEY_CHARS_MAX} characters"
        errors.append(FieldError("unique_key", "is not a key", fix))
    run_at = None if body.get("run_at") is None else _utc(body["run_at"])
    if run_at == "":
        fix = "write ISO 8601 such as 2027-01-31T06:00:00Z, from 1970 on"
        errors.append(FieldError("run_at", "is not a time", fix))
    if errors:
        message = "\n".join(error.sentence for error in errors[:20])
        raise Refusal(422, "bad_job", message, fields=errors)
    return Submitted(
        spec=spec,
        project=project if isinstance(project, str) else None,
        priority=priority if isinstance(priority, int) else None,
        unique_key=unique_key if isinstance(unique_key, str) else None,
        run_at=run_at,
    )


def _read_spec(body: dict[str, object]) -> tuple[str, list[FieldError]]:
    if "spec" not in body:
        fix = 'send {"spec": {"commands": ["echo hello"]}}'
        return "", [FieldError("spec", "is missing", fix)]
    written = json.dumps(body["spec"], ensure_ascii=False, separators=(",", ":"))
    try:
        written.encode()
        parse_spec_json(written)
    except UnicodeEncodeError:
        problem = "holds half of a surrogate pair, which no UTF-8 text can"
        return "", [FieldError("spec", problem, "send whole characters")]
    except SpecError as error:
        return "", list(error.errors)
    return written, []


def _utc(value: object) -> str:
    """ISO 8601 in UTC, which a time without an offset is in already; empty for what is not a time."""
    try:
        if not isinstance(value, str) or len(value) < len("2027-01-31"):
            return ""
        moment = datetime.fromisoformat(value)
        moment = moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        return ""
    return moment.isoformat(timespec="milliseconds") if moment.year >= FIRST_YEAR else ""


def _is_text(value: object, *, chars_max: int) -> bool:
    return (
        isinstance(value, str)
        and 1 <= len(value) <= chars_max
        and not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value)
    )


def _is_priority(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int):
        return False
    return -PRIORITY_MAX <= value <= PRIORITY_MAX
