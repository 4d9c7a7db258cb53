"""LaunchRequest to and from the `launch.request` column. Law: a round trip loses nothing, so that a replay is identical."""

from __future__ import annotations

import json
from dataclasses import asdict

from dstackd.core.instance import Market
from dstackd.core.launching import Image, LaunchRequest


def dump_request(request: LaunchRequest) -> str:
    """The request as JSON text."""
    return json.dumps(asdict(request), sort_keys=True)


def load_request(text: str) -> LaunchRequest:
    """The request that `dump_request` wrote."""
    value = json.loads(text)
    return LaunchRequest(
        **{
            **value,
            "market": Market(value["market"]),
            "image": Image(**value["image"]),
            "tags": tuple((key, text) for key, text in value["tags"]),
            "security_group_ids": tuple(value["security_group_ids"]),
        }
    )
