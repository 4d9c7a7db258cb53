"""The spec in a job's row: SpecError or a spec, never anything else, and sentences that a terminal and a database can hold."""

from __future__ import annotations

from dstackd.spec.canonical import to_text
from dstackd.spec.errors import SpecError
from dstackd.spec.parse import parse_spec_json

SAMPLES = (
    b'{"commands": ["echo hello"], "env": {"A": "1"}, "labels": {"team": "x"}, "name": "train"}',
    (
        b'{"image": "python:3.12", "inputs": [{"source": "./data", "target": "d"}], "artifacts": ["out"],'
        b' "resources": {"cpu": "4..8", "memory": "16GB..", "gpu": {"name": "T4"}}, "retry": {"on_exit": [1]}}'
    ),
    (
        b'{"commands": ["a"], "spot_policy": "auto", "max_price": 0.5, "max_duration": "2h", "array": 3,'
        b' "working_dir": "w", "stop_grace": "30s", "depends_on": ["abc"], "budget": 5, "reuse": "5m"}'
    ),
)
SENTENCE_CHARS_MAX = 2_000


def run(content: bytes) -> None:
    """See the module."""
    text = content.decode(errors="replace")
    try:
        spec = parse_spec_json(text)
    except SpecError as error:
        check(error)
        return
    assert parse_spec_json(to_text(spec)) == spec


def check(error: SpecError) -> None:
    """What a person and a column get."""
    assert error.errors
    for each in error.errors:
        assert len(each.sentence) <= SENTENCE_CHARS_MAX, len(each.sentence)
        assert "\0" not in each.sentence
        each.sentence.encode()
