"""Fields that the spec knows and the daemon cannot honour yet.

LAW: one table. A row refuses the field with its problem and its fix; deleting the row turns the
field on, because its reader is already there. A field is never accepted and then ignored.
"""

from typing import Final, NamedTuple


class NotYet(NamedTuple):
    """Why a field is refused today, and what to do instead."""

    problem: str
    fix: str


NOT_YET: Final[dict[str, NotYet]] = {
    "depends_on": NotYet(
        "a job cannot wait for another job yet",
        "remove it, and insert this job when the other one has ended",
    ),
}
