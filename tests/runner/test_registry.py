"""Images from registries: names, logins, and what is tried again."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstackd.launch_document import ContainerDocument, RegistryAuthDocument
from dstackd.runner.container import Container
from dstackd.runner.engine import Engine
from dstackd.runner.errors import StageFailed
from dstackd.runner.registry import Login, ecr_login, is_final, is_passing, pull, qualified
from dstackd.runner.secrets import Secrets
from tests.runner import engines, small_registry
from tests.runner.conftest import a_job
from tests.runner.engines import DOCKER, PODMAN, Rig
from tests.runner.loopback import Canned, credentials, scripted
from tests.runner.small_registry import Registry

PASSWORD = "a password that nobody may find"
LOGIN = Login("me", PASSWORD)


@pytest.fixture(scope="module", params=[PODMAN, DOCKER])
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with engines.opened(request.param, tmp_path_factory.mktemp(request.param)) as rig:
        yield rig


@pytest.fixture
def registry(rig: Rig) -> Iterator[Registry]:
    """One that knows `me` alone, and that the engine may ask without TLS."""
    with small_registry.registry(engines.busybox_tree(), logins=(("me", PASSWORD),)) as registry:
        rig.trust(registry.host)
        yield registry


@pytest.fixture
def engine(rig: Rig) -> Engine:
    return Engine(rig.name, is_docker=rig.name == DOCKER, environ=rig.environ)


def never() -> bool:
    return False


def logins_left() -> list[str]:
    folders = (Path("/run"), Path("/dev/shm"))
    return [str(path) for folder in folders for path in folder.glob("dstackd-login-*")]


def test_a_login_opens_the_registry(registry: Registry, rig: Rig, tmp_path: Path) -> None:
    """A job with registry_auth runs the image; the password was in one file, which is gone."""
    auth = RegistryAuthDocument("me", "${{ secrets.PASSWORD }}")
    job = a_job("true", container=ContainerDocument(registry.image, registry_auth=auth))
    container = Container(
        job,
        base_dir=str(tmp_path),
        job_dir=str(tmp_path),
        secrets=Secrets({"PASSWORD": PASSWORD}),
        environ=rig.environ,
        credentials=credentials(),
        say=print,
    )
    container.prepare(stopped=never)
    assert logins_left() == []
    asked = len(registry.asked)
    container.prepare(stopped=never)
    assert len(registry.asked) > asked, "the registry decides each time"
    holding = [
        path
        for path in rig.folder.rglob("*")
        if path.is_file() and base64.b64encode(f"me:{PASSWORD}".encode()) in path.read_bytes()
    ]
    assert holding == []


@pytest.mark.parametrize("login", [None, Login("me", "wrong"), Login("you", PASSWORD)])
def test_a_wrong_login_is_told_at_once(
    registry: Registry, engine: Engine, login: Login | None
) -> None:
    """In the engine's words, without waiting and without the password."""
    started_at = time.monotonic()
    with pytest.raises(StageFailed) as caught:
        pull(engine, registry.image, login=login, stopped=never)
    assert caught.value.stage == "image"
    assert registry.image in caught.value.message
    assert any(word in caught.value.message for word in ("unauthorized", "no basic auth"))
    assert PASSWORD not in caught.value.message
    assert caught.value.final
    assert time.monotonic() - started_at < 20
    assert logins_left() == []


def test_an_image_that_the_registry_lacks(registry: Registry, engine: Engine) -> None:
    """Tried again neither here nor on another machine."""
    started_at = time.monotonic()
    with pytest.raises(StageFailed, match=r"cannot pull .*:2: .*manifest") as caught:
        pull(engine, f"{registry.host}/{registry.path}:2", login=LOGIN, stopped=never)
    assert caught.value.final
    assert time.monotonic() - started_at < 20


def test_a_registry_in_trouble_is_asked_again(registry: Registry, engine: Engine) -> None:
    """Refusals of some seconds do not fail a job."""
    registry.refusals = [503] * 6
    pull(engine, registry.image, login=LOGIN, stopped=never, patience_s=60.0)
    assert engine.inspect("image", registry.image) is not None


def test_a_digest_is_a_name(registry: Registry, engine: Engine) -> None:
    """The image that is pulled is that one."""
    image = f"{registry.host}/{registry.path}@{registry.digest}"
    pull(engine, image, login=LOGIN, stopped=never)
    assert engine.inspect("image", image) is not None


def test_a_stop_ends_a_pull(registry: Registry, engine: Engine) -> None:
    """A job that was cancelled does not wait for its image."""
    registry.refusals = [503] * 1000
    until = time.monotonic() + 1.0
    pull(engine, registry.image, login=LOGIN, stopped=lambda: time.monotonic() > until)
    assert time.monotonic() < until + 15


