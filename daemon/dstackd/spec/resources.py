"""How `resources` is read: what the machine must have.

LAW: values in, model classes out (see reading.py).
"""

import re
from typing import cast

from dstackd.spec import limits
from dstackd.spec.model import Arch, GpuRequest, Range, Resources
from dstackd.spec.reading import Fields, Problems, RefusedError, refuse
from dstackd.spec.scalars import text, whole_number
from dstackd.spec.units import range_of, size_mib

_CPU_FIX = "write a number of vCPUs or a range, such as 4, 4.., 2..8 or ..8"
_MEMORY_FIX = "write a size or a range, such as 16GB, 16GB.. or 8GB..32GB"
_DISK_FIX = "write a whole number of GB, such as 100GB"
_SHM_FIX = "write a size, such as 16GB"
_GPU_FIX = "write a count, a name, a memory, or these with colons, such as 1, A10G, 24GB, A10G:2"
_COUNT_FIX = "write a number of GPUs or a range, such as 1, 1.. or 1..2; leave gpu out for none"
_ARCH_FIX = "write x86_64 or arm64"

_ARCHES = {"x86_64": "x86_64", "amd64": "x86_64", "arm64": "arm64", "aarch64": "arm64"}
_GPU_NAME = re.compile(r"[A-Za-z][A-Za-z0-9 _-]*")
_COUNT_TOKEN = re.compile(r"[0-9]*(\.\.)?[0-9]*")
_SIZE_TOKEN = re.compile(r"(\.\.)?[0-9.]+\s*([MGT]I?B?)?(\.\..*)?", re.IGNORECASE)
_MIB_IN_GIB = 1024

_cpu = range_of(
    whole_number(low=1, high=limits.CPU_MAX, fix=_CPU_FIX, expected="a whole number of vCPUs"),
    fix=_CPU_FIX,
)
_memory = range_of(
    size_mib(low_mib=1, high_mib=limits.MEMORY_MIB_MAX, fix=_MEMORY_FIX), fix=_MEMORY_FIX
)
_shm_size = size_mib(low_mib=1, high_mib=limits.MEMORY_MIB_MAX, fix=_SHM_FIX)
_disk = range_of(
    size_mib(
        low_mib=limits.DISK_GIB_MIN * _MIB_IN_GIB,
        high_mib=limits.DISK_GIB_MAX * _MIB_IN_GIB,
        fix=_DISK_FIX,
    ),
    fix=_DISK_FIX,
)
_count = range_of(whole_number(low=1, high=limits.GPU_COUNT_MAX, fix=_COUNT_FIX), fix=_COUNT_FIX)


def default_resources(*, any_size: bool) -> Resources:
    """The machine of a job that does not say; `any_size` where its instance types say it."""
    return Resources(cpu=Range(), memory_mib=Range()) if any_size else Resources()


def read_resources(
    problems: Problems, path: str, value: object, *, default: Resources
) -> Resources:
    """The `resources` block; fields that are not given are those of `default`."""
    if not isinstance(value, dict):
        problems.add(
            path, "is not a mapping", "write its fields, such as {cpu: 4.., memory: 16GB..}"
        )
        return default
    fields = Fields(problems, path, value)
    resources = Resources(
        cpu=fields.take("cpu", _cpu, default.cpu),
        memory_mib=fields.take("memory", _memory, default.memory_mib),
        gpu=fields.take_block("gpu", _read_gpu, default.gpu),
        disk_gib=fields.take("disk", _read_disk, default.disk_gib),
        shm_size_mib=fields.take("shm_size", _shm_size, default.shm_size_mib),
        arch=fields.take("arch", _read_arch, default.arch),
    )
    fields.refuse_unknown()
    return resources


def _read_disk(value: object) -> int:
    """The volume is as small as the spec allows, so of a range only the lower end counts."""
    size = _disk(value).min
    if size is None:
        raise RefusedError("has no lower end", _DISK_FIX)
    if size % _MIB_IN_GIB:
        raise RefusedError("is not a whole number of GB", f"write {size // _MIB_IN_GIB + 1}GB")
    return size // _MIB_IN_GIB


def _read_arch(value: object) -> Arch:
    arch = _ARCHES.get(value) if isinstance(value, str) else None
    if arch is None:
        refuse(value, "a processor architecture of EC2", _ARCH_FIX)
    return cast("Arch", arch)


def _read_gpu(problems: Problems, path: str, value: object) -> GpuRequest | None:
    if isinstance(value, dict):
        return _read_gpu_mapping(problems, path, value)
    return problems.read(path, value, _read_gpu_text, None)


def _read_gpu_mapping(
    problems: Problems, path: str, value: dict[object, object]
) -> GpuRequest | None:
    fields = Fields(problems, path, value)
    default = GpuRequest()
    count = fields.raw("count")
    request = GpuRequest(
        names=fields.take_block("name", _read_names, default.names),
        count=fields.take("count", _count, default.count) if not _is_zero(count) else default.count,
        memory_mib=fields.take("memory", _memory, default.memory_mib),
    )
    fields.refuse_unknown()
    return None if _is_zero(count) else request


def _read_names(problems: Problems, path: str, value: object) -> tuple[str, ...]:
    names = [
        problems.read(at, member, _read_name, "")
        for at, member in problems.items(path, value, items_max=limits.GPU_NAMES_MAX)
    ]
    return tuple(names)


def _read_name(value: object) -> str:
    fix = "write the name that EC2 uses, such as A10G, L4, T4 or A100"
    name = text(value, fix=fix, chars_max=limits.GPU_NAME_CHARS_MAX).strip()
    if not _GPU_NAME.fullmatch(name):
        refuse(value, "the name of a GPU", fix)
    return name


def _is_zero(value: object) -> bool:
    return value is not None and value is not False and value in (0, "0")


def _read_gpu_text(value: object) -> GpuRequest | None:
    """`1`, `A10G`, `A10G,L4:1..2`, `24GB..`, `A100:40GB:2`: each kind of part at most once."""
    if _is_zero(value):
        return None
    if isinstance(value, bool) or not isinstance(value, int | str):
        refuse(value, "a GPU request", _GPU_FIX)
    if isinstance(value, int):
        return GpuRequest(count=_count(value))
    parts: dict[str, object] = {}
    for part in text(value, fix=_GPU_FIX, chars_max=200).split(":"):
        kind = _kind_of(part.strip())
        if not part.strip():
            raise RefusedError("has an empty part", _GPU_FIX)
        if kind in parts:
            raise RefusedError(f"has two parts for the {kind}", _GPU_FIX)
        parts[kind] = part.strip()
    return _request_of(parts)


def _kind_of(part: str) -> str:
    if part and _COUNT_TOKEN.fullmatch(part):
        return "count"
    return "memory" if _SIZE_TOKEN.fullmatch(part) else "name"


def _request_of(parts: dict[str, object]) -> GpuRequest:
    default = GpuRequest()
    names = str(parts["name"]).split(",") if "name" in parts else []
    return GpuRequest(
        names=tuple(_read_name(name) for name in names),
        count=_count(parts["count"]) if "count" in parts else default.count,
        memory_mib=_memory(parts["memory"]) if "memory" in parts else default.memory_mib,
    )
