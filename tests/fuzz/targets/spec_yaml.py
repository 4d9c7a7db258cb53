"""Spec files: SpecError or jobs, which are then specs or SpecErrors."""

from __future__ import annotations

from dstackd.spec.errors import SpecError
from dstackd.spec.files import load_spec_file
from dstackd.spec.parse import parse_spec
from tests.fuzz.targets.spec_json import check

SAMPLES = (
    b"commands:\n  - echo hello\nenv:\n  A: 1\n  B: yes\n",
    b"jobs:\n  - &a {commands: [x], name: one}\n  - {<<: *a, name: two}\n",
    b"---\nimage: python:3.12\n---\ncommands: >\n  a\n  b\nmax_duration: 1:30:00\n",
    b'{"commands": ["echo hello"]}',
)


def run(content: bytes) -> None:
    """See the module."""
    text = content.decode(errors="replace")
    try:
        jobs = load_spec_file("job.yaml", text)
    except SpecError as error:
        check(error)
        return
    for job in jobs:
        try:
            parse_spec(job)
        except SpecError as error:
            check(error)
