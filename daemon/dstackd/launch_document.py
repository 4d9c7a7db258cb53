"""The launch document: what the daemon writes before a launch and each of its machines reads.

Law: standard library and `dstackd.protocol` only, Python 3.9 syntax (it travels inside the runner
zipapp), no I/O. It lies in the bucket at `protocol.launch_key(launch_id)`; a machine picks its job
by `ami-launch-index`. A reader ignores keys that it does not know and refuses a newer `version`,
so an addition that old runners may overlook keeps the version, and any other change raises it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from dstackd import protocol

HEARTBEAT_S = 60.0
WATCH_S = 5.0
LOG_FLUSH_S = 0.5
STOP_GRACE_S = 30.0
STOP_SIGNAL = "SIGTERM"
SILENCE_TIMEOUT_S = 1800.0
PERMISSIONS_JOB = "job"
PERMISSIONS_MACHINE = "machine"

NUMBER_MAX = 1e9
"""Of seconds; 30 years."""

T = TypeVar("T")


class DocumentError(ValueError):
    """The document is not one that this reader can use; the text names the field."""


class DocumentTooNew(DocumentError):
    """A newer daemon wrote it: this runner must not guess."""


@dataclass(frozen=True)
class InputDocument:
    """A packed folder or file: the tar at `protocol.input_key(sha256)`, unpacked into
    `target`, a path relative to the job's folder (`.` is the folder itself).
    """

    sha256: str
    target: str = "."
    size_bytes: int = 0
    """Size of the tar; progress only, the digest decides."""


@dataclass(frozen=True)
class S3InputDocument:
    """Every object of `bucket` below `prefix` (or the one object that is called so), written below
    `target` in the job's folder by the rest of its key.
    """

    bucket: str
    prefix: str
    target: str = "."


@dataclass(frozen=True)
class ArtifactDocument:
    """`path`: relative to the job's folder, a file, a folder, or a glob (`*`, `?`, `[]`, `**`).
    `every_s`: how often it is also uploaded while the commands run; None is at the end only.
    """

    path: str
    every_s: float | None = None


@dataclass(frozen=True)
class RegistryAuthDocument:
    """Who asks the image's registry; `password` is a reference such as `${{ secrets.NAME }}`."""

    username: str
    password: str


@dataclass(frozen=True)
class ContainerDocument:
    """The container that the commands run in; None in a job is the machine itself."""

    image: str
    registry_auth: RegistryAuthDocument | None = None
    shm_size_mib: int | None = None
    """None is the engine's default, 64 MiB."""
    gpus: int = 0
    """How many the job asked for; above 0 the container gets every GPU of the machine."""


@dataclass(frozen=True)
class JobDocument:
    """One attempt at one job, for the machine whose launch index is `index`."""

    index: int
    job_id: str
    attempt: int
    commands: tuple[str, ...]
    name: str = ""
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Values may hold `${{ secrets.NAME }}`, which the machine replaces."""
    working_dir: str | None = None
    """Relative to the job's folder, made if it is not there; None is the job's folder."""
    container: ContainerDocument | None = None
    permissions: str = PERMISSIONS_JOB
    """`job`: an unprivileged user who cannot reach the machine's role. `machine`: root, and the role."""
    inputs: tuple[InputDocument, ...] = ()
    s3_inputs: tuple[S3InputDocument, ...] = ()
    artifacts: tuple[ArtifactDocument, ...] = ()
    artifact_keep_days: int | None = None
    """What `protocol.TAG_KEEP_DAYS` says on each object of the attempt's artifacts; None is no tag."""
    max_duration_s: float | None = None
    """From the start of the commands; None is no limit."""
    stop_grace_s: float = STOP_GRACE_S
    """Between the stop signal and SIGKILL."""
    stop_signal: str = STOP_SIGNAL
    """`SIGTERM`, `SIGINT`, `SIGHUP`, `SIGQUIT`, `SIGUSR1` or `SIGUSR2`."""
    reuse_s: float | None = None
    """How long the machine waits for another job after this one; None is not at all."""
    log_quota_bytes: int | None = None
    """Bytes of log events that are sent, as CloudWatch counts and charges them (the message and 26 for each); what comes
    after is counted and not sent. None: no quota.
    """
    resume: bool = False
    """A further attempt goes on from what this one leaves, so exit code 0 after an interruption's stop signal is no end:
    the job has saved what it had.
    """
    resume_from: tuple[int, ...] = ()
    """Earlier attempts whose artifacts may be restored, newest first; the first one that has a
    sealed manifest, or a partial one, is taken."""
    array_index: int | None = None


