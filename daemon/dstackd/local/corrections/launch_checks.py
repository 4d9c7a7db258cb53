"""What EC2 refuses of a RunInstances call and moto lets through, or refuses with another code.

Law: reads the call, changes nothing.
"""

import base64
import re
from typing import Any

from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.ec2.responses.instances import InstanceResponse
from moto.ec2.utils import filter_iam_instance_profiles
from moto.iam.exceptions import NotFoundException

from dstackd.local.corrections.catalogue import spot_price
from dstackd.local.corrections.errors import refuse
from dstackd.local.corrections.state import CloudState

USER_DATA_LIMIT_BYTES = 16_384
_METADATA_TAG_KEY = re.compile(r"[0-9a-zA-Z\-_+=,.@:]{1,255}")


def refuse_bad_launch(response: InstanceResponse, state: CloudState, *, zone: str) -> None:
    """Refuse what EC2 refuses and moto lets through."""
    user_data = response._get_param("UserData")
    if user_data is not None and len(base64.b64decode(user_data)) > USER_DATA_LIMIT_BYTES:
        raise refuse("InvalidUserData.Malformed", "User data is limited to 16384 bytes")
    _refuse_unknown_shape(response)
    _refuse_tag_keys(response)
    _refuse_low_price(response, state, zone)


def _refuse_unknown_shape(response: InstanceResponse) -> None:
    image_id = response._get_param("ImageId")
    instance_type = response._get_param("InstanceType", "m1.small")
    image = response.ec2_backend.amis.get(image_id)
    if image is None:
        raise refuse("InvalidAMIID.NotFound", f"The image id '[{image_id}]' does not exist")
    if instance_type not in INSTANCE_TYPES:
        raise refuse(
            "InvalidParameterValue",
            f"Invalid value '{instance_type}' for InstanceType.",
        )
    offered = INSTANCE_TYPES[instance_type]["ProcessorInfo"]["SupportedArchitectures"]
    if image.architecture not in offered:
        raise refuse(
            "InvalidParameterValue",
            f"The architecture '{','.join(offered)}' of the specified instance type does not match "
            f"the architecture '{image.architecture}' of the specified AMI. Specify an instance "
            "type and an AMI that have matching architectures, and try again.",
        )


def _refuse_tag_keys(response: InstanceResponse) -> None:
    if response._get_param("MetadataOptions.InstanceMetadataTags") != "enabled":
        return
    for key in response._parse_tag_specification().get("instance", {}):
        if not _METADATA_TAG_KEY.fullmatch(key) or key in {".", "..", "_index"}:
            raise refuse(
                "InvalidParameterValue",
                f"'{key}' is not a valid tag key. Tag keys must match pattern "
                "([0-9a-zA-Z\\-_+=,.@:]{1,255}), and must not be a reserved name "
                "('.', '..', '_index').",
            )


def _refuse_low_price(response: InstanceResponse, state: CloudState, zone: str) -> None:
    bid = response._get_param("InstanceMarketOptions.SpotOptions.MaxPrice")
    if bid is None:
        return
    price = spot_price(state.prices, response._get_param("InstanceType", "m1.small"), zone)
    if float(bid) < price:
        raise refuse(
            "SpotMaxPriceTooLow",
            f"Your Spot request price of {bid} is lower than the minimum required Spot request "
            f"fulfillment price of {price:.6f}.",
        )


def asked_profile(response: InstanceResponse) -> Any:
    """Return moto's instance profile or None; moto refuses with NoSuchEntity, EC2 does not."""
    name = response._get_param("IamInstanceProfile.Name")
    arn = response._get_param("IamInstanceProfile.Arn")
    if not name and not arn:
        return None
    try:
        profile = filter_iam_instance_profiles(
            response.current_account,
            partition=response.partition,
            iam_instance_profile_arn=arn,
            iam_instance_profile_name=name,
        )
    except NotFoundException:
        what = "name" if name else "arn"
        raise refuse(
            "InvalidParameterValue",
            f"Value ({name or arn}) for parameter iamInstanceProfile.{what} is invalid. "
            f"Invalid IAM Instance Profile {'name' if name else 'ARN'}",
        ) from None
    if not profile.roles:
        raise refuse(
            "InvalidParameterValue",
            f'IAM Instance Profile "{profile.arn}" has no associated IAM Roles',
        )
    return profile
