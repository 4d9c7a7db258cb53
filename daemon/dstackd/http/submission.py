"""A job as it comes over the API. Law: all errors at once, and nothing is inserted unless the row would be accepted as it is
by intake: what a submitter hears here is what intake would write into the row later.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from dstackd.http.responses import Refusal
from dstackd.spec.errors import FieldError, SpecError
from dstackd.spec.parse import parse_spec_json

# The CHECKs of table job.
PROJECT_CHARS_MAX = 64
PRIORITY_MAX = 1000

_FIELDS = ("spec", "project", "priority")


@dataclass(frozen=True, slots=True)
class Submitted:
    """Columns for the row; None: the database's default."""

    spec: str
    project: str | None
    priority: int | None


def read_submission(body: dict[str, object]) -> Submitted:
    """The body of POST /v1/jobs. Raises Refusal 422 with each field that is wrong."""
    spec, errors = _read_spec(body)
    project, priority = body.get("project"), body.get("priority")
    errors += [
        FieldError(name, "is not a field of a submission", f"use {', '.join(_FIELDS)} only")
        for name in body
        if name not in _FIELDS
    ]
    if not (project is None or _is_project(project)):
        fix = f"write 1 to {PROJECT_CHARS_MAX} characters"
        errors.append(FieldError("project", "is not the name of a project", fix))
    if not (priority is None or _is_priority(priority)):
        fix = f"write a whole number from {-PRIORITY_MAX} to {PRIORITY_MAX}"
        errors.append(FieldError("priority", "is not a priority", fix))
    if errors:
        message = "\n".join(error.sentence for error in errors[:20])
        raise Refusal(422, "bad_job", message, fields=errors)
    return Submitted(
        spec=spec,
        project=project if isinstance(project, str) else None,
        priority=priority if isinstance(priority, int) else None,
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


def _is_project(value: object) -> bool:
    return (
        isinstance(value, str)
        and 1 <= len(value) <= PROJECT_CHARS_MAX
        and not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value)
    )


def _is_priority(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int):
        return False
    return -PRIORITY_MAX <= value <= PRIORITY_MAX
