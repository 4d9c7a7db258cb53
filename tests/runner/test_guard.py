"""The metadata service is closed to jobs: in a network of its own, with a real server at its addresses."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from dstackd.runner.errors import StageFailed
from dstackd.runner.guard import close_metadata

JOB_UID = 998
"""A system user's, as the jobs' own is."""

NETWORK = """
set -e
ip link set lo up
unshare -n sleep 300 & cloud=$!
unshare -n sleep 300 & container=$!
trap 'kill $cloud $container $server' EXIT
server=
for pid in $cloud $container; do
  until [ "$(readlink /proc/$pid/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.01; done
done
in_cloud="nsenter -t $cloud -n" in_container="nsenter -t $container -n"

# The machine and what is behind its network card.
ip link add eth0 type veth peer name far netns $cloud
ip addr add 10.9.9.2/24 dev eth0 && ip addr add fd99::2/64 dev eth0 nodad
ip link set eth0 up
$in_cloud sh -e << 'SH'
ip link set lo up && ip link set far up
ip addr add 10.9.9.1/24 dev far && ip addr add fd99::1/64 dev far nodad
ip addr add 169.254.169.254/32 dev far && ip addr add fd00:ec2::254/128 dev far nodad
ip route add 172.17.0.0/16 via 10.9.9.2
SH
ip route add default via 10.9.9.1 && ip route add default via fd99::1

# A container behind a bridge, as far as routing sees it.
ip link add docker0 type veth peer name inside netns $container
ip addr add 172.17.0.1/16 dev docker0 && ip link set docker0 up
echo 1 > /proc/sys/net/ipv4/ip_forward
$in_container sh -e << 'SH'
ip link set inside up && ip addr add 172.17.0.2/16 dev inside && ip route add default via 172.17.0.1
SH

$in_cloud $PYTHON -c "$SERVER" & server=$!
"""

SERVER = """
import http.server, socket
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
Server(("::", 80), Answer).serve_forever()
"""

PROBE = """
import os, socket, sys, time
uid, wait_s = int(sys.argv[1]), float(sys.argv[2])
os.setgroups([]); os.setgid(uid); os.setuid(uid)
found = []
for family, address in (
    (socket.AF_INET, "169.254.169.254"),
    (socket.AF_INET6, "fd00:ec2::254"),
    (socket.AF_INET6, "::ffff:169.254.169.254"),
):
    until = time.monotonic() + wait_s
    while True:
        try:
            with socket.socket(family) as probe:
                probe.settimeout(5)
                probe.connect((address, 80))
                probe.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
                found.append(probe.recv(12).decode()[-3:])
        except OSError as error:
            if time.monotonic() < until:
                time.sleep(0.05)
                continue
            found.append(type(error).__name__)
        break
print(*found)
"""


@cache
def has_networks() -> bool:
    """Whether this computer lets us have networks, and connections between them."""
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("nsenter"):
        return False
    check = (
        "ip link add va type veth peer name vb && ip rule add to 192.0.2.1 uidrange 5-5 prohibit"
    )
    done = subprocess.run(["unshare", "-n", "sh", "-c", check], capture_output=True, check=False)
    return done.returncode == 0


needs_networks = pytest.mark.skipif(not has_networks(), reason="no network namespaces with veth")


def in_network(script: str) -> list[str]:
    """The script's output lines, in a network with a metadata service behind it."""
    done = subprocess.run(
        ["unshare", "-n", "bash", "-c", NETWORK + script],
        env={
            "PATH": os.environ["PATH"],
            "PYTHON": sys.executable,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "SERVER": SERVER,
            "PROBE": PROBE,
            "CLOSE": f"from dstackd.runner.guard import close_metadata; close_metadata({JOB_UID})",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@needs_networks
def test_root_reaches_it_and_the_job_does_not() -> None:
    """By IPv4, by IPv6, and by IPv4 in an IPv6 socket; also from user namespaces' numbers; root and the
    system's own users go on. Closing it twice is as good as once.
    """
    lines = in_network(
        f"""
$PYTHON -c "$PROBE" 0 20
$PYTHON -c "$PROBE" {JOB_UID} 0
$PYTHON -c "$CLOSE"; $PYTHON -c "$CLOSE"
for uid in 0 500 {JOB_UID} 1000 65534 100000; do $PYTHON -c "$PROBE" $uid 0; done
"""
    )
    open_, closed = "200 200 200", " ".join(["PermissionError"] * 3)
    assert lines == [*[open_] * 4, *[closed] * 4]


@needs_networks
def test_a_container_behind_a_bridge_does_not_reach_it() -> None:
    """What comes through the machine is refused, beside the hop limit, which this network does not have."""
    before, after, root = in_network(
        """
$PYTHON -c "$PROBE" 0 20 > /dev/null
$in_container $PYTHON -c "$PROBE" 0 0
$PYTHON -c "$CLOSE"
$in_container $PYTHON -c "$PROBE" 0 0
$PYTHON -c "$PROBE" 0 0
"""
    )
    assert before.split()[0] == "200"
    assert after.split()[0] == "OSError"
    assert root == "200 200 200"


@needs_networks
def test_a_machine_without_a_main_route_keeps_its_own_way() -> None:
    """Where the route is in another table, containers are left to the hop limit, and the runner goes on."""
    lines = in_network(
        f"""
ip route del default; ip route add default via 10.9.9.1 table 77; ip rule add priority 20000 lookup 77
$PYTHON -c "$PROBE" 0 20
$PYTHON -c "$CLOSE"
$PYTHON -c "$PROBE" 0 0
$PYTHON -c "$PROBE" {JOB_UID} 0
"""
    )
    assert lines == ["200 200 200", "200 200 200", " ".join(["PermissionError"] * 3)]


@needs_networks
def test_a_machine_without_ipv6_is_closed_too() -> None:
    """What does not exist needs no rule, and is no reason to fail."""
    lines = in_network(
        f"""
for name in all default lo eth0; do echo 1 > /proc/sys/net/ipv6/conf/$name/disable_ipv6; done
$PYTHON -c "$CLOSE"
$PYTHON -c "$PROBE" {JOB_UID} 0
"""
    )
    assert lines[0].split()[0] == "PermissionError"


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("exit 0", "not closed"),
        ("exit 255", "not closed"),
        ('case "$*" in *get*) echo via 10.0.0.1; exit 0;; esac; exit 2', "10.0.0.1"),
    ],
)
def test_what_is_not_proved_is_a_failure(tmp_path: Path, program: str, why: str) -> None:
    """An `ip` that does nothing, knows nothing, or whose rules do not hold: the job does not start."""
    ip = tmp_path / "ip"
    ip.write_text(f"#!/bin/sh\n{program}\n")
    ip.chmod(0o755)
    with pytest.raises(StageFailed, match=re.escape(why)) as failed:
        close_metadata(JOB_UID, ip=str(ip))
    assert failed.value.stage == "confine"


def test_without_ip_there_is_no_job() -> None:
    """An image without the program is told as such."""
    with pytest.raises(StageFailed, match="cannot close the metadata service"):
        close_metadata(JOB_UID, ip="/nowhere/ip")
