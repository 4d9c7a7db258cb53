"""Every instance type of the region. Law: asked of EC2 once a day, kept on disk; a spoilt cache is no error.

The region has about a thousand types, ten pages of DescribeInstanceTypes (MaxResults is 100 at most).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import anyio

from dstackd.aws.api import Api
from dstackd.aws.translation import reading
from dstackd.aws.untyped import Untyped
from dstackd.core.offering import InstanceType
from dstackd.ports import Clock

CACHE_VERSION = 1
AGE_MAX_MS = 24 * 3_600_000
_ARCHITECTURES = ("x86_64", "arm64")
_MARKETS = ("on-demand", "spot")


class TypeCatalogue:
    """Reads the cache file, or EC2 when the file is missing, old or unreadable."""

    def __init__(self, ec2: Api, *, path: anyio.Path, clock: Clock) -> None:
        self._ec2 = ec2
        self._path = path
        self._clock = clock

    async def read(self) -> tuple[InstanceType, ...]:
        """In the order of their names."""
        cached = await self._cached()
        if cached is not None:
            return cached
        types = await self._ask()
        await self._keep(types)
        return types

    async def _ask(self) -> tuple[InstanceType, ...]:
        found: dict[str, InstanceType] = {}
        async for page in self._ec2.pages("DescribeInstanceTypes", MaxResults=100):
            with reading("ec2:DescribeInstanceTypes"):
                kinds = [instance_type(answer) for answer in page["InstanceTypes"]]
            found |= {kind.name: kind for kind in kinds if kind.architectures and kind.markets}
        return tuple(found[name] for name in sorted(found))

    async def _cached(self) -> tuple[InstanceType, ...] | None:
        try:
            held = json.loads(await self._path.read_bytes())
            age_ms = self._clock.now_ms() - int(held["taken_at_ms"])
            if held["version"] != CACHE_VERSION or not 0 <= age_ms <= AGE_MAX_MS:
                return None
            return tuple(_thawed(fields) for fields in held["types"]) or None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    async def _keep(self, types: tuple[InstanceType, ...]) -> None:
        held = {
            "version": CACHE_VERSION,
            "taken_at_ms": self._clock.now_ms(),
            "types": [asdict(kind) for kind in types],
        }
        await self._path.parent.mkdir(parents=True, exist_ok=True)
        # Beside it and then over it: a reader never sees half a file.
        fresh = self._path.with_suffix(f".{self._clock.new_id()}.new")
        await fresh.write_text(json.dumps(held))
        await fresh.replace(self._path)


def instance_type(answer: Mapping[str, Untyped]) -> InstanceType:
    """One entry of DescribeInstanceTypes. Architectures and markets that no job can ask for are left out."""
    gpu: Untyped = next(iter(answer.get("GpuInfo", {}).get("Gpus", ())), {})
    architectures = answer.get("ProcessorInfo", {}).get("SupportedArchitectures", ())
    return InstanceType(
        name=answer["InstanceType"],
        cpu=int(answer["VCpuInfo"]["DefaultVCpus"]),
        memory_mib=int(answer["MemoryInfo"]["SizeInMiB"]),
        architectures=tuple(name for name in _ARCHITECTURES if name in architectures),
        markets=tuple(name for name in _MARKETS if name in answer.get("SupportedUsageClasses", ())),
        gpu_name=str(gpu.get("Name", "")),
        # A part of a GPU (g6f) is counted as one: what matters is that nobody gets it who did not ask.
        gpu_count=max(int(gpu.get("Count", 0)), 1) if gpu else 0,
        gpu_memory_mib=int(gpu.get("MemoryInfo", {}).get("SizeInMiB", 0)),
        bare_metal=bool(answer.get("BareMetal", False)),
        current_generation=bool(answer.get("CurrentGeneration", True)),
    )


def _thawed(fields: dict[str, Any]) -> InstanceType:
    for name in ("architectures", "markets"):
        fields[name] = tuple(fields[name])
    return InstanceType(**fields)
