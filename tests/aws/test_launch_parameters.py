"""What RunInstances is told."""

from __future__ import annotations

from dataclasses import replace

from dstackd.aws.launch_parameters import launch_parameters
from dstackd.core.instance import Market
from dstackd.core.launching import Image, LaunchRequest

REQUEST = LaunchRequest(
    launch_id="l-1",
    client_token="token",
    instance_type="m5.large",
    subnet_id="subnet-1",
    zone="eu-west-1a",
    market=Market.SPOT,
    count=7,
    image=Image(id="ami-1", root_device="/dev/xvda"),
    disk_gib=50,
    user_data="#!/bin/sh\n",
    tags=(("dstack_bucket", "proj"), ("dstackd:launch", "l-1")),
    instance_profile="dstack_role_proj",
    security_group_ids=("sg-1",),
)
TAGS = [{"Key": "dstack_bucket", "Value": "proj"}, {"Key": "dstackd:launch", "Value": "l-1"}]


def test_a_spot_launch() -> None:
    """Everything a spot machine needs is in the one call that the policy allows."""
    assert launch_parameters(REQUEST) == {
        "ClientToken": "token",
        "MinCount": 1,
        "MaxCount": 7,
        "ImageId": "ami-1",
        "InstanceType": "m5.large",
        "UserData": "#!/bin/sh\n",
        "IamInstanceProfile": {"Name": "dstack_role_proj"},
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {
            "HttpEndpoint": "enabled",
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": 1,
            "InstanceMetadataTags": "enabled",
        },
        "BlockDeviceMappings": [
            {
                "DeviceName": "/dev/xvda",
                "Ebs": {"VolumeSize": 50, "VolumeType": "gp3", "DeleteOnTermination": True},
            }
        ],
        "TagSpecifications": [
            {"ResourceType": "instance", "Tags": TAGS},
            {"ResourceType": "volume", "Tags": TAGS},
            {"ResourceType": "spot-instances-request", "Tags": TAGS},
        ],
        "NetworkInterfaces": [
            {
                "DeviceIndex": 0,
                "SubnetId": "subnet-1",
                "Groups": ["sg-1"],
                "AssociatePublicIpAddress": True,
                "DeleteOnTermination": True,
            }
        ],
        "InstanceMarketOptions": {
            "MarketType": "spot",
            "SpotOptions": {
                "SpotInstanceType": "one-time",
                "InstanceInterruptionBehavior": "terminate",
            },
        },
    }


def test_an_on_demand_launch_has_nothing_of_spot() -> None:
    """EC2 refuses tags for a spot request that the call does not make."""
    parameters = launch_parameters(replace(REQUEST, market=Market.ON_DEMAND))
    assert "InstanceMarketOptions" not in parameters
    kinds = [one["ResourceType"] for one in parameters["TagSpecifications"]]
    assert kinds == ["instance", "volume"]


def test_a_launch_without_a_subnet_names_the_zone() -> None:
    """EC2 then takes the zone's default subnet."""
    parameters = launch_parameters(replace(REQUEST, subnet_id=""))
    assert "NetworkInterfaces" not in parameters
    assert parameters["Placement"] == {"AvailabilityZone": "eu-west-1a"}
    assert parameters["SecurityGroupIds"] == ["sg-1"]