@dataclass(frozen=True)
class LaunchDocument:
    """Every job of one RunInstances call."""

    launch_id: str
    bucket: str
    region: str
    jobs: tuple[JobDocument, ...]
    version: int = protocol.VERSION
    heartbeat_s: float = HEARTBEAT_S
    watch_s: float = WATCH_S
    """How often a machine looks for a spot notice and for the daemon's control object."""
    log_flush_s: float = LOG_FLUSH_S
    """A line waits at most this long for others before it is sent."""
    silence_timeout_s: float = SILENCE_TIMEOUT_S
    """How long the bucket may be out of reach before the machine stops its job and ends itself."""


def encode(document: LaunchDocument) -> bytes:
    """The object's content: canonical JSON, equal documents give equal bytes."""
    return protocol.canonical_json(dataclasses.asdict(document))


def decode(content: bytes) -> LaunchDocument:
    """The document in an object. Raises DocumentTooNew, DocumentError."""
    try:
        value = protocol.load_json(content)
    except ValueError as error:
        raise DocumentError(f"not JSON: {error}") from error
    fields = _Fields(value, "document")
    version = fields.take("version", _integer)
    if version > protocol.VERSION:
        raise DocumentTooNew(f"version {version}; this runner knows {protocol.VERSION}")
    return LaunchDocument(
        version=version,
        launch_id=fields.take("launch_id", _text),
        bucket=fields.take("bucket", _text),
        region=fields.take("region", _text),
        heartbeat_s=fields.take("heartbeat_s", _number, HEARTBEAT_S),
        watch_s=fields.take("watch_s", _number, WATCH_S),
        log_flush_s=fields.take("log_flush_s", _number, LOG_FLUSH_S),
        silence_timeout_s=fields.take("silence_timeout_s", _number, SILENCE_TIMEOUT_S),
        jobs=fields.take("jobs", _each(_job)),
    )


def job_at(document: LaunchDocument, index: int) -> JobDocument:
    """The job of the machine with this launch index. Raises DocumentError."""
    for job in document.jobs:
        if job.index == index:
            return job
    raise DocumentError(f"launch {document.launch_id} has no job with index {index}")


def _job(value: Any, where: str) -> JobDocument:  # noqa: ANN401 - JSON from outside
    fields = _Fields(value, where)
    return JobDocument(
        index=fields.take("index", _integer),
        job_id=fields.take("job_id", _text),
        attempt=fields.take("attempt", _integer),
        name=fields.take("name", _text, ""),
        commands=fields.take("commands", _each(_text)),
        env=fields.take("env", _env, {}),
        working_dir=fields.take("working_dir", _text, None),
        container=fields.take("container", _container, None),
        permissions=fields.take("permissions", _text, PERMISSIONS_JOB),
        inputs=fields.take("inputs", _each(_input), ()),
        s3_inputs=fields.take("s3_inputs", _each(_s3_input), ()),
        artifacts=fields.take("artifacts", _each(_artifact), ()),
        artifact_keep_days=fields.take("artifact_keep_days", _integer, None),
        max_duration_s=fields.take("max_duration_s", _number, None),
        stop_grace_s=fields.take("stop_grace_s", _number, STOP_GRACE_S),
        stop_signal=fields.take("stop_signal", _text, STOP_SIGNAL),
        reuse_s=fields.take("reuse_s", _number, None),
        log_quota_bytes=fields.take("log_quota_bytes", _integer, None),
        resume=fields.take("resume", _switch, False),  # noqa: FBT003 - the default
        resume_from=fields.take("resume_from", _each(_integer), ()),
        array_index=fields.take("array_index", _integer, None),
    )


