"""What is hidden in a log."""

from __future__ import annotations

import base64
import json
import shlex
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dstackd.runner.masking import MASK, Masker

VALUE = "p@ss wörd+/='1\""
values = st.text(min_size=4, max_size=40).filter(lambda text: len(text.strip()) >= 4)
around = st.text(max_size=20)


def shell_quoted(text: str) -> str:
    return shlex.quote(text).replace("'\"'\"'", "'\\''")


@given(values, around, around)
def test_a_value_is_hidden_wherever_it_stands(value: str, before: str, behind: str) -> None:
    """Whatever is around it."""
    assume(value not in before + MASK + behind)
    masked = Masker([value]).mask(before + value + behind)
    assert value not in masked.replace(MASK, "\0") or value in MASK
    assert MASK in masked


@pytest.mark.parametrize(
    "written",
    [
        VALUE,
        quote(VALUE, safe=""),
        quote_plus(VALUE),
        json.dumps(VALUE)[1:-1],
        json.dumps(VALUE, ensure_ascii=False)[1:-1],
        repr(VALUE)[1:-1],
        shell_quoted(VALUE),
    ],
)
def test_what_programs_make_of_a_value_is_hidden(written: str) -> None:
    """Percent-encoding, JSON, Python's and the shell's quotes."""
    masked = Masker([VALUE]).mask(f"x={written}, y")
    assert MASK in masked
    assert "p@ss" not in masked
    assert "p%40ss" not in masked


@given(st.binary(max_size=20), st.binary(max_size=20), st.booleans())
def test_base64_of_a_longer_text_is_hidden(before: bytes, behind: bytes, is_url_safe: bool) -> None:
    """As in the header of Basic authentication: at any place within the groups of three bytes."""
    value = "correct horse battery"
    encode = base64.urlsafe_b64encode if is_url_safe else base64.b64encode
    written = encode(before + value.encode() + behind).decode()
    masked = Masker([value]).mask(f"authorization: Basic {written}")
    assert MASK in masked
    # What is left of the value are its outermost bits, less than a character on each side.
    assert len(written) - (len(masked) - len("authorization: Basic ") - len(MASK)) >= 26


@given(values, values)
def test_each_line_of_a_value_is_hidden(first: str, second: str) -> None:
    """A key is printed line by line, and lines may have a return at their end."""
    masker = Masker([f"{first}\r\n{second}\n"])
    for line in f"{first}\n{second}".split("\n"):
        if len(line.strip()) >= 4 and "*" not in line:
            assert line.strip() not in masker.mask(f"<{line}>")


def test_the_longest_value_is_hidden_first() -> None:
    """A value that is a part of another one leaves nothing of it."""
    masker = Masker(["secret", "secret-and-more"])
    assert masker.mask("secret-and-more secret") == "*** ***"


@pytest.mark.parametrize("value", ["abc", "", "  a ", "\n\n\n\n"])
def test_what_is_short_is_not_hidden(value: str) -> None:
    """Three characters are in too many words."""
    assert Masker([value]).mask(f"abc {value} alphabet\n") == f"abc {value} alphabet\n"


def test_several_lines_at_once() -> None:
    """A text of many lines is masked as its lines are."""
    masker = Masker(["hush-hush"])
    lines = ["a", "hush-hush", "b hush-hush", ""]
    assert masker.mask("\n".join(lines)).split("\n") == [masker.mask(line) for line in lines]
