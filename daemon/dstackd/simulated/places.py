"""What the simulated region has to offer. Law: constants."""

from __future__ import annotations

from dstackd.core.launching import Image
from dstackd.core.offering import InstanceType, Subnet

REGION = "us-east-1"
ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")
SUBNETS = tuple(
    Subnet(id=f"subnet-{zone[-1]}", vpc_id="vpc-1", zone=zone, free_addresses=4000)
    for zone in ZONES
)

_X86, _ARM = ("x86_64",), ("arm64",)
TYPES = (
    InstanceType("t3.micro", 2, 1024, _X86),
    InstanceType("m5.large", 2, 8192, _X86),
    InstanceType("m5.xlarge", 4, 16384, _X86),
    InstanceType("c5.large", 2, 4096, _X86),
    InstanceType("c5.2xlarge", 8, 16384, _X86),
    InstanceType("r5.large", 2, 16384, _X86),
    InstanceType("m7g.large", 2, 8192, _ARM),
    InstanceType("g5.xlarge", 4, 16384, _X86, gpu_name="A10G", gpu_count=1, gpu_memory_mib=22_888),
    InstanceType("m5.metal", 96, 393_216, _X86, bare_metal=True),
    InstanceType("m4.large", 2, 8192, _X86, current_generation=False),
)

SPOT_PRICES = {
    "m5.large": 0.035,
    "m5.xlarge": 0.07,
    "c5.large": 0.03,
    "c5.2xlarge": 0.13,
    "r5.large": 0.04,
    "m7g.large": 0.033,
    "g5.xlarge": 0.45,
}
"""USD an hour in the first zone; each further zone costs 0.001 more."""


def spot_price(name: str, zone: str) -> float | None:
    """The price now, None where the type is not sold as spot."""
    price = SPOT_PRICES.get(name)
    return None if price is None else price + ZONES.index(zone) * 0.001


def image(architecture: str, *, gpu: bool) -> Image:
    """One image an architecture, and one more for GPUs."""
    kind = f"{architecture}-gpu" if gpu else architecture
    return Image(id=f"ami-{kind}", root_device="/dev/xvda")
