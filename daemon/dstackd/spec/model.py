"""The validated form of a spec: what the rest of the program works with.

LAW: standard library only, frozen, no parsing and no checks: an instance that came out of
`parse.parse_spec` is within every bound of `limits.py`. The defaults of the product are the
defaults of these classes and stand nowhere else.
"""

from dataclasses import dataclass, field
from enum import StrEnum, unique
from typing import Generic, Literal, TypeVar

Number = TypeVar("Number", int, float)
Arch = Literal["x86_64", "arm64"]

_HOUR_S = 3600


# Without slots: Python 3.11 raises TypeError for Range[int](2, 8) on a frozen generic with slots.
@dataclass(frozen=True)
class Range(Generic[Number]):
    """An amount between two ends, both included; an end that is None is open."""

    min: Number | None = None
    max: Number | None = None

    def __contains__(self, amount: Number) -> bool:
        above = self.min is None or self.min <= amount
        return above and (self.max is None or amount <= self.max)


@unique
class SpotPolicy(StrEnum):
    """Which market may be used; AUTO tries spot first and then on-demand."""

    SPOT = "spot"
    ON_DEMAND = "on-demand"
    AUTO = "auto"


@unique
class Permissions(StrEnum):
    """What the commands may do on their machine.

    JOB is an unprivileged user who cannot reach the role of the machine; MACHINE is root, and the role.
    """

    JOB = "job"
    MACHINE = "machine"


@unique
class StopSignal(StrEnum):
    """What the commands are sent when they have to stop."""

    SIGTERM = "SIGTERM"
    SIGINT = "SIGINT"
    SIGHUP = "SIGHUP"
    SIGQUIT = "SIGQUIT"
    SIGUSR1 = "SIGUSR1"
    SIGUSR2 = "SIGUSR2"


@unique
class RetryCause(StrEnum):
    """Why an attempt may be followed by another one."""

    NO_CAPACITY = "no-capacity"
    INTERRUPTION = "interruption"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class InputSpec:
    """A file or folder of the control host, or an `s3://` address, copied to `target` in the job's folder.

    `source` is as written, absolute or not; `target` is a normalised relative path, `.` being the
    job's folder itself. Targets of one spec differ.
    """

    source: str
    target: str

    @property
    def is_s3(self) -> bool:
        """An `s3://` address, which the machine reads; anything else is read by the control host."""
        return self.source.startswith("s3://")


@dataclass(frozen=True, slots=True)
class ArtifactSpec:
    """A path or glob, relative to the job's folder, that is uploaded when the attempt ends.

    `every_s` uploads it also while the job runs.
    """

    path: str
    every_s: int | None = None


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """`count` GPUs in one machine, each of them one of `names` (without case; empty = any).

    `memory_mib` is the memory of one GPU as its maker prints it (24 GB = 24,576 MiB).
    """

    names: tuple[str, ...] = ()
    count: Range[int] = field(default_factory=lambda: Range(1, 1))
    memory_mib: Range[int] = field(default_factory=Range[int])


@dataclass(frozen=True, slots=True)
class Resources:
    """What the machine must have. 1 GB is 1,024 MiB, as EC2 counts memory."""

    cpu: Range[int] = field(default_factory=lambda: Range(2, None))
    memory_mib: Range[int] = field(default_factory=lambda: Range(8 * 1024, None))
    gpu: GpuRequest | None = None
    disk_gib: int = 100
    shm_size_mib: int | None = None
    arch: Arch | None = None


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a job gets another attempt.

    `max_attempts` counts attempts that ran; `within_s` is measured from the job's submission,
    None = no limit; `exit_codes` narrows RetryCause.ERROR, None = every code but 0.
    """

    on: frozenset[RetryCause] = frozenset({RetryCause.NO_CAPACITY, RetryCause.INTERRUPTION})
    max_attempts: int = 5
    within_s: int | None = None
    exit_codes: tuple[int, ...] | None = None


@unique
class DependencyEnd(StrEnum):
    """With which end of another job a dependency is satisfied."""

    SUCCESS = "success"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Dependency:
    """A job that has to end before this one begins."""

    job_id: str
    on: DependencyEnd = DependencyEnd.SUCCESS


@dataclass(frozen=True, slots=True)
class RegistryAuth:
    """Credentials for the image's registry; `password` is a reference to a secret."""

    username: str
    password: str


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One job. Immutable once accepted: a change of mind is a new row.

    `name` None: the job is shown by its id. `env` and `labels` are pairs in the order of their
    names. `max_price` is in USD an hour for one machine. `budget` is in USD for all attempts together and
    needs a `max_duration_s`; `max_duration_s` None = no limit.
    `reuse_s`: how long the machine waits for a next job of the same project and shape, None = not at all.
    `array` N runs N equal jobs. `depends_on` names each job once. `working_dir` is relative to the job's folder.
    """

    commands: tuple[str, ...]
    name: str | None = None
    image: str | None = None
    registry_auth: RegistryAuth | None = None
    env: tuple[tuple[str, str], ...] = ()
    working_dir: str = "."
    inputs: tuple[InputSpec, ...] = ()
    artifacts: tuple[ArtifactSpec, ...] = ()
    resources: Resources = field(default_factory=Resources)
    instance_types: tuple[str, ...] = ()
    spot_policy: SpotPolicy = SpotPolicy.AUTO
    max_price: float | None = None
    budget: float | None = None
    max_duration_s: int | None = 72 * _HOUR_S
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    stop_grace_s: int = 30
    stop_signal: StopSignal = StopSignal.SIGTERM
    permissions: Permissions = Permissions.JOB
    reuse_s: int | None = None
    resume: bool = False
    array: int | None = None
    depends_on: tuple[Dependency, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
