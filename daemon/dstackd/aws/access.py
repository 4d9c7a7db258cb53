"""What a backend is configured with. Law: frozen and checked when made; a secret never shows in its repr."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from dstackd.core.ec2_limits import Ec2Limits
from dstackd.errors import ConfigError

BUCKET_LENGTH_MAX = 52
"""IAM role names end at 64 characters (IAM quotas page) and `dstack_role_` takes 12; a shortened name
would fall outside the resources that the policy allows."""


@dataclass(frozen=True, slots=True)
class AwsAccess:
    """One backend: where its machines run and who asks for them.

    Without keys the default credential chain decides (environment, shared files, instance role).
    `images`: AMI ids by `x86_64`, `arm64`, `x86_64-gpu`, `arm64-gpu`; what is missing is looked up, by
    `image_owner` and `image_name` or, for GPUs, among Amazon's own.
    """

    region: str
    bucket: str
    endpoint_url: str | None = None
    """Every API at this address instead of AWS: the cloud on this machine."""
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    subnet: str | None = None
    image_owner: str = "099720109477"
    image_name: str = "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-{arch}-server-*"
    """The newest image of this owner and name is booted; `{arch}` is amd64 or arm64. The default is Ubuntu 24.04
    of Canonical. The owner is pinned: a name alone could be anybody's image."""
    input_buckets: tuple[str, ...] = ()
    """Buckets that the machines' role may list and read, beside our prefix of its own."""
    images: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    ec2_limits: Ec2Limits = field(default_factory=Ec2Limits)

    def __post_init__(self) -> None:
        if not self.region or not self.bucket:
            raise ConfigError("a backend needs a region and a bucket")
        if len(self.bucket) > BUCKET_LENGTH_MAX:
            raise ConfigError(
                f"bucket {self.bucket!r} is longer than {BUCKET_LENGTH_MAX} characters: the IAM role named"
                " after it would be longer than IAM allows; use a bucket with a shorter name"
            )
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ConfigError(
                "access_key_id and secret_access_key go together: give both or neither"
            )
