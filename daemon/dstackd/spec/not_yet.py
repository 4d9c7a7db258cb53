"""Fields that the spec knows and the daemon cannot honour yet.

LAW: one table. A row refuses the field with its problem and its fix; deleting the row turns the
field on, because its reader is already there. A field is never accepted and then ignored.
"""

from typing import Final, NamedTuple

S3_INPUT: Final = "inputs: s3://"
SECRET_IN_ENV: Final = "env: ${{ secrets.NAME }}"  # noqa: S105 - how a reference is written


class NotYet(NamedTuple):
    """Why a field is refused today, and what to do instead."""

    problem: str
    fix: str


NOT_YET: Final[dict[str, NotYet]] = {
    "image": NotYet(
        "containers are not available yet: commands run directly on the machine",
        "remove it and install what the job needs in its commands",
    ),
    "registry_auth": NotYet(
        "containers are not available yet, so there is no registry to log in to",
        "remove it",
    ),
    "depends_on": NotYet(
        "a job cannot wait for another job yet",
        "remove it, and insert this job when the other one has ended",
    ),
    "resources.shm_size": NotYet(
        "it sizes the /dev/shm of a container, and containers are not available yet",
        "remove it; without a container the job uses the machine's own /dev/shm",
    ),
    "artifacts.every": NotYet(
        "uploading an artifact while the job runs is not available yet",
        "write the path alone; it is uploaded when the attempt ends",
    ),
    S3_INPUT: NotYet(
        "inputs from S3 are not available yet",
        "give a path of the control host, such as ./data:data",
    ),
    SECRET_IN_ENV: NotYet(
        "secrets are not available yet; the value would have been passed as plain text",
        "remove the variable; what is written here is kept readable in the job's row",
    ),
}
