"""One installation a file: starting a cloud and a daemon takes seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.end_to_end.installation import Installation, installation


@pytest.fixture(scope="module")
def site() -> Iterator[Installation]:
    """A running installation, shared by the tests of one file."""
    with installation() as made:
        made.start_daemon()
        yield made
