"""The one JSON form of a spec, with every default written out: what an accepted job is frozen as.

LAW: `parse_spec(to_json(spec)) == spec`, and equal specs have equal text. A default that changes
in a later version does not change a job that was accepted before.
"""

import json

from dstackd.spec.model import GpuRequest, JobSpec, RegistryAuth, Resources, RetryPolicy
from dstackd.spec.units import range_text, size_text

_OFF = "off"
Json = dict[str, object]


def to_json(spec: JobSpec) -> Json:
    """A JSON-like mapping with sorted keys; a field that is not set is null."""
    return {
        "array": spec.array,
        "artifacts": [{"every": each.every_s, "path": each.path} for each in spec.artifacts],
        "budget": spec.budget,
        "commands": list(spec.commands) or None,
        "depends_on": [{"id": each.job_id, "on": each.on.value} for each in spec.depends_on]
        or None,
        "env": dict(spec.env),
        "image": spec.image,
        "inputs": [{"source": each.source, "target": each.target} for each in spec.inputs],
        "instance_types": list(spec.instance_types),
        "labels": dict(spec.labels),
        "max_duration": _OFF if spec.max_duration_s is None else spec.max_duration_s,
        "max_price": spec.max_price,
        "name": spec.name,
        "permissions": spec.permissions.value,
        "registry_auth": _registry_auth_json(spec.registry_auth),
        "resources": _resources_json(spec.resources),
        "resume": spec.resume,
        "retry": _retry_json(spec.retry),
        "reuse": spec.reuse_s,
        "spot_policy": spec.spot_policy.value,
        "stop_grace": spec.stop_grace_s,
        "stop_signal": spec.stop_signal.value,
        "working_dir": spec.working_dir,
    }


def to_text(spec: JobSpec) -> str:
    """`to_json` as compact JSON text."""
    return json.dumps(to_json(spec), ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _resources_json(resources: Resources) -> Json:
    shm_size_mib = resources.shm_size_mib
    return {
        "arch": resources.arch,
        "cpu": range_text(resources.cpu),
        "disk": f"{resources.disk_gib}GB",
        "gpu": _gpu_json(resources.gpu),
        "memory": range_text(resources.memory_mib, unit="MB"),
        "shm_size": None if shm_size_mib is None else size_text(shm_size_mib),
    }


def _gpu_json(gpu: GpuRequest | None) -> Json | None:
    if gpu is None:
        return None
    return {
        "count": range_text(gpu.count),
        "memory": range_text(gpu.memory_mib, unit="MB"),
        "name": list(gpu.names),
    }


def _retry_json(retry: RetryPolicy) -> Json:
    return {
        "exit_codes": None if retry.exit_codes is None else list(retry.exit_codes),
        "max_attempts": retry.max_attempts,
        "on": sorted(cause.value for cause in retry.on),
        "within": retry.within_s,
    }


def _registry_auth_json(auth: RegistryAuth | None) -> Json | None:
    return None if auth is None else {"password": auth.password, "username": auth.username}
