"""TerminateInstances for many. Law: one bad id never keeps another machine running.

EC2 terminates nothing when one id of the list is unknown (EC2 API reference, TerminateInstances),
and denies the whole call when one instance lacks the tag that the policy asks for.
"""

from __future__ import annotations

from collections.abc import Sequence

from dstackd.aws.api import Api
from dstackd.errors import CloudError, NotFound, Unauthorized

BATCH_MAX = 100
_ABOUT_ONE = frozenset({"UnauthorizedOperation", "OperationNotPermitted"})
"""Denials that one instance of the list may have caused; an expired key is not the fault of any."""


async def terminate(ec2: Api, instance_ids: Sequence[str]) -> None:
    """Ask for all of them. Ids that EC2 does not know are passed over; a denial is raised at the end."""
    ids = tuple(dict.fromkeys(instance_ids))
    denials: list[CloudError] = []
    for start in range(0, len(ids), BATCH_MAX):
        await _terminate(ec2, ids[start : start + BATCH_MAX], denials)
    if denials:
        raise denials[0]


async def _terminate(ec2: Api, ids: Sequence[str], denials: list[CloudError]) -> None:
    """`denials` collects what stays refused when the id stands alone."""
    try:
        await ec2.call("TerminateInstances", InstanceIds=list(ids))
    except (NotFound, Unauthorized) as error:
        if isinstance(error, Unauthorized) and error.code not in _ABOUT_ONE:
            raise
        named = [instance_id for instance_id in ids if instance_id in error.message]
        if isinstance(error, NotFound) and (len(ids) == 1 or len(named) == len(ids)):
            return
        if len(ids) == 1:
            denials.append(error)
            return
        for part in _split(ids, named):
            await _terminate(ec2, part, denials)


def _split(ids: Sequence[str], named: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The ids that AWS's message complains of apart from the rest; halves when that tells nothing."""
    if 0 < len(named) < len(ids):
        return tuple(one for one in ids if one not in named), named
    return ids[: len(ids) // 2], ids[len(ids) // 2 :]
