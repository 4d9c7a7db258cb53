"""What the job may not do, prepared. Law: a job that is to be confined is confined, or it does not start.

`permissions: job` on a machine of ours: a user of its own, no way to more rights, no way to the
machine's role. On a computer that only plays machines (`power.LOCAL_VARIABLE`) neither users nor
routes are touched: the commands run as whoever plays, or as the user whom LOCAL_USER_VARIABLE names.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dstackd.launch_document import PERMISSIONS_MACHINE, JobDocument
from dstackd.runner.account import STAGE, Account, existing_account, job_account, own_account
from dstackd.runner.cgroup import job_memory_max_bytes, own_places
from dstackd.runner.descendants import Descendants
from dstackd.runner.direct import Direct
from dstackd.runner.errors import StageFailed
from dstackd.runner.guard import close_metadata
from dstackd.runner.job_group import make_group
from dstackd.runner.journal import Journal
from dstackd.runner.ownership import give
from dstackd.runner.power import is_played
from dstackd.runner.processes import Processes
from dstackd.runner.trees import remove

LOCAL_USER_VARIABLE = "DSTACKD_LOCAL_JOB_USER"
"""The user for jobs on a computer that plays machines, where the player is root."""
MAY_PASS = 0o011
"""Some images give new folders to root alone."""
HOME = "home"
"""The folder's name below the runner's own."""


@dataclass(frozen=True)
class Confinement:
    """Who a job is on this machine; `own` and `enclosure` need no more than that."""

    account: Account
    no_new_privs: bool
    is_machine_ours: bool
    say: Callable[[str], None]

    def own(self, folder: str) -> None:
        """Give the folder and all that is in it to the job's user. Raises StageFailed."""
        if not self.account.is_other:
            return
        try:
            give(folder, uid=self.account.uid, gid=self.account.gid)
        except OSError as error:
            raise StageFailed(STAGE, f"cannot give the job its folder: {error}") from error

    def enclosure(self) -> Direct:
        """The machine itself, for one run of the commands."""
        return Direct(
            account=self.account,
            gather=self._processes,
            no_new_privs=self.no_new_privs,
            say=self.say,
        )

    def _processes(self) -> Processes:
        group = make_group(
            list(own_places()),
            limit_bytes=job_memory_max_bytes(),
            divides=self.is_machine_ours,
            say=self.say,
        )
        return Descendants() if group is None else group


def confine(
    job: JobDocument, *, base_dir: str, environ: Mapping[str, str], journal: Journal
) -> Confinement:
    """Make the job's user and close the metadata service to it. Raises StageFailed."""
    is_ours = not is_played(environ)
    may_have_machine = job.permissions == PERMISSIONS_MACHINE
    return Confinement(
        account=_account(job, is_ours=is_ours, home=os.path.join(base_dir, HOME), environ=environ),
        no_new_privs=not may_have_machine,
        is_machine_ours=is_ours,
        say=journal.say,
    )


def _account(job: JobDocument, *, is_ours: bool, home: str, environ: Mapping[str, str]) -> Account:
    if job.permissions == PERMISSIONS_MACHINE:
        return own_account(environ.get("HOME"))
    if is_ours:
        if os.geteuid() != 0:
            raise StageFailed(STAGE, "the runner is not root, so it cannot confine the job")
        account = job_account(home=home)
        close_metadata(account.uid)
    else:
        name = environ.get(LOCAL_USER_VARIABLE)
        if not name or os.geteuid() != 0:
            return own_account(environ.get("HOME"))
        account = existing_account(name, home=home)
    _fresh_home(account)
    return account


def _fresh_home(account: Account) -> None:
    """Below the runner's folder, which the user may then pass through. Raises StageFailed."""
    above = os.path.dirname(account.home)
    try:
        os.chmod(above, stat.S_IMODE(os.stat(above).st_mode) | MAY_PASS)
        remove(account.home)
        os.mkdir(account.home, 0o700)
        os.chown(account.home, account.uid, account.gid)
    except OSError as error:
        raise StageFailed(STAGE, f"cannot make the job's home: {error}") from error
