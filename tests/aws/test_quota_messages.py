"""The figure of a quota is in the error's message and nowhere else."""

from __future__ import annotations

import pytest

from dstackd.aws.translation import refusal
from dstackd.errors import BlockScope, CapacityShortage

RUN = "ec2:RunInstances"
MESSAGE = (
    "You have requested more vCPU capacity than your current vCPU limit of {} allows for the instance bucket that the "
    "specified instance type belongs to. Please visit the console to request an adjustment to this limit."
)


def shortage(code: str, message: str) -> CapacityShortage:
    """What the answer means."""
    error = refusal(code, message, operation=RUN, http_status=400)
    assert isinstance(error, CapacityShortage)
    assert error.scope is BlockScope.QUOTA
    return error


@pytest.mark.parametrize("limit", [0, 1, 32, 1152])
def test_a_vcpu_limit_is_read(limit: int) -> None:
    """Also one of 0, which new accounts have for GPUs."""
    assert shortage("VcpuLimitExceeded", MESSAGE.format(limit)).limit_vcpus == limit


def test_no_figure_is_none() -> None:
    """Other words, other codes: nothing is guessed."""
    assert shortage("VcpuLimitExceeded", "You have reached your limit of 5.").limit_vcpus is None
    assert shortage("VcpuLimitExceeded", MESSAGE.format("many")).limit_vcpus is None
    assert shortage("VcpuLimitExceeded", MESSAGE.format("9" * 20)).limit_vcpus is None
    spot = shortage("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded")
    assert spot.limit_vcpus is None
    assert shortage("InstanceLimitExceeded", MESSAGE.format(4)).limit_vcpus is None
