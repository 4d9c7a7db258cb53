"""The sections of the configuration: every key, its default and its bounds.

Law: frozen pydantic models and nothing else; no file, no environment, no other section. What a key
means, and when to change it, stands in config/dstackd.example.toml.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)

from dstackd.config_paths import DATABASE_URL, STATE_DIRECTORY
from dstackd.core.bounds import Bounds, ProjectBounds
from dstackd.core.ec2_limits import Ec2Limits
from dstackd.core.limits import Limits
from dstackd.launch_document import HEARTBEAT_S, LOG_FLUSH_S, SILENCE_TIMEOUT_S, WATCH_S

BUCKET_CHARS_MAX: Final = 52
"""The machines' IAM role is named `dstack_role_<bucket>`, and a role's name has at most 64."""

INPUT_BUCKETS_MAX: Final = 20
"""A managed policy has at most 6,144 characters (IAM quotas), and each bucket is in it twice."""

_LIMITS: Final = Limits()
_EC2: Final = Ec2Limits()
_DAY_S: Final = 86_400
_PORT_MAX: Final = 65_535
_PROJECT_CHARS_MAX: Final = 64
_IMAGE_NAME: Final = "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-{arch}-server-*"
_CANONICAL: Final = "099720109477"


def _no_switch(value: object) -> object:
    if isinstance(value, bool):
        message = f"is {str(value).lower()}, not a number; write a number"
        raise ValueError(message)  # noqa: TRY004 - pydantic collects ValueErrors
    return value


def from_json(value: object) -> object:
    """The value itself; from the environment a list arrives as text, which must be JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        message = f'is not JSON: {error}; write a list such as ["a", "b"], or a table as {{"a": 1}}'
        raise ValueError(message) from None


def _matching(pattern: str, what: str, fix: str) -> AfterValidator:
    """Text that is empty (not set) or matches the whole pattern."""

    def check(value: str) -> str:
        if value and not re.fullmatch(pattern, value):
            message = f'is "{value}", not {what}; {fix}'
            raise ValueError(message)
        return value

    return AfterValidator(check)


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        message = f'is "{path}", not an absolute folder; write the whole path'
        raise ValueError(message)
    return path


def listen_address(listen: str) -> tuple[str, int] | None:
    """Host and port of `host:port` or `[ipv6]:port`; None where it is empty. Raises ValueError."""
    if not listen:
        return None
    host, _, port = listen.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not bare or (":" in bare and bare == host) or not port.isdecimal() or int(port) > _PORT_MAX:
        message = f'is "{listen}", not host:port; write one such as 127.0.0.1:9180, or "" for none'
        raise ValueError(message)
    return bare, int(port)


def _checked_listen(listen: str) -> str:
    listen_address(listen)
    return listen


