"""An image from its registry. Law: a login is in a private file in memory while the pull lasts, and
nowhere else; what waiting can mend is tried again, the rest is told in the engine's words.

Every pull asks the registry, also for an image that is here: a tag may mean another image by now, and
the registry decides each time whether this job may have it.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from dstackd import protocol
from dstackd.runner.aws import AwsApi
from dstackd.runner.credentials import InstanceCredentials
from dstackd.runner.engine import STAGE, Engine, Said, told
from dstackd.runner.errors import RunnerError, StageFailed
from dstackd.runner.pace import Deadline, backoff_s
from dstackd.runner.s3 import service_url

PULL_S = 3600.0
PATIENCE_S = 300.0
"""From the first failure that may pass by itself."""
ECR_PATIENCE_S = 60.0
LOCAL_PREFIX = "localhost/"
"""What Podman calls an image without a registry: it is on the machine, or it is not there."""
DOCKER_HUB = "docker.io"
_DOCKER_HUB_KEY = "https://index.docker.io/v1/"
_STOP_POLL_S = 0.2
_IN_MEMORY = ("/run", "/dev/shm")  # noqa: S108 - a new folder in it, for its owner alone
_ECR = re.compile(r"(\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")
_LATER = re.compile(r"toomanyrequests|\b429\b|\b50[0-9]\b|timeout|timed out", re.IGNORECASE)
_NEVER = re.compile(
    r"unauthorized|denied|forbidden|authentication required|no basic auth|not found|does not exist"
    r"|(manifest|name|repository) unknown|unknown authority|invalid (reference|username)"
    r"|no matching manifest|no image found|no space left|incorrect username",
    re.IGNORECASE,
)
_LACKING = re.compile(
    r"(manifest|name|repository) unknown|(?<!executable file )not found:? *$|manifest for \S+ not found"
    r"|repository does not exist",
    re.IGNORECASE | re.MULTILINE,
)
_REFUSED = re.compile(
    r"unauthorized|(access|resource is) denied|authentication required|no basic auth"
    r"|incorrect username",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Login:
    """Who asks the registry."""

    username: str
    password: str = field(repr=False)


def qualified(image: str) -> str:
    """The image's whole name, as Docker reads it: Podman takes a short one for something to look up.
    Raises StageFailed for what is no name of an image.
    """
    if not _IMAGE.fullmatch(image):
        raise StageFailed(STAGE, f"{image!r} is not the name of an image", final=True)
    first, slash, _ = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return image
    return f"{DOCKER_HUB}/{image}" if slash else f"{DOCKER_HUB}/library/{image}"


def registry_of(image: str) -> str:
    """The registry of a whole name."""
    return image.partition("/")[0]


def ecr_login(
    image: str, *, credentials: InstanceCredentials, environ: Mapping[str, str]
) -> Login | None:
    """What the machine's role gives for a private registry of ECR; None for any other registry.
    Source: ECR, GetAuthorizationToken (API reference). Raises StageFailed.
    """
    found = _ECR.fullmatch(registry_of(image))
    if found is None:
        return None
    region = found.group(2)
    url = service_url(environ, "AWS_ENDPOINT_URL_ECR", name="api.ecr", region=region)
    ecr = AwsApi("ecr", url=url, region=region, credentials=credentials)
    try:
        target = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"
        answer = ecr.call_json(target, b"{}", patience_s=ECR_PATIENCE_S)
        token = protocol.load_json(answer)["authorizationData"][0]["authorizationToken"]
        username, _, password = base64.b64decode(token).decode().partition(":")
    except RunnerError as error:
        raise StageFailed(STAGE, f"no login for {registry_of(image)}: {error}") from error
    except (ValueError, LookupError, TypeError):
        # Without the cause: it would show the answer.
        raise StageFailed(STAGE, f"no login for {registry_of(image)}: odd answer") from None
    finally:
        ecr.close()
    return Login(username, password)


def pull(
    engine: Engine,
    image: str,
    *,
    login: Login | None,
    stopped: Callable[[], bool],
    patience_s: float = PATIENCE_S,
) -> None:
    """Bring the image here; returns early when `stopped`. Raises StageFailed."""
    with _login_arguments(engine, image, login) as (before, behind):
        deadline, whole = Deadline(patience_s), Deadline(PULL_S)
        tries = 0
        while not stopped():
            said = _try(engine, (*before, "pull", *behind, image), whole, stopped)
            if said.code == 0 or stopped():
                return
            wait_s = backoff_s(tries)
            if not is_passing(said.err) or wait_s >= min(deadline.left_s(), whole.left_s()):
                message = f"cannot pull {image}: {told(said, lines=2)}"
                raise StageFailed(STAGE, message, final=is_final(said.err, image))
            time.sleep(wait_s)
            tries += 1


def is_passing(error: str) -> bool:
    """Whether an engine's error is one that the same pull may not have a little later."""
    return bool(_LATER.search(error)) or not _NEVER.search(error)


def is_final(error: str, image: str) -> bool:
    """Whether an engine's error is the registry's word that it lacks the image, or refuses it to everybody of this
    job. ECR's refusals are not meant: what a new role may do is seen everywhere only after a while.
    """
    if is_passing(error):
        return False
    refused = _REFUSED.search(error) and not _ECR.fullmatch(registry_of(image))
    return bool(_LACKING.search(error) or refused)


def _try(
    engine: Engine, arguments: tuple[str, ...], whole: Deadline, stopped: Callable[[], bool]
) -> Said:
    try:
        process = engine.open(*arguments, takes_input=False)
    except OSError as error:
        return Said(125, "", str(error))
    with process:
        while (err := _rest_of(process)) is None:
            if stopped() or whole.left_s() == 0:
                process.kill()
                process.communicate()
                return Said(125, "", f"timed out after {PULL_S:.0f} s")
        return Said(process.returncode, "", err.decode("utf-8", "replace"))


def _rest_of(process: subprocess.Popen[bytes]) -> bytes | None:
    """What it wrote to its standard error; None while it runs. Asked again, it loses nothing."""
    try:
        return process.communicate(timeout=_STOP_POLL_S)[1]
    except subprocess.TimeoutExpired:
        return None


@contextmanager
def _login_arguments(
    engine: Engine, image: str, login: Login | None
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """What goes before the command, and what goes behind it."""
    quiet = () if engine.is_docker else ("--quiet",)
    if login is None:
        # The engine's own settings hold: a machine image may bring a login.
        yield (), quiet
        return
    folder = tempfile.mkdtemp(prefix="dstackd-login-", dir=_folder_in_memory())
    try:
        path = os.path.join(folder, "config.json")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(_login_file(registry_of(image), login))
        yield (
            (("--config", folder), ()) if engine.is_docker else ((), (*quiet, "--authfile", path))
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _login_file(registry: str, login: Login) -> bytes:
    entry = {"auth": base64.b64encode(f"{login.username}:{login.password}".encode()).decode()}
    keys = (registry, _DOCKER_HUB_KEY) if registry == DOCKER_HUB else (registry,)
    return json.dumps({"auths": dict.fromkeys(keys, entry)}).encode()


def _folder_in_memory() -> str | None:
    """A folder that no disk is behind; None, the usual one, where there is none (macOS)."""
    for folder in _IN_MEMORY:
        if os.access(folder, os.W_OK) and _is_in_memory(folder):
            return folder
    return None


def _is_in_memory(folder: str) -> bool:
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
            return any(line.split()[1:3] == [folder, "tmpfs"] for line in mounts)
    except OSError:
        return False
