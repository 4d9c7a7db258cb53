"""EC2's answers as XML. Law: text out of values; what is sent a thousand times is rendered once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from tests.benchmarks.launch.instance_types import Kind, spot_price
from tests.benchmarks.launch.plan import ACCOUNT, ZONES

if TYPE_CHECKING:
    from tests.benchmarks.launch.ec2 import Machine

_SPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"
VPC = "vpc-0123456789abcdef0"
_STATE_CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48}


def answer(operation: str, body: str) -> bytes:
    """A whole answer."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{operation}Response xmlns="{_SPACE}">'
        f"<requestId>fake</requestId>{body}</{operation}Response>"
    ).encode()


def error(code: str, message: str) -> bytes:
    """EC2's error format."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error>'
        f"<Code>{code}</Code><Message>{escape(message)}</Message></Error></Errors>"
        "<RequestID>fake</RequestID></Response>"
    ).encode()


def iso(at_ms: float) -> str:
    """A moment as EC2 writes it."""
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def tag_set(tags: Mapping[str, str]) -> str:
    """Tags as `tagSet`."""
    items = "".join(
        f"<item><key>{escape(key)}</key><value>{escape(value)}</value></item>"
        for key, value in tags.items()
    )
    return f"<tagSet>{items}</tagSet>"


def instance(machine: Machine) -> str:
    """One `<item>` of `instancesSet`, about as long as EC2's own (2.5 KB)."""
    number = machine.number
    ip = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    reason = (
        f"<stateReason><code>{machine.state_reason}</code><message/></stateReason>"
        if machine.state_reason
        else ""
    )
    spot = (
        "<instanceLifecycle>spot</instanceLifecycle>"
        f"<spotInstanceRequestId>{machine.spot_request_id}</spotInstanceRequestId>"
        if machine.spot_request_id
        else ""
    )
    return (
        f"<item><instanceId>{machine.instance_id}</instanceId><imageId>{machine.image_id}</imageId>"
        f"<instanceState><code>{_STATE_CODES[machine.state]}</code><name>{machine.state}</name></instanceState>"
        f"<privateDnsName>ip-{number}.internal</privateDnsName><dnsName/><reason/>"
        f"<amiLaunchIndex>{machine.launch_index}</amiLaunchIndex><productCodes/>"
        f"<instanceType>{machine.instance_type}</instanceType>"
        f"<launchTime>{iso(machine.launched_at_ms)}</launchTime>"
        f"<placement><availabilityZone>{machine.zone}</availabilityZone><groupName/><tenancy>default</tenancy></placement>"
        f"<monitoring><state>disabled</state></monitoring><subnetId>{machine.subnet_id}</subnetId>"
        f"<vpcId>{VPC}</vpcId><privateIpAddress>{ip}</privateIpAddress>{reason}{spot}"
        f"{_CONSTANT}{tag_set(machine.tags)}{_interface(machine, ip)}"
        f"<clientToken>{machine.client_token}</clientToken></item>"
    )


_CONSTANT = (
    "<sourceDestCheck>true</sourceDestCheck><groupSet><item><groupId>sg-0123456789abcdef0</groupId>"
    "<groupName>dstack</groupName></item></groupSet><architecture>x86_64</architecture>"
    "<rootDeviceType>ebs</rootDeviceType><rootDeviceName>/dev/sda1</rootDeviceName>"
    "<blockDeviceMapping><item><deviceName>/dev/sda1</deviceName><ebs><volumeId>vol-0123456789abcdef0"
    "</volumeId><status>attached</status><attachTime>2026-01-01T00:00:00.000Z</attachTime>"
    "<deleteOnTermination>true</deleteOnTermination></ebs></item></blockDeviceMapping>"
    "<virtualizationType>hvm</virtualizationType><hypervisor>xen</hypervisor><ebsOptimized>false</ebsOptimized>"
    "<enaSupport>true</enaSupport><cpuOptions><coreCount>1</coreCount><threadsPerCore>2</threadsPerCore>"
    "</cpuOptions><capacityReservationSpecification><capacityReservationPreference>open"
    "</capacityReservationPreference></capacityReservationSpecification><hibernationOptions><configured>false"
    "</configured></hibernationOptions><metadataOptions><state>applied</state><httpTokens>required</httpTokens>"
    "<httpPutResponseHopLimit>1</httpPutResponseHopLimit><httpEndpoint>enabled</httpEndpoint>"
    "<instanceMetadataTags>enabled</instanceMetadataTags></metadataOptions><enclaveOptions><enabled>false"
    "</enabled></enclaveOptions><bootMode>uefi-preferred</bootMode><currentInstanceBootMode>uefi"
    "</currentInstanceBootMode><platformDetails>Linux/UNIX</platformDetails><usageOperation>RunInstances"
    "</usageOperation><privateDnsNameOptions><hostnameType>ip-name</hostnameType></privateDnsNameOptions>"
)


