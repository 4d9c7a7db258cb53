"""Machines that nobody needs. Law: only what carries our tags, is old enough, and has no live attempt is an orphan."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from dstackd.core.instance import Instance, InstanceState, Snapshot

ORPHAN_GRACE_MS = 120_000
"""A machine younger than this is never an orphan: its launch may still be on its way into the table."""

_COSTS_MONEY = frozenset(
    {InstanceState.PENDING, InstanceState.RUNNING, InstanceState.STOPPING, InstanceState.STOPPED}
)


def find_orphans(
    snapshot: Snapshot,
    *,
    needed_ids: AbstractSet[str],
    open_launch_ids: AbstractSet[str],
    now_ms: int,
) -> tuple[Instance, ...]:
    """Machines in `snapshot` without a live attempt.

    `needed_ids`: instances of attempts that are not over. `open_launch_ids`: launches without a saved answer;
    their machines are somebody's, we just do not know yet whose. Both must be read *after* the snapshot was
    taken, so that a launch saved in between does not look like an orphan.
    """
    return tuple(
        instance
        for instance in snapshot.instances.values()
        if instance.state in _COSTS_MONEY
        and instance.instance_id not in needed_ids
        and instance.launch_id not in open_launch_ids
        and now_ms - instance.launched_at_ms > ORPHAN_GRACE_MS
    )
