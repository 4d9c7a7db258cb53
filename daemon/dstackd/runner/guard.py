"""The metadata service, closed to jobs. Law: either the kernel says that the job's user does not reach
it, or the job does not start.

Rules of policy routing, because `ip` is on every stock image (Amazon Linux 2023 and Ubuntu bring
neither iptables nor nft alike), and because the kernel can be asked whether they hold. A rule looks
at the user of the socket (`uidrange`, Linux 4.10), and `prohibit` is "permission denied" at once.
The two addresses are those of the EC2 user guide, "Limit access to the Instance Metadata Service".
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

from dstackd.runner.account import STAGE
from dstackd.runner.errors import StageFailed

IPV4 = "169.254.169.254"
IPV6 = "fd00:ec2::254"
IP_S = 20.0
FIRST_PRIORITY = 100
"""After the kernel's own rule for local addresses (0), before those that images make (from 10,000)."""
FIRST_ORDINARY_UID = 1000
"""Users from here on are people's, or numbers inside a user namespace that the job made."""
LAST_UID = 4_294_967_294
_REFUSED = 2
"""What `ip` exits with when the kernel said no; a wrong use of `ip` is another number."""


def close_metadata(uid: int, *, ip: str | None = None) -> None:
    """Close it to the job's user, to ordinary users, and to what containers send through this
    machine. Doing it again changes nothing. Raises StageFailed.
    """
    command = ip or shutil.which("ip") or "/usr/sbin/ip"
    for family, address in (("-4", IPV4), ("-6", IPV6)):
        for rule in _closed_to_users(uid, address):
            # What this answers does not matter (the rule may be there); what holds does.
            _ip(command, family, "rule", "add", *rule)
        answer = _ip(command, family, "route", "get", address, "uid", str(uid))
        if answer.returncode != _REFUSED:
            raise StageFailed(STAGE, f"{address} is not closed to the job's user: {_said(answer)}")
        _close_to_containers(command, family, address)


def _closed_to_users(uid: int, address: str) -> Iterator[list[str]]:
    for at, users in enumerate((f"{uid}-{uid}", f"{FIRST_ORDINARY_UID}-{LAST_UID}")):
        yield [*_priority(at), "to", address, "uidrange", users, "prohibit"]


def _close_to_containers(command: str, family: str, address: str) -> None:
    """What does not begin on this machine. Beside the hop limit of the launch, so it may fail; but the
    machine's own way must stay open.
    """
    before = _reaches(command, family, address)
    ours = [*_priority(2), "to", address, "iif", "lo", "lookup", "main"]
    theirs = [*_priority(3), "to", address, "prohibit"]
    if _ip(command, family, "rule", "add", *ours).returncode in {0, _REFUSED}:
        _ip(command, family, "rule", "add", *theirs)
    if before and not _reaches(command, family, address):
        _ip(command, family, "rule", "del", *theirs)


def _reaches(command: str, family: str, address: str) -> bool:
    return _ip(command, family, "route", "get", address, "uid", "0").returncode == 0


def _priority(at: int) -> list[str]:
    return ["priority", str(FIRST_PRIORITY + at)]


def _said(answer: subprocess.CompletedProcess[bytes]) -> str:
    return (answer.stdout + answer.stderr).decode("utf-8", "replace").strip()


def _ip(command: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Raises StageFailed when there is no `ip` that ends."""
    try:
        return subprocess.run([command, *arguments], capture_output=True, timeout=IP_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StageFailed(
            STAGE, f"cannot close the metadata service to the job: {error}"
        ) from error
