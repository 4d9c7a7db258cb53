"""EC2's request limits as AWS publishes them. Law: figures and one look-up; the operator's raised quotas go over them.

Source: EC2 developer guide, "Request throttling for the Amazon EC2 API". The limits are per account,
region and action. A `burst` is what a bucket holds, `per_s` what falls into it in a second.
"""

from __future__ import annotations

from dataclasses import dataclass

from dstackd.core.token_bucket import BucketSize


@dataclass(frozen=True, slots=True)
class Ec2Limits:
    """The published figures. `machines`: AWS's resource tokens, one for each instance of a call."""

    run_instances_burst: int = 5
    run_instances_per_s: float = 2
    run_instances_machines_burst: int = 1000
    run_instances_machines_per_s: float = 2
    terminate_instances_burst: int = 100
    terminate_instances_per_s: float = 5
    terminate_instances_machines_burst: int = 1000
    terminate_instances_machines_per_s: float = 20
    describe_burst: int = 100
    """Of each Describe action, with a filter or in pages, as all of ours are."""
    describe_per_s: float = 20
    other_burst: int = 50
    """Of each other action; AWS has larger ones for some."""
    other_per_s: float = 5
    calls_concurrent_max: int = 10
    """EC2 calls under way at a time, and no more than half of them launches. Not AWS's: ours."""

    def requests(self, operation: str) -> BucketSize:
        """The bucket that every request of the operation takes one token from."""
        if operation == "RunInstances":
            return BucketSize(self.run_instances_burst, self.run_instances_per_s)
        if operation == "TerminateInstances":
            return BucketSize(self.terminate_instances_burst, self.terminate_instances_per_s)
        if operation.startswith("Describe"):
            return BucketSize(self.describe_burst, self.describe_per_s)
        return BucketSize(self.other_burst, self.other_per_s)

    def machines(self, operation: str) -> BucketSize | None:
        """The bucket that the operation takes a token from for each machine; most have none."""
        if operation == "RunInstances":
            return BucketSize(self.run_instances_machines_burst, self.run_instances_machines_per_s)
        if operation == "TerminateInstances":
            return BucketSize(
                self.terminate_instances_machines_burst, self.terminate_instances_machines_per_s
            )
        return None
