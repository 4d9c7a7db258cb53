"""Who this machine is. Law: everything comes from the metadata service.

One static user-data serves every launch: the instance's own tags name the launch, and
`ami-launch-index` its place in it (AWS, "AMI launch index value").
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from dstackd import protocol
from dstackd.runner.errors import Unreachable
from dstackd.runner.imds import Imds
from dstackd.runner.pace import Deadline, backoff_s

PATIENCE_S = 120.0
"""Tags may not be visible in the first second."""

T = TypeVar("T")


@dataclass(frozen=True)
class Identity:
    """What the machine knows of itself before it has read anything from the bucket."""

    instance_id: str
    region: str
    bucket: str
    launch_id: str
    launch_index: int


def read_identity(imds: Imds, *, patience_s: float = PATIENCE_S) -> Identity:
    """Raises Unreachable when something is missing for all of `patience_s`."""
    return _insist(lambda: _read(imds), patience_s=patience_s)


def _read(imds: Imds) -> Identity:
    tags = "meta-data/tags/instance/"
    return Identity(
        instance_id=imds.require("meta-data/instance-id"),
        region=imds.require("meta-data/placement/region"),
        bucket=imds.require(tags + protocol.TAG_BUCKET),
        launch_id=imds.require(tags + protocol.TAG_LAUNCH),
        launch_index=int(imds.require("meta-data/ami-launch-index")),
    )


def _insist(read: Callable[[], T], *, patience_s: float) -> T:
    deadline = Deadline(patience_s)
    tries = 0
    while True:
        try:
            return read()
        except Unreachable:
            wait_s = backoff_s(tries)
            if wait_s >= deadline.left_s():
                raise
        time.sleep(wait_s)
        tries += 1
