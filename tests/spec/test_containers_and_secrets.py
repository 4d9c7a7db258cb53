"""Images, their registries, and references to secrets, as a spec gives them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstackd.protocol import EXPRESSION
from dstackd.spec.canonical import to_json
from dstackd.spec.errors import FieldError, SpecError
from dstackd.spec.model import JobSpec, RegistryAuth
from dstackd.spec.parse import parse_spec

REFERENCE = "${{ secrets.TOKEN }}"
AUTH = {"username": "me", "password": REFERENCE}
IMAGE = {"image": "python:3.12"}


def parsed(**fields: object) -> JobSpec:
    """The spec, which its own text gives again."""
    spec = parse_spec({"commands": ["true"], **fields})
    assert parse_spec(to_json(spec)) == spec
    return spec


def error_of(**fields: object) -> FieldError:
    with pytest.raises(SpecError) as caught:
        parse_spec({"commands": ["true"], **fields})
    [error] = caught.value.errors
    return error


def test_a_container_is_read() -> None:
    """Image, login and shm_size are kept as given."""
    spec = parsed(**IMAGE, registry_auth=AUTH, resources={"shm_size": "16GB"})
    assert spec.image == "python:3.12"
    assert spec.registry_auth == RegistryAuth("me", REFERENCE)
    assert spec.resources.shm_size_mib == 16 * 1024


@pytest.mark.parametrize(
    "image",
    [
        "hello-world",
        "python:3.12-slim",
        "ghcr.io/owner/name@sha256:" + "0" * 64,
        "127.0.0.1:5000/a/b:c",
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/train:v1",
        "localhost/loaded:1",
    ],
)
def test_images_have_many_names(image: str) -> None:
    """Registries, ports, tags and digests; an image alone is something to run."""
    spec = parse_spec({"image": image})
    assert (spec.image, spec.commands) == (image, ())
    assert parse_spec(to_json(spec)) == spec


@pytest.mark.parametrize("image", ["a b", "--privileged", "-v", "a\\b", "a;b", "${X}", "@sha256:0"])
def test_an_image_is_no_option(image: str) -> None:
    """What an engine could take for something else than a name is refused."""
    assert error_of(image=image).field == "image"


@pytest.mark.parametrize(
    ("fields", "path", "problem"),
    [
        ({"registry_auth": AUTH}, "registry_auth", "there is none"),
        ({"resources": {"shm_size": "1GB"}}, "resources.shm_size", "there is no image"),
        ({**IMAGE, "registry_auth": "me"}, "registry_auth", "is not a mapping"),
        ({**IMAGE, "registry_auth": {"password": REFERENCE}}, "registry_auth.username", "missing"),
        (
            {**IMAGE, "registry_auth": {**AUTH, "password": "plain"}},
            "registry_auth.password",
            "reference",
        ),
        (
            {**IMAGE, "registry_auth": {**AUTH, "password": f"{REFERENCE} "}},
            "registry_auth.password",
            "reference",
        ),
        (
            {**IMAGE, "registry_auth": {**AUTH, "username": "${{ x }}"}},
            "registry_auth.username",
            "expression",
        ),
    ],
)
def test_slips_around_an_image(fields: dict[str, Any], path: str, problem: str) -> None:
    """The field is named; what belongs to a container is refused without one."""
    error = error_of(**fields)
    assert error.field == path
    assert problem in error.problem
    assert "plain" not in error.sentence


@pytest.mark.parametrize(
    "written",
    [
        REFERENCE,
        "${{secrets.TOKEN}}",
        f"Bearer {REFERENCE}",
        "postgres://${{ secrets.USER }}:${{ secrets.PASSWORD }}@host/db",
        "${{ secrets.team/db_1+a=b.c@d-e }}",
        "$${{ github.sha }}",
        "$$ $ {{ }} ${x} $((1))",
        "line\n" + REFERENCE,
    ],
)
def test_references_in_a_variable(written: str) -> None:
    """Alone, among text, several of them, with every character of Secrets Manager; and the escape."""
    assert dict(parsed(env={"A": written}).env) == {"A": written}


@pytest.mark.parametrize(
    "written",
    [
        "${{ secret.TOKEN }}",
        "${{ secrets.TOKEN",
        "${{ secrets. }}",
        "${{ secrets.A B }}",
        "${{ secrets.A || 'x' }}",
        "${{ secrets./A }}",
        "${{ env.HOME }}",
        "${{",
        f"{REFERENCE} and ${{{{ matrix.x }}}}",
        "${{ secrets." + "A" * 256 + " }}",
    ],
)
def test_other_expressions_are_refused(written: str) -> None:
    """A slip is told before a machine is paid for, without the text around it."""
    error = error_of(env={"A": f"hush-{written}"})
    assert (error.field, error.problem) == (
        "env.A",
        "has an expression that is no reference to a secret",
    )
    assert "$${{" in error.fix
    assert "hush" not in error.sentence


@given(st.text(alphabet="${} secrts.NAME/\n", max_size=60))
def test_every_text_is_accepted_or_refused(written: str) -> None:
    """After an accepted text nothing that looks like an expression is left unexplained."""
    try:
        spec = parse_spec({"commands": ["true"], "env": {"A": written}})
    except SpecError:
        assert "${{" in written
        return
    found = list(EXPRESSION.finditer(dict(spec.env)["A"]))
    assert all(each.group(1) or each.group() == "$${{" for each in found)