def _input(value: Any, where: str) -> InputDocument:  # noqa: ANN401 - JSON from outside
    fields = _Fields(value, where)
    return InputDocument(
        sha256=fields.take("sha256", _text),
        target=fields.take("target", _text, "."),
        size_bytes=fields.take("size_bytes", _integer, 0),
    )


def _s3_input(value: Any, where: str) -> S3InputDocument:  # noqa: ANN401 - JSON from outside
    fields = _Fields(value, where)
    return S3InputDocument(
        bucket=fields.take("bucket", _text),
        prefix=fields.take("prefix", _text),
        target=fields.take("target", _text, "."),
    )


def _artifact(value: Any, where: str) -> ArtifactDocument:  # noqa: ANN401 - JSON from outside
    fields = _Fields(value, where)
    return ArtifactDocument(
        path=fields.take("path", _text), every_s=fields.take("every_s", _number, None)
    )


def _container(value: Any, where: str) -> ContainerDocument:  # noqa: ANN401 - JSON from outside
    fields = _Fields(value, where)
    return ContainerDocument(
        image=fields.take("image", _text),
        registry_auth=fields.take("registry_auth", _registry_auth, None),
        shm_size_mib=fields.take("shm_size_mib", _integer, None),
        gpus=fields.take("gpus", _integer, 0),
    )


def _registry_auth(value: Any, where: str) -> RegistryAuthDocument:  # noqa: ANN401 - JSON from outside
    fields = _Fields(value, where)
    return RegistryAuthDocument(
        username=fields.take("username", _text), password=fields.take("password", _text)
    )


_REQUIRED: Any = object()


class _Fields:
    """A JSON object whose fields are taken one by one, with errors that name them."""

    def __init__(self, value: Any, where: str) -> None:  # noqa: ANN401 - JSON from outside
        if not isinstance(value, dict):
            raise DocumentError(f"{where} is not an object")
        self._value = value
        self._where = where

    def take(self, name: str, parse: Callable[[Any, str], T], default: Any = _REQUIRED) -> T:  # noqa: ANN401 - None widens T
        """The parsed field; the default where it is missing or null."""
        value = self._value.get(name)
        where = f"{self._where}.{name}"
        if value is not None:
            return parse(value, where)
        if default is _REQUIRED:
            raise DocumentError(f"{where} is missing")
        fallback: T = default
        return fallback


def _text(value: Any, where: str) -> str:  # noqa: ANN401 - JSON from outside
    if not isinstance(value, str):
        raise DocumentError(f"{where} is not a string")
    return value


def _integer(value: Any, where: str) -> int:  # noqa: ANN401 - JSON from outside
    if not isinstance(value, int) or isinstance(value, bool):
        raise DocumentError(f"{where} is not an integer")
    return value


def _switch(value: Any, where: str) -> bool:  # noqa: ANN401 - JSON from outside
    if not isinstance(value, bool):
        raise DocumentError(f"{where} is not a boolean")
    return value


def _number(value: Any, where: str) -> float:  # noqa: ANN401 - JSON from outside
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise DocumentError(f"{where} is not a number")
    if not -NUMBER_MAX <= value <= NUMBER_MAX:  # JSON as Python reads it has NaN and Infinity too
        raise DocumentError(f"{where} is out of bounds")
    return float(value)


def _each(parse: Callable[[Any, str], T]) -> Callable[[Any, str], tuple[T, ...]]:
    def parse_list(value: Any, where: str) -> tuple[T, ...]:  # noqa: ANN401 - JSON from outside
        if not isinstance(value, list):
            raise DocumentError(f"{where} is not a list")
        return tuple(parse(item, f"{where}[{at}]") for at, item in enumerate(value))

    return parse_list


def _env(value: Any, where: str) -> dict[str, str]:  # noqa: ANN401 - JSON from outside
    if not isinstance(value, dict):
        raise DocumentError(f"{where} is not an object")
    return {key: _text(item, f"{where}.{key}") for key, item in value.items()}
