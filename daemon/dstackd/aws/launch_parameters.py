"""What RunInstances is told. Law: pure; equal requests give equal parameters, or EC2 refuses the repeated token."""

from __future__ import annotations

from dstackd.aws.untyped import Untyped
from dstackd.core.instance import Market
from dstackd.core.launching import LaunchRequest


def launch_parameters(request: LaunchRequest) -> dict[str, Untyped]:
    """Botocore's parameters for the request.

    Everything is set here because the policy has no call to change a machine later. A machine that
    shuts itself down has to be gone (EC2's default is to stop it, and its volume goes on costing).
    """
    return {
        "ClientToken": request.client_token,
        "MinCount": 1,
        "MaxCount": request.count,
        "ImageId": request.image.id,
        "InstanceType": request.instance_type,
        "UserData": request.user_data,  # botocore encodes it in base64
        "IamInstanceProfile": {"Name": request.instance_profile},
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {
            "HttpEndpoint": "enabled",
            "HttpTokens": "required",
            # One hop: containers do not reach the machine's credentials.
            "HttpPutResponseHopLimit": 1,
            "InstanceMetadataTags": "enabled",
        },
        "BlockDeviceMappings": [
            {
                "DeviceName": request.image.root_device,
                # Not `Encrypted`: the account's own default decides, and the policy has no kms actions.
                "Ebs": {
                    "VolumeSize": request.disk_gib,
                    "VolumeType": "gp3",
                    "DeleteOnTermination": True,
                },
            }
        ],
        "TagSpecifications": _tag_specifications(request),
        **_place(request),
        **_market(request),
    }


def _tag_specifications(request: LaunchRequest) -> list[dict[str, Untyped]]:
    # The spot request too: without the bucket's tag the policy would not let us cancel it.
    kinds = ["instance", "volume"]
    if request.market is Market.SPOT:
        kinds.append("spot-instances-request")
    tags = [{"Key": key, "Value": value} for key, value in request.tags]
    return [{"ResourceType": kind, "Tags": tags} for kind in kinds]


def _place(request: LaunchRequest) -> dict[str, Untyped]:
    if not request.subnet_id:
        return {
            "Placement": {"AvailabilityZone": request.zone},
            "SecurityGroupIds": list(request.security_group_ids),
        }
    return {
        "NetworkInterfaces": [
            {
                "DeviceIndex": 0,
                "SubnetId": request.subnet_id,
                "Groups": list(request.security_group_ids),
                # A machine has to reach S3 and CloudWatch. Default subnets give out public addresses
                # by themselves, subnets that people make usually do not.
                "AssociatePublicIpAddress": True,
                "DeleteOnTermination": True,
            }
        ]
    }


def _market(request: LaunchRequest) -> dict[str, Untyped]:
    if request.market is Market.ON_DEMAND:
        return {}
    # No MaxPrice: EC2 then charges at most the on-demand price, and interrupts less
    # (EC2 user guide, "Spot best practices").
    return {
        "InstanceMarketOptions": {
            "MarketType": "spot",
            "SpotOptions": {
                "SpotInstanceType": "one-time",
                "InstanceInterruptionBehavior": "terminate",
            },
        }
    }
