"""Every target over what it starts from, over what has found something once, over bombs, and over what hypothesis makes of them.

`make fuzz TARGET=name` is the same with atheris, which looks where the code goes, for as long as one likes.
"""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import targets
from tests.fuzz.hostile import (
    JSON_BOMBS,
    LONG,
    as_text,
    hostile_json,
    hostile_text,
    mutated,
    truncated,
)

BOUND_S = 20.0
"""A megabyte of YAML takes PyYAML some seconds; what is quadratic takes minutes."""


@pytest.mark.parametrize("name", targets.NAMES)
def test_what_is_kept_and_what_is_large(name: str) -> None:
    """Samples, old findings, bombs and megabytes are dealt with, each within the bound."""
    run = targets.run_of(name)
    kept = [path.read_bytes() for path in targets.kept_of(name)]
    large = [text.encode() for text in (*JSON_BOMBS, *LONG)]
    for content in [*targets.samples_of(name), *kept, *large]:
        began_s = time.monotonic()
        run(content)
        assert time.monotonic() - began_s < BOUND_S, content[:100]


@pytest.mark.parametrize("name", targets.NAMES)
def test_what_hypothesis_makes_of_them(name: str) -> None:
    """Mutated and cut samples, hostile text and hostile JSON are dealt with."""
    run, samples = targets.run_of(name), targets.samples_of(name)
    texts = hostile_text(surrogates=True) | hostile_json().map(as_text)

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.one_of(
            *map(mutated, samples),
            *map(truncated, samples),
            texts.map(lambda text: text.encode(errors="surrogatepass")),
        )
    )
    def hold(content: bytes) -> None:
        run(content)

    hold()


def test_every_finding_has_a_target() -> None:
    """A folder of the corpus is named after a target, and what is kept is small."""
    folders = {path.name for path in targets.CORPUS.iterdir() if path.is_dir()}
    assert folders <= set(targets.NAMES)
    sizes = [path.stat().st_size for name in folders for path in targets.kept_of(name)]
    assert max(sizes, default=0) <= 65_536
    assert sum(sizes) <= 1_000_000
