"""Features that come later: refused by a table, turned on by deleting a row."""

from collections.abc import Callable

import pytest

from dstackd.spec import not_yet
from dstackd.spec.canonical import to_json
from dstackd.spec.errors import SpecError
from dstackd.spec.model import ArtifactSpec, InputSpec, JobSpec, RegistryAuth
from dstackd.spec.parse import parse_spec

REFERENCE = "${{ secrets.TOKEN }}"
AUTH = {"username": "me", "password": REFERENCE}
CASES: dict[str, tuple[dict[str, object], str, Callable[[JobSpec], bool]]] = {
    "image": ({"image": "python:3.12"}, "image", lambda spec: spec.image == "python:3.12"),
    "registry_auth": (
        {"registry_auth": AUTH},
        "registry_auth",
        lambda spec: spec.registry_auth == RegistryAuth("me", REFERENCE),
    ),
    "depends_on": (
        {"depends_on": ["a", "b"]},
        "depends_on",
        lambda spec: spec.depends_on == ("a", "b"),
    ),
    "resources.shm_size": (
        {"resources": {"shm_size": "16GB"}},
        "resources.shm_size",
        lambda spec: spec.resources.shm_size_mib == 16 * 1024,
    ),
    "artifacts.every": (
        {"artifacts": [{"path": "out", "every": "5m"}]},
        "artifacts[0].every",
        lambda spec: spec.artifacts == (ArtifactSpec("out", 300),),
    ),
    not_yet.S3_INPUT: (
        {"inputs": ["s3://bucket/key:data"]},
        "inputs[0]",
        lambda spec: spec.inputs == (InputSpec("s3://bucket/key", "data"),),
    ),
    not_yet.SECRET_IN_ENV: (
        {"env": {"TOKEN": f"Bearer {REFERENCE}"}},
        "env.TOKEN",
        lambda spec: spec.env == (("TOKEN", f"Bearer {REFERENCE}"),),
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


def test_source_in_a_mapping() -> None:
    """An S3 source is refused in the long form too."""
    with pytest.raises(SpecError) as caught:
        parse_spec({"commands": ["true"], "inputs": [{"source": "s3://b/k", "target": "x"}]})
    (error,) = caught.value.errors
    assert error.field == "inputs[0].source"


@pytest.mark.parametrize(
    ("fields", "path", "problem"),
    [
        ({"registry_auth": "me"}, "registry_auth", "is not a mapping"),
        ({"registry_auth": {**AUTH, "password": "plain"}}, "registry_auth.password", "reference"),
        ({"registry_auth": {"password": REFERENCE}}, "registry_auth.username", "missing"),
        ({"image": "a b"}, "image", "is not the name of an image"),
    ],
)
def test_slips_in_a_later_feature(
    fields: dict[str, object], path: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The readers behind the table are as strict as the others."""
    for feature in ("image", "registry_auth"):
        monkeypatch.delitem(not_yet.NOT_YET, feature)
    with pytest.raises(SpecError) as caught:
        parse_spec({"commands": ["true"], **fields})
    (error,) = caught.value.errors
    assert error.field == path
    assert problem in error.problem


def test_an_image_may_run_without_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once images are there, the image's own entry point is something to run."""
    monkeypatch.delitem(not_yet.NOT_YET, "image")
    spec = parse_spec({"image": "hello-world"})
    assert spec.commands == ()
    assert parse_spec(to_json(spec)) == spec
