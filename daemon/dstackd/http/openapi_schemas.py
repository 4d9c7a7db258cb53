"""What goes in and out, as JSON Schemas. Law: rows are read off the tables; a reader passes over what it does not know.

Tests close each object, so that a field which is not here fails, and hold real answers to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dstackd.core.phase import Phase
from dstackd.http.submission import PRIORITY_MAX, PROJECT_CHARS_MAX, UNIQUE_KEY_CHARS_MAX
from dstackd.spec.limits import SPEC_BYTES_MAX
from dstackd.store import shapes

Schema = Mapping[str, Any]

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_NUMBER: Schema = {"type": "number"}
_FLAG: Schema = {"type": "boolean"}
_PHASE: Schema = {"type": "string", "enum": [str(phase) for phase in Phase]}
_SHA256: Schema = {"type": "string"}


def _maybe(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _list(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def _of(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Mapping[str, Schema], *, optional: Sequence[str] = ()) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": dict(properties), "required": required}


def _job(columns: Mapping[str, Schema], **more: Schema) -> Schema:
    return _object({**columns, "cancel_requested": _FLAG, "phase": _PHASE, **more})


_FIELD = _object({"field": _TEXT, "problem": _TEXT, "fix": _TEXT})
_FILE = _object(
    {
        "path": _TEXT,
        "size": {"type": "integer"},
        "sha256": _SHA256,
        "mode": {"type": "integer"},
        "attempt": _COUNT,
    },
    optional=("attempt",),
)
_SET: dict[str, Schema] = {"attempt": _COUNT, "verdict": _TEXT, "sealed": _FLAG}
_AT: dict[str, Schema] = {"attempt": _COUNT, "n": _COUNT}
_OFFERING = _object(
    {
        **dict.fromkeys(("instance_type", "zone", "subnet", "market"), _TEXT),
        **dict.fromkeys(("price_usd_h", "memory_gib"), _NUMBER),
        "estimated": _FLAG,
        "vcpus": _COUNT,
        "gpu": _maybe(_object({"name": _TEXT, "count": _COUNT})),
        "blocked": _maybe(_object({"until_ms": _COUNT, "reason": _TEXT})),
    }
)
_END = _object(
    {
        "phase": _PHASE,
        "reason": _maybe(_TEXT),
        "message": _TEXT,
        "exit_code": _maybe({"type": "integer"}),
        "lines": _COUNT,
        "missing": _maybe(_COUNT),
        "verdicts": {"type": "object", "additionalProperties": _TEXT},
    }
)
_OWNED = _object(
    {
        **dict.fromkeys(("instance_id", "standing", "why", "owner", "state"), _TEXT),
        **dict.fromkeys(("instance_type", "market", "zone", "launch_id"), _TEXT),
        "launched_at_ms": _COUNT,
        **dict.fromkeys(("price_usd_h", "cost_usd"), _maybe(_NUMBER)),
        "job_id": _maybe(_TEXT),
        **dict.fromkeys(("attempt", "idle_until_ms", "since_ms"), _maybe(_COUNT)),
    }
)
_NEED = _object({**dict.fromkeys(("id", "on"), _TEXT), "phase": _maybe(_PHASE)})
_WAITING = _object({"text": _TEXT, "since_ms": _maybe(_COUNT), "reason": _TEXT})
_STEP = _object(
    {
        **dict.fromkeys(("text", "bound"), _TEXT),
        "at_ms": _maybe(_COUNT),
        "value_s": _maybe(_NUMBER),
        "phase": _maybe(_PHASE),
        "reason": _maybe(_TEXT),
    }
)
_BOUND = _object(
    {
        **dict.fromkeys(("key", "unit"), _TEXT),
        **dict.fromkeys(("limit", "used", "wanted", "reserved"), _NUMBER),
    }
)
_QUEUE = _object(
    {
        "waits": _maybe(
            _object(
                {
                    "phase": _maybe(_PHASE),
                    **dict.fromkeys(("reason", "message"), _TEXT),
                    "retry_s": _maybe(_NUMBER),
                }
            )
        ),
        "offerings": _list(
            _object(
                {
                    **dict.fromkeys(("instance_type", "market", "zone", "why"), _TEXT),
                    "price_usd_h": _NUMBER,
                    "closed_until_ms": _maybe(_COUNT),
                }
            )
        ),
        **dict.fromkeys(("offerings_total", "open_total", "too_dear"), _COUNT),
        "would_get": _TEXT,
        "bounds": _list(_BOUND),
        "ahead": _list(_object({"count": _COUNT, "why": _TEXT})),
        "ahead_complete": _FLAG,
        "idle": _list(
            _object(
                {
                    **dict.fromkeys(("instance_id", "instance_type", "why_not"), _TEXT),
                    "until_ms": _COUNT,
                }
            )
        ),
    }
)
_EXPLAINED_JOB = (
    *("id", "name", "project", "priority", "submitted_at_ms", "finished_at_ms", "exit_code"),
    *("cost_usd", "array_parent", "array_index"),
)
_REQUEST = _object(
    {"id": _TEXT, "launch_id": _TEXT, "marked_since_ms": _maybe(_COUNT), "confirmed": _FLAG}
)
_CHECK = _object(
    {
        **dict.fromkeys(("componentId", "componentType", "observedUnit", "output"), _TEXT),
        "status": {"enum": ["pass", "warn", "fail"]},
        "observedValue": {},
        **dict.fromkeys(("passes", "failures"), _COUNT),
        **dict.fromkeys(("lastSuccessAtMs", "lastErrorAtMs"), _maybe(_COUNT)),
        "lastErrorCode": _TEXT,
        "errors": {"type": "object", "additionalProperties": _COUNT},
    },
    optional=(
        *("output", "passes", "failures", "lastSuccessAtMs", "lastErrorAtMs"),
        *("lastErrorCode", "errors"),
    ),
)

SCHEMAS: dict[str, Schema] = {
    "Error": _object(
        {"error": _object({"code": _TEXT, "message": _TEXT, "fields": _list(_FIELD)})}
    ),
    "Text": _TEXT,
    "Bytes": {},
    "Document": {"type": "object"},
    "Health": _object(
        {
            "status": {"enum": ["pass", "warn", "fail"]},
            "releaseId": _TEXT,
            "checks": {"type": "object", "additionalProperties": _list(_CHECK)},
        }
    ),
    "Version": _object({"version": _TEXT, "api": _COUNT, "python": _TEXT}),
    "Submission": {
        **_object(
            {
                "spec": {
                    "type": "object",
                    "description": f"A job; config/job.example.yaml explains every field. {SPEC_BYTES_MAX} bytes at most.",
                },
                "project": _maybe(
                    {"type": "string", "minLength": 1, "maxLength": PROJECT_CHARS_MAX}
                ),
                "priority": _maybe(
                    {"type": "integer", "minimum": -PRIORITY_MAX, "maximum": PRIORITY_MAX}
                ),
                "unique_key": _maybe(
                    {"type": "string", "minLength": 1, "maxLength": UNIQUE_KEY_CHARS_MAX}
                ),
                "run_at": _maybe({"type": "string", "description": "ISO 8601"}),
            },
            optional=("project", "priority", "unique_key", "run_at"),
        ),
        "additionalProperties": False,
        "examples": [{"spec": {"commands": ["echo hello"]}}],
    },
    "Submitted": _object({"id": _TEXT, "existing": _FLAG}),
    "JobPage": _object(
        {"jobs": _list(_job(shapes.listed_columns())), "next_before": _maybe(_COUNT)}
    ),
    "JobDescription": _object(
        {
            "job": _job(shapes.job_columns(), spec={}),
            "attempts": _list(_object(shapes.attempt_columns())),
            "events": _list(_object({**shapes.event_columns(), "detail": {}})),
            "elements": _list(_TEXT),
            "needs": _list(_NEED),
        }
    ),
    "Explained": _object(
        {
            "job": _object(
                {
                    name: column
                    for name, column in shapes.job_columns().items()
                    if name in _EXPLAINED_JOB
                }
            ),
            "now_ms": _COUNT,
            "phase": _PHASE,
            "since_ms": _COUNT,
            "reason": _maybe(_TEXT),
            "message": _TEXT,
            "waits_for": _list(_WAITING),
            "next_steps": _list(_STEP),
            **dict.fromkeys(("retries", "advice"), _list(_TEXT)),
            "queue": _maybe(_QUEUE),
            "attempts": _list(_object(shapes.attempt_columns())),
            "events": _list(_object({**shapes.event_columns(), "detail": {}})),
        }
    ),
    "Stopping": _object({"id": _TEXT, "phase": _PHASE, "stopping": _FLAG}),
    "LogLine": {
        "anyOf": [
            _object({**_AT, "at_ms": {"type": "integer"}, "source": _TEXT, "log": _TEXT}),
            _object({**_AT, "missing": _COUNT}),
            _object({"end": _END}),
        ]
    },
    "Artifacts": _object({**_SET, "files": _list(_FILE)}),
    "VerifyLine": {
        "anyOf": [
            _object({**_SET, "files": _COUNT, "bytes": {"type": "integer"}}),
            _object({"path": _TEXT, "problem": _TEXT}),
            _object({"checked": _COUNT}),
            _object({"done": _FLAG, "checked": _COUNT, "problems": _COUNT, "read_bytes": _COUNT}),
            _object({"error": _TEXT}),
        ]
    },
    "Plan": _object(
        {
            "offerings": _list(_OFFERING),
            "first": _maybe(_COUNT),
            "why_none": _maybe(_TEXT),
            "total": _COUNT,
            "needs": _list(_NEED),
        }
    ),
    "Schedules": _object(
        {"schedules": _list(_object({**shapes.schedule_columns(), "enabled": _FLAG, "spec": {}}))}
    ),
    "ReapView": _object(
        {
            "taken_at_ms": _COUNT,
            "machines": _list(_OWNED),
            "spot_requests": _list(_REQUEST),
            "to_reap": _COUNT,
        }
    ),
    "Reaped": _object(
        dict.fromkeys(("terminated", "marked", "cancelled", "marked_requests"), _list(_TEXT))
    ),
    "Machines": _object({"machines": _list(_object(shapes.machine_columns()))}),
}
"""By name, as `endpoints` names them."""