@pytest.mark.parametrize(
    ("short", "whole"),
    [
        ("python", "docker.io/library/python"),
        ("python:3.12", "docker.io/library/python:3.12"),
        ("owner/name", "docker.io/owner/name"),
        ("ghcr.io/owner/name:1", "ghcr.io/owner/name:1"),
        ("registry:5000/name", "registry:5000/name"),
        ("localhost/name", "localhost/name"),
        ("python@sha256:" + "0" * 64, "docker.io/library/python@sha256:" + "0" * 64),
    ],
)
def test_short_names_are_dockers(short: str, whole: str) -> None:
    """The same name is the same image under both engines."""
    assert qualified(short) == whole


@pytest.mark.parametrize("image", ["", "-v", "--privileged", "a b", "a\nb", "$(x)"])
def test_what_is_no_name_is_no_argument(image: str) -> None:
    """Also in a document that somebody else wrote."""
    with pytest.raises(StageFailed):
        qualified(image)


@pytest.mark.parametrize(
    ("error", "is_so"),
    [
        ("received unexpected HTTP status: 503 Service Unavailable", True),
        ("toomanyrequests: You have reached your unauthenticated pull rate limit", True),
        ("dial tcp: lookup registry-1.docker.io: i/o timeout", True),
        ("connection reset by peer", True),
        ("unexpected EOF", True),
        ("manifest for x:2 not found: manifest unknown: manifest unknown", False),
        ("pull access denied for x, repository does not exist", False),
        ("unauthorized: authentication required", False),
        ("no matching manifest for linux/arm64/v8 in the manifest list entries", False),
        ("write /var/lib/docker/tmp/x: no space left on device", False),
        ("x509: certificate signed by unknown authority", False),
        ("no basic auth credentials", False),
    ],
)
def test_which_errors_may_pass(error: str, is_so: bool) -> None:
    """Trouble may pass; a slip in the spec does not."""
    assert is_passing(error) is is_so


ECR = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/x:1"


@pytest.mark.parametrize(
    ("error", "image", "is_so"),
    [
        ("manifest for x:2 not found: manifest unknown: manifest unknown", "docker.io/x:2", True),
        ('failed to resolve reference "docker.io/x:2": docker.io/x:2: not found', "x", True),
        ("reading manifest 2 in host/x: manifest unknown", "host/x:2", True),
        ("name unknown: The repository with name 'x' does not exist", ECR, True),
        ("pull access denied for x, repository does not exist or may", "docker.io/x", True),
        ("unauthorized: authentication required", "ghcr.io/x", True),
        ("requested access to the resource is denied", "docker.io/x", True),
        ("denied: User: arn:aws:sts::1:x is not authorized to perform", ECR, False),
        ("no basic auth credentials", ECR, False),
        ("toomanyrequests: unauthorized clients may not", "docker.io/x", False),
        ("received unexpected HTTP status: 503 Service Unavailable", "docker.io/x", False),
        ("write /var/lib/docker/tmp/x: no space left on device", "docker.io/x", False),
        ("no matching manifest for linux/arm64/v8 in the manifest list", "docker.io/x", False),
        ("dial unix docker.sock: connect: permission denied", "docker.io/x", False),
        ('exec: "docker-credential-x": executable file not found in $PATH', "x/y", False),
    ],
)
def test_what_no_other_machine_would_be_given(error: str, image: str, is_so: bool) -> None:
    """What the registry lacks or refuses; not what is this machine's trouble, nor what a new role may not do yet."""
    assert is_final(error, image) is is_so


def test_ecr_takes_the_machines_role() -> None:
    """An image of a private registry of ECR needs no registry_auth."""
    token = base64.b64encode(f"AWS:{PASSWORD}".encode()).decode()
    answer = json.dumps({"authorizationData": [{"authorizationToken": token}]}).encode()
    image = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/train:1"
    with scripted() as server:
        server.always = Canned(body=answer)
        login = ecr_login(
            image, credentials=credentials(), environ={"AWS_ENDPOINT_URL_ECR": server.url}
        )
    assert login == Login("AWS", PASSWORD)
    assert PASSWORD not in repr(login)


def test_other_registries_are_not_given_the_role() -> None:
    """Nobody is asked for a login."""
    for image in ("docker.io/library/python", "public.ecr.aws/x/y", "evil.example/123456789012"):
        assert ecr_login(image, credentials=credentials(), environ={}) is None


def test_an_odd_answer_of_ecr_is_not_shown() -> None:
    """It may hold the token."""
    image = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/x"
    answer = json.dumps({"authorizationData": [{"token": PASSWORD}]}).encode()
    with scripted() as server:
        server.always = Canned(body=answer)
        environ = {"AWS_ENDPOINT_URL_ECR": server.url}
        with pytest.raises(StageFailed) as caught:
            ecr_login(image, credentials=credentials(), environ=environ)
    assert PASSWORD not in str(caught.value)
