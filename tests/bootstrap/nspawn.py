"""A machine with a real systemd: this computer's own /usr, booted by systemd-nspawn.

Everything but /usr is new and in memory, and so are its processes, its network and its power: what
it powers off is itself. 169.254.169.254 answers as EC2's metadata service does: over the machine's
link, so that what is done to routes and to the firewall has the effect that it has there.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from dstackd.local.imds import MetadataServer
from tests.bootstrap.netns import Forwarder
from tests.runner.conftest import wait_until

METADATA_ADDRESS = "169.254.169.254"
MACHINE_ADDRESS = "10.0.0.1"
BOOT_S = 30.0
REBOOTED = 133
"""How systemd-nspawn says that it was asked to boot again."""
_MASKED_UNITS = (
    "systemd-firstboot.service",
    "systemd-timesyncd.service",
    "systemd-networkd.service",
    "systemd-networkd.socket",
    "systemd-networkd-wait-online.service",
)
_numbers = itertools.count(1)


def why_not() -> str:
    """What is missing on this computer; empty when machines can be booted."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "only root can boot a machine"
    for name in ("systemd-nspawn", "nsenter", "unshare", "ip"):
        if shutil.which(name) is None:
            return f"there is no {name}"
    return "" if Path("/usr/lib/systemd/systemd").exists() else "there is no systemd"


class Machine:
    """A booted machine. What runs in it is started with `run`."""

    def __init__(self, process: subprocess.Popen[bytes], leader: int, console: Path) -> None:
        self._process = process
        self._leader = leader
        self._console = console

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command inside, as root; its standard output."""
        done = subprocess.run(
            ["nsenter", "--target", str(self._leader), "--all", *command],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{command}: {done.stderr}{done.stdout}"
        return done.stdout.strip()

    def start_user_data(self, *, endpoint_url: str) -> None:
        """Run /user-data as cloud-init's last unit does (its cloud-final.service)."""
        properties = (
            "Type=oneshot",
            "RemainAfterExit=yes",
            "KillMode=process",
            "TasksMax=infinity",
        )
        options = [f"--property={each}" for each in properties]
        options += [f"--setenv=AWS_ENDPOINT_URL={endpoint_url}", "--unit=cloud-final"]
        self.run("systemd-run", "--no-block", *options, "/bin/bash", "/user-data")

    def show(self, unit: str, prop: str) -> str:
        """One property of a unit."""
        return self.run("systemctl", "show", "--property", prop, "--value", unit)

    @property
    def is_off(self) -> bool:
        """Whether the machine powered itself off."""
        return self._process.poll() is not None

    def wait_until_off(self, story: str = "", *, code: int = 0) -> None:
        """Wait for the power-off, and check that it was one (REBOOTED: a reboot)."""
        wait_until(lambda: self.is_off, seen=lambda: f"{story}\n{self.story()}", deadline_s=40)
        assert self._process.returncode == code, self.story()

    def story(self) -> str:
        """Everything that explains a failure."""
        journal = (
            "" if self.is_off else self.run("journalctl", "--no-pager", "-n", "60", check=False)
        )
        return f"{self._console.read_text(errors='replace')[-4000:]}\n{journal}"


@contextmanager
def booted(
    directory: Path,
    *,
    user_data: str,
    metadata: MetadataServer,
    endpoint_url: str,
    without: Sequence[str] = (),
    binds: Sequence[str] = (),
    disk: Path | None = None,
    again: bool = False,
) -> Iterator[Machine]:
    """Boot a machine in which the files `without` cannot be executed; nothing of it is left after.

    `binds`: `HERE:THERE`, files of this computer that are shown inside. `disk`: a folder with what lasts
    from one boot to the next. `again`: it is a later boot, which is not waited for.
    """
    name = f"dstackd-{os.getpid()}-{next(_numbers)}"
    script = directory / "user-data"
    script.write_text(user_data)
    console = directory / "console.log"
    with ExitStack() as stack:
        stack.callback(_remove_groups, name)
        shown = [f"{script}:/user-data", *binds, *(f"/dev/null:{path}" for path in without)]
        options = [f"--bind-ro={each}" for each in shown]
        if disk is not None:
            for here, there in (("etc", "/etc"), ("lib", "/var/lib/dstackd")):
                (disk / here).mkdir(parents=True, exist_ok=True)
                options.append(f"--bind={disk / here}:{there}")
        target = "multi-user.target" if again else "basic.target"
        process = _start(name, options, console, target=target)
        stack.callback(_end, process)
        leader = _wait_for_leader(process, console)
        machine = Machine(process, leader, console)
        if not again:
            _wait_for_boot(machine)
        neighbour = stack.enter_context(_link(leader))
        port = urlsplit(endpoint_url).port or 80
        for pid, address, answering in (
            (neighbour, (METADATA_ADDRESS, 80), metadata.port),
            (leader, ("127.0.0.1", port), port),
        ):
            stack.callback(Forwarder(pid, address, answering).close)
        yield machine


