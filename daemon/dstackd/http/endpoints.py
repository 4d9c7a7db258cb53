"""THE table of what the API answers. Law: every route has its line here, and the OpenAPI document is made of nothing else.

A test compares it with the application's routes, and real answers with the schemas that a line names (`openapi_schemas`).
"""

from __future__ import annotations

from dataclasses import dataclass

from dstackd.http.asked import WHOLE_MAX
from dstackd.http.openapi_schemas import Schema

JSON = "application/json"
LINES = "application/x-ndjson"
BYTES = "application/octet-stream"
TEXT = "text/plain"
HEALTH = "application/health+json"


@dataclass(frozen=True, slots=True)
class Query:
    """A parameter behind the question mark."""

    name: str
    schema: Schema
    meaning: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One line. `answer` is the name of a schema; of each line, where `media` is LINES."""

    method: str
    path: str
    summary: str
    answer: str
    media: str = JSON
    status: int = 200
    also: tuple[int, ...] = ()
    """Other statuses of the same answer."""
    query: tuple[Query, ...] = ()
    body: str = ""
    """The name of the schema of what is sent; empty: nothing is."""
    refuses: tuple[int, ...] = ()
    """Statuses beside those that follow from the path, the query and the body."""

    @property
    def is_public(self) -> bool:
        """Whether it is also on TCP."""
        return not self.path.startswith("/v1/")

    @property
    def refusals(self) -> tuple[int, ...]:
        """Every status of an error that it may have."""
        found = set(self.refuses) | ({421} if self.is_public else {503})
        if "{job}" in self.path:
            found |= {404, 409}
        if self.body:
            found |= {400, 413, 422}
        if any(set(each.schema) - {"type"} for each in self.query):
            found.add(400)
        return tuple(sorted(found))


_SWITCH: Schema = {"type": "string", "enum": ["0", "1", "false", "true"], "default": "0"}
_WHOLE: Schema = {"type": "integer", "minimum": 0, "maximum": WHOLE_MAX}
_NUMBER: Schema = {**_WHOLE, "minimum": 1}
_TEXT: Schema = {"type": "string"}

_VERBOSE = Query("verbose", _TEXT, "List the checks, whatever its value.")
_ATTEMPT = Query("attempt", _NUMBER, "Else the newest that has artifacts.")
_PAGE = (
    Query("all", _SWITCH, "Also jobs that have ended."),
    Query(
        "limit", {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}, "Jobs a page."
    ),
    Query("before", _WHOLE, "`next_before` of the page before."),
)
_LOGS = (
    Query(
        "attempt",
        {"anyOf": [{"type": "string", "enum": ["all"]}, _NUMBER], "default": "all"},
        "Only this attempt.",
    ),
    Query("follow", _SWITCH, "Go on until the job is over."),
    Query(
        "after",
        {"type": "string", "pattern": "^([1-9][0-9]{0,14}:)?[0-9]{1,15}$", "default": "0"},
        "Begin behind line N of the attempt, or `A:N`: behind line N of attempt A.",
    ),
)
_LIST = (_ATTEMPT, Query("as_they_are", _TEXT, "Whatever its value: each object as it is now."))
_PATH = Query("path", {"type": "string", "minLength": 0}, "As the list has it.", required=True)

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "get", "/livez", "Whether every loop turns", "Text", TEXT, query=(_VERBOSE,), refuses=(503,)
    ),
    Endpoint(
        "get", "/readyz", "Whether it can work", "Text", TEXT, query=(_VERBOSE,), refuses=(503,)
    ),
    Endpoint("get", "/healthz", "How each part is", "Health", HEALTH, refuses=(503,)),
    Endpoint("get", "/metrics", "Samples for Prometheus", "Text", TEXT),
    Endpoint("get", "/v1/openapi.json", "This document", "Document"),
    Endpoint("get", "/v1/version", "Who answers", "Version"),
    Endpoint(
        "post", "/v1/jobs", "Submit a job", "Submitted", status=201, also=(200,), body="Submission"
    ),
    Endpoint("get", "/v1/jobs", "Jobs, newest first", "JobPage", query=_PAGE),
    Endpoint("get", "/v1/jobs/{job}", "All about a job", "JobDescription"),
    Endpoint("get", "/v1/jobs/{job}/explain", "Why a job is where it is", "Explained"),
    Endpoint("post", "/v1/jobs/{job}/stop", "Ask a job to stop", "Stopping"),
    Endpoint("get", "/v1/jobs/{job}/logs", "What it has written", "LogLine", LINES, query=_LOGS),
    Endpoint(
        "get",
        "/v1/jobs/{job}/artifacts",
        "What it has left",
        "Artifacts",
        query=_LIST,
        refuses=(502,),
    ),
    Endpoint(
        *("get", "/v1/jobs/{job}/artifacts/content", "A file of it", "Bytes", BYTES),
        query=(_PATH, _ATTEMPT),
        refuses=(502,),
    ),
    Endpoint(
        *(
            "get",
            "/v1/jobs/{job}/artifacts/verify",
            "Compare it with its list",
            "VerifyLine",
            LINES,
        ),
        query=(_ATTEMPT,),
        refuses=(502,),
    ),
    Endpoint("post", "/v1/plan", "What it would run on", "Plan", body="Submission", refuses=(502,)),
    Endpoint("get", "/v1/schedules", "Jobs by the clock", "Schedules"),
    Endpoint("get", "/v1/machines", "Machines not seen gone yet", "Machines"),
    Endpoint(
        *("get", "/v1/machines/reap", "Every machine of the bucket, and what would be reaped"),
        *("ReapView",),
        refuses=(502,),
    ),
    Endpoint(
        *("post", "/v1/machines/reap", "Terminate what two looks call an orphan", "Reaped"),
        refuses=(502, 503),
    ),
)