def _interface(machine: Machine, ip: str) -> str:
    return (
        "<networkInterfaceSet><item><networkInterfaceId>eni-0123456789abcdef0</networkInterfaceId>"
        f"<subnetId>{machine.subnet_id}</subnetId><vpcId>{VPC}</vpcId><ownerId>{ACCOUNT}</ownerId>"
        "<status>in-use</status><macAddress>02:00:00:00:00:00</macAddress>"
        f"<privateIpAddress>{ip}</privateIpAddress><attachment><attachmentId>eni-attach-0123456789abcdef0"
        "</attachmentId><deviceIndex>0</deviceIndex><status>attached</status></attachment></item></networkInterfaceSet>"
    )


def reservation(machines: Iterable[Machine]) -> str:
    """The content of a reservation; the machines are of one launch."""
    items = list(machines)
    rendered = "".join(machine.xml() for machine in items)
    return (
        f"<reservationId>{items[0].reservation_id}</reservationId><ownerId>{ACCOUNT}</ownerId>"
        f"<groupSet/><instancesSet>{rendered}</instancesSet>"
    )


def instance_type(kind: Kind) -> str:
    """One `<item>` of `instanceTypeSet`."""
    return (
        f"<item><instanceType>{kind.name}</instanceType><currentGeneration>true</currentGeneration>"
        "<freeTierEligible>false</freeTierEligible><supportedUsageClasses><item>on-demand</item><item>spot"
        "</item></supportedUsageClasses><supportedRootDeviceTypes><item>ebs</item></supportedRootDeviceTypes>"
        "<bareMetal>false</bareMetal><hypervisor>nitro</hypervisor><processorInfo><supportedArchitectures>"
        f"<item>{kind.architecture}</item></supportedArchitectures></processorInfo>"
        f"<vCpuInfo><defaultVCpus>{kind.cpu}</defaultVCpus></vCpuInfo>"
        f"<memoryInfo><sizeInMiB>{kind.memory_mib}</sizeInMiB></memoryInfo></item>"
    )


def quote(kind: Kind, zone: str, *, at_ms: float) -> str:
    """One `<item>` of `spotPriceHistorySet`."""
    return (
        f"<item><instanceType>{kind.name}</instanceType><productDescription>Linux/UNIX</productDescription>"
        f"<spotPrice>{spot_price(kind, zone):.6f}</spotPrice><timestamp>{iso(at_ms)}</timestamp>"
        f"<availabilityZone>{zone}</availabilityZone></item>"
    )


def subnet(position: int) -> str:
    """One `<item>` of `subnetSet`: the default subnet of the zone at this position."""
    return (
        f"<item><subnetId>{subnet_id(position)}</subnetId><state>available</state><vpcId>{VPC}</vpcId>"
        "<availableIpAddressCount>60000</availableIpAddressCount>"
        f"<availabilityZone>{ZONES[position]}</availabilityZone><defaultForAz>true</defaultForAz></item>"
    )


def subnet_id(position: int) -> str:
    """The id of the default subnet of the zone at this position."""
    return f"subnet-{position:017x}"


def image(architecture: str) -> str:
    """The one image of an architecture, as the only `<item>` of `imagesSet`."""
    name = {"x86_64": "amd64"}.get(architecture, architecture)
    return (
        f"<item><imageId>ami-{len(architecture):017x}</imageId><imageState>available</imageState>"
        f"<imageOwnerId>099720109477</imageOwnerId><architecture>{architecture}</architecture>"
        f"<name>ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-{name}-server-20260101</name>"
        "<creationDate>2026-01-01T00:00:00.000Z</creationDate><rootDeviceType>ebs</rootDeviceType>"
        "<rootDeviceName>/dev/sda1</rootDeviceName><blockDeviceMapping><item><deviceName>/dev/sda1</deviceName>"
        "<ebs><volumeSize>8</volumeSize></ebs></item></blockDeviceMapping></item>"
    )