Number = Annotated[float, BeforeValidator(_no_switch), Field(allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(_no_switch)]
Listen = Annotated[str, AfterValidator(_checked_listen)]
Roots = Annotated[
    tuple[Annotated[Path, AfterValidator(_absolute)], ...], BeforeValidator(from_json)
]

BackendName = Annotated[
    str,
    _matching("[a-z][a-z0-9-]{0,31}", "a name", "use up to 32 of a-z, 0-9 and -"),
    Field(min_length=1),
]
Region = Annotated[
    str,
    _matching("[a-z]{2}(-[a-z]+)+-[0-9]", "an AWS region", "write one such as eu-central-1"),
    Field(min_length=1),
]
Bucket = Annotated[
    str,
    _matching(
        rf"(?!.*\.\.)[a-z0-9][a-z0-9.-]{{1,{BUCKET_CHARS_MAX - 2}}}[a-z0-9]",
        "a bucket that can be used",
        f"use 3 to {BUCKET_CHARS_MAX} of a-z, 0-9, - and . (the machines' IAM role is named "
        "dstack_role_<bucket>, and IAM allows 64 characters)",
    ),
    Field(min_length=1),
]
InputBucket = Annotated[
    str,
    _matching(
        r"(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
        "a bucket",
        "write its name alone, such as my-data",
    ),
    Field(min_length=1),
]
Subnet = Annotated[
    str, _matching("subnet-[0-9a-f]{8,17}", "a subnet", "write its id, such as subnet-0a1b2c3d")
]
Group = Annotated[
    str,
    _matching("sg-[0-9a-f]{8,17}", "a security group", "write its id, such as sg-0a1b2c3d"),
    Field(min_length=1),
]
Image = Annotated[
    str, _matching("ami-[0-9a-f]{8,17}", "an image", "write its id, such as ami-0a1b2c3d")
]
Url = Annotated[
    str, _matching("https?://[^/ ]+/?", "a URL", "write one such as http://127.0.0.1:4566")
]
Owner = Annotated[
    str,
    _matching("[0-9]{12}|amazon|self", "an owner", "write an account id of 12 digits"),
    Field(min_length=1),
]
Profile = Annotated[
    str, _matching(r"[\w+=,.@-]{1,128}", "the name of an instance profile", "write its name alone")
]


class Section(BaseModel):
    """A table of the file: no key that is not here, and no change once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Database(Section):
    """Where the queue is."""

    url: str = DATABASE_URL
    auto_migrate: bool = True


class State(Section):
    """The daemon's own files."""

    directory: Path = Path(STATE_DIRECTORY)


class Http(Section):
    """Where the daemon answers. `socket` empty: in the state directory."""

    listen: Listen = "127.0.0.1:9180"
    socket: str = ""

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port of `listen`; None: no TCP."""
        return listen_address(self.listen)


class Logging(Section):
    """The daemon's own log."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class Inputs(Section):
    """What jobs may read of this host."""

    allowed_roots: Roots = ()


class Loops(Section):
    """How often each loop looks when nothing wakes it."""

    machines_s: Number = Field(default=10.0, ge=0.1, le=300)
    inbox_s: Number = Field(default=2.0, ge=0.1, le=60)
    heartbeats_s: Number = Field(default=30.0, ge=0.1, le=300)
    logs_s: Number = Field(default=0.7, ge=0.1, le=60)
    intake_fallback_s: Number = Field(default=5.0, ge=0.05, le=60)
    interruptions_s: Number = Field(default=12.0, ge=0.1, le=60)
    idle_sweep_s: Number = Field(default=60.0, ge=0.5, le=3600)
    retention_s: Number = Field(default=300.0, ge=1, le=_DAY_S)


class LimitsSection(Section):
    """The bounds of decisions (`core.limits.Limits`), and those of launches."""

    boot_timeout_s: Number = Field(default=_LIMITS.boot_timeout_s, ge=1, le=7200)
    prepare_timeout_s: Number = Field(default=_LIMITS.prepare_timeout_s, ge=1, le=_DAY_S)
    heartbeat_timeout_s: Number = Field(default=_LIMITS.heartbeat_timeout_s, ge=1, le=_DAY_S)
    notice_grace_s: Number = Field(default=_LIMITS.notice_grace_s, ge=1, le=3600)
    seal_timeout_s: Number = Field(default=_LIMITS.seal_timeout_s, ge=1, le=7 * _DAY_S)
    stop_margin_s: Number = Field(default=_LIMITS.stop_margin_s, ge=1, le=_DAY_S)
    duration_margin_s: Number = Field(default=_LIMITS.duration_margin_s, ge=1, le=_DAY_S)
    logs_wait_s: Number = Field(default=_LIMITS.logs_wait_s, ge=0, le=3600)
    terminate_repeat_s: Number = Field(default=_LIMITS.terminate_repeat_s, ge=1, le=3600)
    boot_failures_max: Whole = Field(default=_LIMITS.boot_failures_max, ge=1, le=100)
    machine_lifetime_s: Number = Field(default=_LIMITS.machine_lifetime_s, ge=1, le=366 * _DAY_S)
    batch_max: Whole = Field(default=100, ge=1, le=1000)
    launches_concurrent_max: Whole = Field(default=5, ge=1, le=100)
    queue_look_ahead: Whole = Field(default=1000, ge=1, le=100_000)

    def for_decisions(self) -> Limits:
        """The bounds as the core takes them."""
        launching = {"batch_max", "launches_concurrent_max", "queue_look_ahead"}
        return Limits(**self.model_dump(exclude=launching))


Burst = Annotated[Whole, Field(ge=1, le=1_000_000)]
PerSecond = Annotated[Number, Field(ge=0.1, le=100_000)]


class Ec2LimitsSection(Section):
    """EC2's request limits (`core.ec2_limits.Ec2Limits`)."""

    run_instances_burst: Burst = _EC2.run_instances_burst
    run_instances_per_s: PerSecond = _EC2.run_instances_per_s
    run_instances_machines_burst: Burst = _EC2.run_instances_machines_burst
    run_instances_machines_per_s: PerSecond = _EC2.run_instances_machines_per_s
    terminate_instances_burst: Burst = _EC2.terminate_instances_burst
    terminate_instances_per_s: PerSecond = _EC2.terminate_instances_per_s
    terminate_instances_machines_burst: Burst = _EC2.terminate_instances_machines_burst
    terminate_instances_machines_per_s: PerSecond = _EC2.terminate_instances_machines_per_s
    describe_burst: Burst = _EC2.describe_burst
    describe_per_s: PerSecond = _EC2.describe_per_s
    other_burst: Burst = _EC2.other_burst
    other_per_s: PerSecond = _EC2.other_per_s
    calls_concurrent_max: Whole = Field(default=_EC2.calls_concurrent_max, ge=2, le=64)

    def for_pacing(self) -> Ec2Limits:
        """The limits as the AWS adapter takes them."""
        return Ec2Limits(**self.model_dump())


Count = Annotated[Whole, Field(ge=0, le=1_000_000)]
Usd = Annotated[Number, Field(ge=0, le=10_000_000)]
_NO_BOUNDS: Final = ProjectBounds()


class Project(Section):
    """What one project may have at a time (`core.bounds.ProjectBounds`)."""

    max_machines: Count = _NO_BOUNDS.max_machines
    max_vcpus: Count = _NO_BOUNDS.max_vcpus
    budget_per_day_usd: Usd = _NO_BOUNDS.budget_per_day_usd
    weight: Number = Field(default=_NO_BOUNDS.weight, ge=0.001, le=1000)


def _project_name(name: str) -> str:
    if not 1 <= len(name) <= _PROJECT_CHARS_MAX:
        message = f'is "{name}", which no job can have; use 1 to {_PROJECT_CHARS_MAX} characters'
        raise ValueError(message)
    return name


Projects = Annotated[
    dict[Annotated[str, AfterValidator(_project_name)], Project], BeforeValidator(from_json)
]


class Scheduling(Section):
    """What all jobs together may have at a time (`core.bounds.Bounds`)."""

    max_machines: Count = 0
    max_vcpus: Count = 0
    launches_per_minute: Count = 0
    budget_per_day_usd: Usd = 0.0

    def for_admission(self, projects: Mapping[str, Project]) -> Bounds:
        """The bounds as the core takes them."""
        own = {name: ProjectBounds(**project.model_dump()) for name, project in projects.items()}
        return Bounds(projects=own, **self.model_dump())


class Runner(Section):
    """What the machines are told."""

    heartbeat_s: Number = Field(default=HEARTBEAT_S, ge=0.1, le=3600)
    watch_s: Number = Field(default=WATCH_S, ge=0.1, le=60)
    log_flush_s: Number = Field(default=LOG_FLUSH_S, ge=0.05, le=60)
    silence_timeout_s: Number = Field(default=SILENCE_TIMEOUT_S, ge=1, le=_DAY_S)

    @model_validator(mode="after")
    def _silence_is_longer_than_pauses(self) -> Self:
        pause_s = max(self.heartbeat_s, self.watch_s)
        if self.silence_timeout_s < 2 * pause_s:
            message = (
                f"silence_timeout_s ({self.silence_timeout_s:g}) is less than twice the longer of heartbeat_s and "
                f"watch_s ({pause_s:g}): one call that goes wrong would end the machine"
            )
            raise ValueError(message)
        return self


class Logs(Section):
    """The jobs' output."""

    quota_mib: Whole = Field(default=1024, ge=0, le=1024 * 1024)

    @property
    def quota_bytes(self) -> int | None:
        """Of one attempt; None: no quota."""
        return self.quota_mib * 1024 * 1024 or None


class Retention(Section):
    """How long things are kept."""

    job_logs_days: Whole = Field(default=30, ge=1, le=3650)
    artifact_days: Whole = Field(default=0, ge=0, le=3000)
    keep_days: Whole = Field(default=0, ge=0, le=36_500)

    @model_validator(mode="after")
    def _logs_go_first(self) -> Self:
        if 0 < self.keep_days < self.job_logs_days:
            message = (
                f"keep_days ({self.keep_days}) is less than job_logs_days ({self.job_logs_days}): nobody would know "
                "any more whose logs they are; make job_logs_days smaller, or keep_days larger"
            )
            raise ValueError(message)
        return self


class Images(Section):
    """Machine images by kind; empty: the newest of `image_owner` named `image_name`."""

    x86_64: Image = ""
    arm64: Image = ""
    gpu: Image = ""


class Backend(Section):
    """One (account, region, bucket) in which machines run."""

    name: BackendName = "aws"
    type: Literal["aws"] = "aws"
    region: Region
    bucket: Bucket
    access_key_id: SecretStr = SecretStr("")
    secret_access_key: SecretStr = SecretStr("")
    subnet: Subnet = ""
    endpoint_url: Url = ""
    instance_profile: Profile = ""
    security_group_ids: tuple[Group, ...] = ()
    input_buckets: Annotated[tuple[InputBucket, ...], Field(max_length=INPUT_BUCKETS_MAX)] = ()
    images: Images = Images()
    image_owner: Owner = _CANONICAL
    image_name: str = Field(default=_IMAGE_NAME, min_length=1, max_length=128)

    @model_validator(mode="after")
    def _both_keys_or_none(self) -> Self:
        if bool(self.access_key_id) != bool(self.secret_access_key):
            missing = "secret_access_key" if self.access_key_id else "access_key_id"
            message = (
                f"has one key of two: {missing} is missing; give access_key_id and "
                "secret_access_key, or neither to use the default credential chain"
            )
            raise ValueError(message)
        return self
