"""Whatever stands in the log group, reading it harms nobody."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstackd import protocol
from dstackd.protocol import LogLine

ODD = (
    '{"n":1e999,"source":"stdout","log":"x"}',
    '{"n":true,"source":"stdout","log":"x"}',
    '{"n":-1,"source":"stdout","log":"x"}',
    '{"n":"1","source":"stdout","log":"x"}',
    '{"n":99999999999999999999,"source":"stdout","log":"x"}',
    "[" * 100_000,
    "null",
)


@pytest.mark.parametrize("message", ODD, ids=range(len(ODD)))
def test_what_no_runner_wrote_is_no_line(message: str) -> None:
    """Any job may write any event: it is passed over, and the daemon lives."""
    assert protocol.decode_log_line(message) is None


@given(st.text() | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_no_text_raises(message: str) -> None:
    """Decoding is total."""
    protocol.decode_log_line(message)


@given(st.integers(1, 2**53), st.sampled_from(["stdout", "stderr"]), st.text())
def test_a_line_comes_back(n: int, source: str, text: str) -> None:
    """What the runner encodes is what the daemon reads."""
    line = LogLine(n, source, text)
    assert protocol.decode_log_line(protocol.encode_log_line(line)) == line