@contextmanager
def _link(leader: int) -> Iterator[int]:
    """A network at the other end of the machine's link, with the metadata service's address; a process in it."""
    with subprocess.Popen(["unshare", "--net", "sleep", "infinity"]) as neighbour:
        try:
            own = Path("/proc/self/ns/net").readlink()
            there = Path(f"/proc/{neighbour.pid}/ns/net")
            wait_until(lambda: there.readlink() != own)
            _configure(
                neighbour.pid,
                f"ip link add name imds type veth peer name ens5 netns {leader}",
                "ip link set lo up",
                "ip link set imds up",
                f"ip address add {METADATA_ADDRESS}/32 dev imds",
                f"ip route add {MACHINE_ADDRESS}/32 dev imds src {METADATA_ADDRESS}",
            )
            _configure(
                leader,
                f"ip address add {MACHINE_ADDRESS}/24 dev ens5",
                "ip link set ens5 up",
                f"ip route add {METADATA_ADDRESS}/32 dev ens5 src {MACHINE_ADDRESS}",
            )
            yield neighbour.pid
        finally:
            neighbour.kill()


def _configure(pid: int, *commands: str) -> None:
    """Run commands in the network of a process, and nowhere else."""
    subprocess.run(
        ["nsenter", "--target", str(pid), "--net", "sh", "-ec", "\n".join(commands)],
        check=True,
        timeout=30,
    )


def _start(
    name: str, options: Sequence[str], console: Path, *, target: str
) -> subprocess.Popen[bytes]:
    command = ["systemd-nspawn", "--quiet", "--directory=/", "--volatile=yes", "--boot"]
    command += ["--register=no", "--keep-unit", "--private-network", "--console=read-only"]
    command += [f"--machine={name}", *options, "--"]
    command += [f"systemd.unit={target}", "systemd.firstboot=0"]
    command += [f"systemd.mask={unit}" for unit in _MASKED_UNITS]
    groups = [path / name for path in _group_roots()]
    for group in groups:
        group.mkdir(exist_ok=True)
    # A group of its own: two machines in one would take each other's processes for theirs.
    enter = "".join(f"echo $$ > {group}/cgroup.procs\n" for group in groups)
    with console.open("wb") as output:
        return subprocess.Popen(
            ["sh", "-ec", f'{enter}exec "$@"', "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            start_new_session=True,
        )


def _group_roots() -> list[Path]:
    """The hierarchies that systemd uses: one, or two where there are old ones beside it."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.procs").exists():
        return [root]
    return [path for path in (root / "unified", root / "systemd") if path.exists()]


def _wait_for_leader(process: subprocess.Popen[bytes], console: Path) -> int:
    def found() -> int | None:
        path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        for child in path.read_text().split():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                    return int(child)
        assert process.poll() is None, console.read_text(errors="replace")
        return None

    wait_until(found, seen=lambda: console.read_text(errors="replace"), deadline_s=BOOT_S)
    leader = found()
    assert leader is not None
    return leader


def _wait_for_boot(machine: Machine) -> None:
    def up() -> bool:
        state = machine.run("systemctl", "is-system-running", check=False)
        return state in {"running", "degraded"}

    wait_until(up, seen=machine.story, deadline_s=BOOT_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        # Its init, not nspawn: that still has mounts to take away.
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), 9)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _remove_groups(name: str) -> None:
    for root in _group_roots():
        deadline = time.monotonic() + 10
        while (root / name).exists() and time.monotonic() < deadline:
            for folder, _, _ in os.walk(root / name, topdown=False):
                with contextlib.suppress(OSError):  # the last process has not been buried yet
                    Path(folder).rmdir()
