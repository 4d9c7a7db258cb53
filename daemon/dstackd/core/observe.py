"""From a snapshot to what it says about one machine. Law: when in doubt, Unknown."""

from __future__ import annotations

from dstackd.core.instance import UNKNOWN, InstanceState, Observation, Seen, Snapshot

VISIBILITY_GRACE_MS = 120_000
"""A new instance may be missing from DescribeInstances for a while (EC2 API reference, eventual consistency):
an instance younger than this is never called absent."""

_SEEN = {
    InstanceState.PENDING: Seen.PENDING,
    InstanceState.RUNNING: Seen.RUNNING,
    InstanceState.STOPPING: Seen.STOPPED,
    InstanceState.STOPPED: Seen.STOPPED,
    InstanceState.SHUTTING_DOWN: Seen.LEAVING,
    InstanceState.TERMINATED: Seen.GONE,
}


def observe(instance_id: str, snapshot: Snapshot | None, *, launched_at_ms: int) -> Observation:
    """What `snapshot` says about `instance_id`, whose RunInstances was answered at `launched_at_ms`."""
    if snapshot is None:
        return UNKNOWN
    instance = snapshot.instances.get(instance_id)
    if instance is not None:
        return Observation(_SEEN[instance.state], instance.state_reason)
    if snapshot.taken_at_ms < launched_at_ms + VISIBILITY_GRACE_MS:
        return UNKNOWN
    return Observation(Seen.ABSENT)
