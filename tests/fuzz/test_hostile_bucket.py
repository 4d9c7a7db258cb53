"""What anybody may write into the bucket and the log group: it stops no loop, costs no other job anything, and is held for nothing."""

from __future__ import annotations

from dstackd import protocol
from tests.builders import spec_json
from tests.controllers.installation import Installation

NASTY_KEYS = (
    "",
    "/",
    "i-1",
    "i-1/",
    "i-1/1!booted!-!0",
    f"i-1/{'9' * 900}!done!-!0",
    f"i-1/000001!done!job-1!{'9' * 900}",
    "i-1/000001!done!job-1!1!" + "!".join(["9" * 30] * 20),
    "i-1/٣!booted!job-1!²",
    "i-1/000001!failed!-!0!a=00b!=1B[2J",
    "i-1/000001!" + "!" * 500,
    "../../i-1/000001!booted!job-1!1",
    "i-\x00/000001!booted!-!0",
    "\ud800/000001!booted!-!0",
    "i-1/000001!exited!job-1!1!-1!oom!SIGKILL",
    "i-1/000001!done!job-1!1!1!1!0!0!idle!99999999999!99999999999",
)


async def test_foreign_keys_stop_no_loop(world: Installation) -> None:
    """With nonsense in the inbox, among the heartbeats and the control objects, jobs still come to their end."""
    bucket = world.cloud.bucket
    for key in NASTY_KEYS:
        await bucket.put(f"{protocol.INBOX_PREFIX}{key}", b"")
        await bucket.put(f"{protocol.HEARTBEAT_PREFIX}{key}", b"")
    world.insert(spec_json())
    await world.until_over("job-1")
    assert world.job()["phase"] == "succeeded"


async def test_foreign_keys_are_not_looked_at_again(world: Installation) -> None:
    """A thousand of them cost one look each: nothing is kept but their names, and those only as long as they lie there."""
    bucket = world.cloud.bucket
    keys = [f"{protocol.INBOX_PREFIX}i-{n}/000001!booted!other-{n}!1" for n in range(1000)]
    for key in keys:
        await bucket.put(key, b"")
    world.insert(spec_json())
    await world.until_over("job-1")
    inbox = world.daemon.inbox
    kept = inbox._foreign | inbox._early
    assert kept <= {head.key for head in await bucket.list(protocol.INBOX_PREFIX)}
