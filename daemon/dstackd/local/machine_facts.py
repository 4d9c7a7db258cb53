"""What a machine finds: in its metadata service and in the environment of its user-data.

Law: computes, starts nothing.
"""

import base64
import hashlib
import os
import pwd
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dstackd.local.corrections.state import Launched, tags_of

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/homebrew/bin"
# Not CONTAINER_…: CONTAINER_NAME and the like are other programs' names.
_ENGINE_NAMES = frozenset(
    {"CONTAINER_HOST", "STORAGE_DRIVER", "STORAGE_OPTS", "DBUS_SESSION_BUS_ADDRESS"}
    | {"XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"}  # where Podman is without root
    | {
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
    }  # for pulls
)
_ENGINE_PREFIXES = ("CONTAINERS_", "DOCKER_")


def environment(directory: Path, *, endpoint_url: str) -> dict[str, str]:
    """Return all that a machine's user-data finds in its environment, but its metadata address."""
    home = str(directory)
    user = _user_name()
    return {
        **loader_environment(),
        **engine_environment(),
        **_job_user(),
        "PATH": ":".join(
            [f"{home}/bin", str(Path(sys.executable).parent), _SYSTEM_PATH, *_engine_folders()]
        ),
        "HOME": home,
        "TMPDIR": f"{home}/tmp",  # noqa: S108  the machine's own
        "LANG": "C.UTF-8",
        "SHELL": "/bin/sh",
        "USER": user,
        "LOGNAME": user,
        "AWS_ENDPOINT_URL": endpoint_url,
    }


def _job_user() -> dict[str, str]:
    """Whom the runner takes for its jobs' user when the cloud was started by root."""
    name = os.environ.get("DSTACKD_LOCAL_JOB_USER")
    return {"DSTACKD_LOCAL_JOB_USER": name} if name else {}


def metadata_facts(launched: Launched, key: str) -> dict[str, Any]:
    """Return what a machine's metadata service tells; shape: `imds.leaves`."""
    instance = launched.instance
    region = launched.backend.region_name
    user_data = "" if instance.user_data is None else str(instance.user_data)
    return {
        "ami_id": instance.image_id,
        "hostname": instance.private_dns_name,
        "identity": {
            "accountId": launched.backend.account_id,
            "architecture": instance.architecture,
            "availabilityZone": launched.zone,
            "imageId": instance.image_id,
            "instanceId": launched.id,
            "instanceType": instance.instance_type,
            "pendingTime": instance.launch_time.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "privateIp": instance.private_ip,
            "region": region,
            "version": "2017-09-30",
        },
        "instance_id": launched.id,
        "instance_type": instance.instance_type,
        "launch_index": launched.launch_index,
        "lifecycle": launched.market,
        "private_ip": instance.private_ip,
        "region": region,
        "reservation_id": launched.reservation.id,
        "role": _role(launched, key),
        "tags": shown_tags(launched),
        "user_data": user_data,
        "zone": launched.zone,
    }


def _role(launched: Launched, key: str) -> dict[str, Any] | None:
    if launched.role is None:
        return None
    secret = base64.b64encode(hashlib.sha256(key.encode()).digest()[:30]).decode()
    return {
        "name": launched.role.roles[0].name,
        "profile_arn": launched.role.arn,
        "profile_id": launched.role.id,
        "credentials": {
            "AccessKeyId": key,
            "SecretAccessKey": secret,
            "Token": f"local-{launched.id}",
        },
    }


def shown_tags(launched: Launched) -> Mapping[str, str] | None:
    if launched.instance.metadata_options.instance_metadata_tags != "enabled":
        return None
    return tags_of(launched)


def access_key(instance_id: str) -> str:
    """Return a key id of the form of a role's (ASIA and 16 characters), one per machine."""
    return "ASIA" + base64.b32encode(hashlib.sha256(instance_id.encode()).digest())[:16].decode()


def loader_environment() -> dict[str, str]:
    """Return what this Python may need to find its own shared libraries."""
    names = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH")
    return {name: os.environ[name] for name in names if name in os.environ}


def engine_environment() -> dict[str, str]:
    """Return where this person's Docker or Podman is: a machine has no engine of its own."""
    return {
        name: text
        for name, text in os.environ.items()
        if name in _ENGINE_NAMES or name.startswith(_ENGINE_PREFIXES)
    } | _docker_settings()


def _engine_folders() -> list[str]:
    """Where this person's engines are, if not among the system's programs: ~/.rd/bin, ~/.orbstack/bin, ..."""
    found = [shutil.which(program) for program in ("docker", "podman")]
    folders = {str(Path(program).parent): None for program in found if program}
    return [folder for folder in folders if folder not in _SYSTEM_PATH.split(":")]


def _docker_settings() -> dict[str, str]:
    """Docker looks for its context below HOME, which is another one on a machine."""
    settings = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    return {"DOCKER_CONFIG": str(settings)} if settings.is_dir() else {}


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container started with a user id that has no entry
        return "root" if os.getuid() == 0 else "ec2-user"
