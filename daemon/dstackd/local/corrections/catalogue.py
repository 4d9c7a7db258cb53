"""Instance types, spot prices and images.

Law: what is offered comes from moto's own tables; prices are figures for tests and demos, in the
order of size of EC2's, not EC2's.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.models.amis import Ami, AmiBackend
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS, INSTANCE_TYPES
from moto.ec2.responses.instances import InstanceResponse
from moto.ec2.responses.spot_instances import SpotInstances

from dstackd.local.corrections.selection import keep, page, page_size
from dstackd.local.corrections.state import CloudState

IMAGE_OWNER = "099720109477"
IMAGE_NAMES = {
    "x86_64": "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-20260101",
    "arm64": "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-arm64-server-20260101",
}
_SPOT_SHARE = 0.35
_ZONE_SPREAD = 0.06
_USD_PER_VCPU = 0.0212
_USD_PER_GIB = 0.0057
_USD_PER_GPU = 0.75
_PRODUCT = "Linux/UNIX"
_PRICE_AGE_S = 300.0

_Quote = Mapping[str, Any]

_QUOTE_FILTERS: Mapping[str, Callable[[_Quote], str | None]] = {
    "availability-zone": lambda quote: quote["AvailabilityZone"],
    "instance-type": lambda quote: quote["InstanceType"],
    "product-description": lambda quote: quote["ProductDescription"],
    "spot-price": lambda quote: quote["SpotPrice"],
}


def install(state: CloudState) -> None:
    """Replace DescribeInstanceTypes and DescribeSpotPriceHistory; plant images in every region."""
    types_in_moto: Callable[[InstanceResponse], ActionResult]
    types_in_moto = InstanceResponse.describe_instance_types

    def describe_instance_types(self: InstanceResponse) -> ActionResult:
        return _describe_types(self, types_in_moto(self).result)

    def describe_spot_price_history(self: SpotInstances) -> ActionResult:
        return _describe_prices(self, state)

    def load_images(self: AmiBackend) -> None:
        plant_images(self)

    InstanceResponse.describe_instance_types = describe_instance_types  # type: ignore[method-assign]
    SpotInstances.describe_spot_price_history = describe_spot_price_history  # type: ignore[method-assign]
    AmiBackend._load_amis = load_images  # type: ignore[method-assign]


def plant_images(backend: Any) -> None:
    """Register one image per architecture, owned and named as Ubuntu's, in place of moto's."""
    for architecture, name in IMAGE_NAMES.items():
        digest = hashlib.sha256(f"{backend.region_name}/{name}".encode()).hexdigest()
        image_id = f"ami-{digest[:17]}"
        backend.amis[image_id] = Ami(
            backend,
            image_id,
            name=name,
            description="Canonical, Ubuntu, 24.04, played on this machine",
            owner_id=IMAGE_OWNER,
            public=True,
            virtualization_type="hvm",
            architecture=architecture,
            creation_date=datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None),
            image_location=f"amazon/{name}",
            hypervisor="xen",
            root_device_type="ebs",
            root_device_name="/dev/sda1",
            region_name=f"{backend.region_name}a",
        )


def _describe_types(response: InstanceResponse, everything: Any) -> ActionResult:
    """AWS: types of this region, at most 100 a page. moto: all types there are, in one page."""
    offered = {
        offer["InstanceType"]
        for offer in INSTANCE_TYPE_OFFERINGS["region"].get(response.region, ())
    }
    size = page_size(response._get_param("MaxResults"), default=100, least=5, most=100)
    types = sorted(
        (one for one in everything["InstanceTypes"] if not offered or one.name in offered),
        key=lambda one: one.name,
    )
    shown, token = page(
        types, key=lambda one: str(one.name), size=size, token=response._get_param("NextToken")
    )
    return ActionResult({"InstanceTypes": shown, "NextToken": token})


def _describe_prices(response: SpotInstances, state: CloudState) -> ActionResult:
    """AWS: recent prices per type and zone. moto: 0.00001 in 2006, and no product filter."""
    types: Sequence[str] = response._get_param("InstanceTypes", [])
    zone = response._get_param("AvailabilityZone")
    products: Sequence[str] = response._get_param("ProductDescriptions", [])
    filters: Mapping[str, Sequence[str]] = response._filters_from_querystring()
    size = page_size(response._get_param("MaxResults"), default=1000, least=1, most=1000)
    offers = INSTANCE_TYPE_OFFERINGS["availability-zone"].get(response.region, ())
    quotes = [
        _quote(state, offer["InstanceType"], offer["Location"])
        for offer in offers
        if (not types or offer["InstanceType"] in types)
        and (not zone or offer["Location"] == zone)
        and offer["InstanceType"] in INSTANCE_TYPES
    ]
    if products and not {_PRODUCT, f"{_PRODUCT} (Amazon VPC)"} & set(products):
        quotes = []
    kept = keep(quotes, filters, getters=_QUOTE_FILTERS, tags=lambda _quote: {})
    kept.sort(key=_quote_key)
    shown, token = page(kept, key=_quote_key, size=size, token=response._get_param("NextToken"))
    return ActionResult({"SpotPriceHistory": shown, "NextToken": token or ""})


def _quote(state: CloudState, instance_type: str, zone: str) -> _Quote:
    return {
        "InstanceType": instance_type,
        "AvailabilityZone": zone,
        "ProductDescription": _PRODUCT,
        "SpotPrice": f"{spot_price(state.prices, instance_type, zone):.6f}",
        "Timestamp": datetime.fromtimestamp(state.now() - _PRICE_AGE_S, tz=UTC),
    }


def _quote_key(quote: _Quote) -> str:
    return f"{quote['InstanceType']}/{quote['AvailabilityZone']}"


def on_demand_price(prices: Mapping[str, float], instance_type: str) -> float:
    """US dollars an hour: the injected figure, else an estimate from vCPUs, memory and GPUs."""
    if instance_type in prices:
        return prices[instance_type]
    facts = INSTANCE_TYPES[instance_type]
    gpus = sum(int(gpu["Count"]) for gpu in facts.get("GpuInfo", {}).get("Gpus", ()))
    return (
        _USD_PER_VCPU * int(facts["VCpuInfo"]["DefaultVCpus"])
        + _USD_PER_GIB * int(facts["MemoryInfo"]["SizeInMiB"]) / 1024
        + _USD_PER_GPU * gpus
    )


def spot_price(prices: Mapping[str, float], instance_type: str, zone: str) -> float:
    """US dollars an hour: 35 % of the on-demand figure, a few per cent apart between zones."""
    step = (ord(zone[-1]) - ord("a")) % 6
    return on_demand_price(prices, instance_type) * _SPOT_SHARE * (1 + _ZONE_SPREAD * step / 6)
