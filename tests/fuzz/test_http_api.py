"""The HTTP API against requests that schemathesis makes from its own document, good and bad ones, over the real socket.

Each call has a server of its own, with one of everything. What is looked at: no status that is not documented and none that is a
bug (500) or a lack (503), the type of the content, and the fields of it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.specs.openapi.checks import unsupported_method

from dstackd.http.endpoints import ENDPOINTS, Endpoint
from dstackd.http.openapi import document
from tests.fuzz.unix_requests import BASE_URL, session
from tests.http.test_openapi import a_full_world

TIMEOUT_S = 10.0
EXAMPLES = 40
"""A mode; about two seconds a call."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]


@contextmanager
def serving() -> Iterator[tuple[Path, str]]:
    """A server in a thread of its own: its socket, and the id of its job."""
    found: list[tuple[Path, str]] = []
    ready, over = threading.Event(), threading.Event()

    async def serve() -> None:
        async with a_full_world() as (world, job_id):
            assert world.listening.socket_path is not None
            found.append((world.listening.socket_path, job_id))
            ready.set()
            await anyio.to_thread.run_sync(over.wait)

    thread = threading.Thread(target=anyio.run, args=(serve,))
    thread.start()
    try:
        assert ready.wait(TIMEOUT_S)
        yield found[0]
    finally:
        over.set()
        thread.join()


SCHEMA = schemathesis.openapi.from_dict(document(version="1.2.3"))
OPERATIONS: dict[str, Any] = {
    each.ok().label: each.ok()  # type: ignore[union-attr] # an error would be one of the document
    for each in SCHEMA.get_all_operations()
}


def cases(label: str, job_id: str) -> st.SearchStrategy[Case[Any]]:
    """Good and bad requests, to the job that there is and to any other."""
    operation = OPERATIONS[label]
    known = {"job": job_id} if "{job}" in label else None
    strategies: list[st.SearchStrategy[Case[Any]]] = [
        operation.as_strategy(generation_mode=mode, path_parameters=path)
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        for path in ((known, None) if known else (None,))
    ]
    return st.one_of(strategies)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda each: f"{each.method}-{each.path}")
def test_every_call_keeps_to_the_document(endpoint: Endpoint) -> None:
    """Whatever is asked, the answer is one that the document tells of."""
    label = f"{endpoint.method.upper()} {endpoint.path}"
    with serving() as (path, job_id), session(path, timeout_s=TIMEOUT_S) as to_socket:

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        )
        @given(cases(label, job_id))
        def ask(case: Case[Any]) -> None:
            answer = case.call(base_url=BASE_URL, session=to_socket, timeout=TIMEOUT_S)
            case.validate_response(answer, checks=CHECKS)

        ask()
