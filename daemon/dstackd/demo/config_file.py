"""The daemon's configuration file for the demo. Law: a file that an operator could have written; nothing is told by other ways."""

from __future__ import annotations

import json
from typing import Final

from dstackd.demo.places import Places

REGION: Final = "eu-central-1"
BUCKET: Final = "dstackd-demo"
ACCESS_KEY_ID: Final = "dstackd-demo"

_TEMPLATE: Final = """\
# Written by `dstackd demo`: a cloud that answers in milliseconds, so everything is looked at often.
[database]
url = {database}

[state]
directory = {state}

[http]
listen = ""
socket = {socket}

[inputs]
allowed_roots = [{texts}]

[loops]
machines_s = 0.5
inbox_s = 0.3
heartbeats_s = 2.0
logs_s = 0.3
idle_sweep_s = 2.0
retention_s = 5.0

[limits]
boot_timeout_s = 60.0
heartbeat_timeout_s = 60.0
notice_grace_s = 20.0
logs_wait_s = 20.0
terminate_repeat_s = 5.0

[runner]
heartbeat_s = 2.0
watch_s = 0.5
log_flush_s = 0.3

[[backends]]
name = "local"
region = {region}
bucket = {bucket}
endpoint_url = {endpoint_url}
access_key_id = {access_key_id}
secret_access_key = "not-checked-by-a-cloud-of-this-machine"
"""


def config_text(places: Places, *, endpoint_url: str) -> str:
    """The file's content."""
    values = {
        "database": f"sqlite:///{places.database}",
        "state": str(places.state),
        "socket": str(places.socket),
        "texts": str(places.texts),
        "region": REGION,
        "bucket": BUCKET,
        "endpoint_url": endpoint_url,
        "access_key_id": ACCESS_KEY_ID,
    }
    # A JSON string in ASCII is a TOML basic string.
    return _TEMPLATE.format(**{name: json.dumps(value) for name, value in values.items()})
