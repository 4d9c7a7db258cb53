"""Features that come later: refused by a table, turned on by deleting a row."""

from collections.abc import Callable

import pytest

from dstackd.spec import not_yet
from dstackd.spec.canonical import to_json
from dstackd.spec.errors import SpecError
from dstackd.spec.model import JobSpec
from dstackd.spec.parse import parse_spec

CASES: dict[str, tuple[dict[str, object], str, Callable[[JobSpec], bool]]] = {
    "depends_on": (
        {"depends_on": ["a", "b"]},
        "depends_on",
        lambda spec: spec.depends_on == ("a", "b"),
    ),
}


def test_every_row_has_a_case() -> None:
    """No row of the table is without a test of both its sides."""
    assert set(CASES) == set(not_yet.NOT_YET)


@pytest.mark.parametrize("feature", CASES)
def test_refused_with_what_to_do(feature: str) -> None:
    """The field is named, and nothing else is said about it than the row's two sentences."""
    fields, path, _ = CASES[feature]
    with pytest.raises(SpecError) as caught:
        parse_spec({"commands": ["true"], **fields})
    (error,) = caught.value.errors
    assert (error.field, error.problem, error.fix) == (path, *not_yet.NOT_YET[feature])


@pytest.mark.parametrize("feature", CASES)
def test_deleting_the_row_turns_it_on(feature: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its row the field is read, kept and frozen."""
    monkeypatch.delitem(not_yet.NOT_YET, feature)
    fields, _, holds = CASES[feature]
    spec = parse_spec({"commands": ["true"], **fields})
    assert holds(spec)
    assert parse_spec(to_json(spec)) == spec
