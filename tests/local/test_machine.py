"""What a machine finds: its metadata, its environment, and what shutdown does."""

from __future__ import annotations

import http.client
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.local.conftest import TAG, Account, wait_until
from tests.local.test_launches import make_profile

TTL = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN = "X-aws-ec2-metadata-token"


class Metadata:
    """A machine's metadata service as a process on the machine would use it."""

    def __init__(self, account: Account, instance_id: str) -> None:
        port = account.wait_for_state(instance_id, "running")["imds_port"]
        assert port is not None
        self._port = port
        self._token = self.ask("PUT", "api/token", {TTL: "60"})[1]

    def ask(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        """One request; status and text."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        connection.request(method, f"/latest/{path}", headers=headers)
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, text

    def get(self, path: str) -> str | None:
        """The text at a path, with a good token; None for 404."""
        status, text = self.ask("GET", path, {TOKEN: self._token})
        assert status in {200, 404}
        return text if status == 200 else None


def test_metadata_needs_a_token(account: Account) -> None:
    """No path answers without a valid token; a token needs a TTL; a proxied request gets none."""
    [one] = account.launch()
    metadata = Metadata(account, one)
    for path in ("meta-data/instance-id", "user-data", "meta-data/no-such-thing"):
        assert metadata.ask("GET", path, {})[0] == 401
        assert metadata.ask("GET", path, {TOKEN: "made-up"})[0] == 401
    assert metadata.ask("PUT", "api/token", {})[0] == 400
    assert metadata.ask("PUT", "api/token", {TTL: "21601"})[0] == 400
    assert metadata.ask("PUT", "api/token", {TTL: "60", "X-Forwarded-For": "10.0.0.1"})[0] == 403


def test_metadata_tells_who_the_machine_is(account: Account) -> None:
    """Each machine of a launch finds its own id and index, and what it shares with the others."""
    script = "#!/bin/sh\n# metadata\nsleep 600\n"
    ids = account.launch(tag="who", MaxCount=2, spot=True, UserData=script)
    for index, one in enumerate(ids):
        metadata = Metadata(account, one)
        described = account.describe(one)
        assert metadata.get("meta-data/instance-id") == one
        assert metadata.get("meta-data/ami-launch-index") == str(index)
        assert metadata.get("meta-data/ami-id") == described["ImageId"]
        assert metadata.get("meta-data/instance-type") == "m5.large"
        assert metadata.get("meta-data/instance-life-cycle") == "spot"
        assert metadata.get("meta-data/local-ipv4") == described["PrivateIpAddress"]
        assert metadata.get("meta-data/placement/region") == "us-east-1"
        assert metadata.get("meta-data/placement/availability-zone") == "us-east-1a"
        assert metadata.get("meta-data/tags/instance/") == TAG
        assert metadata.get(f"meta-data/tags/instance/{TAG}") == "who"
        assert metadata.get("user-data") == script
        assert metadata.get("meta-data/public-hostname") is None
        assert metadata.get("meta-data/spot/instance-action") is None
        assert "placement/" in (metadata.get("meta-data/") or "").split("\n")
        identity = json.loads(metadata.get("dynamic/instance-identity/document") or "")
        assert (identity["instanceId"], identity["region"]) == (one, "us-east-1")


def test_tags_are_live(account: Account) -> None:
    """A tag that is added later shows in the metadata; without the option there are no tags."""
    [one] = account.launch()
    [without] = account.launch(MetadataOptions={"HttpTokens": "required"})
    metadata = Metadata(account, one)
    account.ec2.create_tags(Resources=[one], Tags=[{"Key": "later", "Value": "yes"}])
    wait_until(lambda: metadata.get("meta-data/tags/instance/later") == "yes")
    assert Metadata(account, without).get("meta-data/tags/instance/") is None


def test_role_credentials_are_the_machines_own(account: Account) -> None:
    """Two machines of one role have different keys, and calls made with them are told apart."""
    make_profile(account, "own-keys")
    ids = account.launch(MaxCount=2, IamInstanceProfile={"Name": "own-keys"})
    keys = []
    for one in ids:
        metadata = Metadata(account, one)
        assert metadata.get("meta-data/iam/security-credentials/") == "own-keys"
        text = metadata.get("meta-data/iam/security-credentials/own-keys")
        credentials = json.loads(text or "")
        assert set(credentials) > {"AccessKeyId", "SecretAccessKey", "Token", "Expiration"}
        assert (
            "own-keys" in json.loads(metadata.get("meta-data/iam/info") or "")["InstanceProfileArn"]
        )
        keys.append(credentials["AccessKeyId"])
    assert len(set(keys)) == 2
    before = account.cloud.control.calls()["last"]
    account.client("s3", access_key=keys[1]).list_buckets()
    [call] = account.cloud.control.calls(since=before)["records"]
    assert (call["operation"], call["principal"]) == ("ListBuckets", ids[1])


SDK = """#!/usr/bin/env python3
import boto3
found = boto3.client("sts", region_name="us-east-1").get_caller_identity()["Account"]
with open("found", "w") as file:
    file.write(found + "\\n")
"""


def test_an_sdk_on_the_machine_needs_nothing(account: Account) -> None:
    """boto3 on a machine finds the role's credentials and the cloud with no setting of its own."""
    make_profile(account, "for-the-sdk")
    [one] = account.launch(UserData=SDK, IamInstanceProfile={"Name": "for-the-sdk"})
    assert account.wait_for_file(one, "found") == "123456789012\n"
    assert account.cloud.control.counts()["machines"]["sts:GetCallerIdentity"] > 0
    assert account.cloud.control.calls()["records"][-1]["principal"] == one


def test_a_machine_without_a_role_has_no_credentials(account: Account) -> None:
    """Without a profile the paths below iam/ are 404."""
    [one] = account.launch()
    assert Metadata(account, one).get("meta-data/iam/security-credentials/") is None


def test_a_rebalance_recommendation_shows(account: Account) -> None:
    """The earlier, weaker signal appears on its own."""
    [one] = account.launch(spot=True)
    metadata = Metadata(account, one)
    assert metadata.get("meta-data/events/recommendations/rebalance") is None
    account.cloud.control.rebalance(one)
    wait_until(lambda: metadata.get("meta-data/events/recommendations/rebalance"))
    assert metadata.get("meta-data/spot/instance-action") is None


LOOK = """#!/usr/bin/env python3
import json, os, signal, sys
report = {
    "environment": dict(os.environ),
    "leads_its_session": os.getsid(0) == os.getpid(),
    "pipe_signal": signal.getsignal(signal.SIGPIPE) is not signal.SIG_DFL,
    "directory": os.getcwd(),
    "descriptors": sorted(os.listdir("/dev/fd"))[:3],
}
print("on the console", file=sys.stderr)
with open("report", "w") as file:
    file.write(json.dumps(report) + "\\n")
"""


def test_user_data_runs_in_a_clean_place(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own session, home and temporary folder; the cloud's address; nothing of the caller's."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the caller")
    [one] = account.launch(UserData=LOOK)
    report: dict[str, Any] = json.loads(account.wait_for_file(one, "report"))
    home = str(account.home(one))
    environment = report["environment"]
    metadata_url = environment.pop("AWS_EC2_METADATA_SERVICE_ENDPOINT")
    assert metadata_url == f"http://127.0.0.1:{Metadata(account, one)._port}"
    assert {name for name in environment if name.startswith("AWS_")} == {"AWS_ENDPOINT_URL"}
    assert environment["AWS_ENDPOINT_URL"] == account.cloud.endpoint_url
    assert environment["PATH"].split(":")[:2] == [f"{home}/bin", str(Path(sys.executable).parent)]
    assert (environment["HOME"], environment["TMPDIR"]) == (home, f"{home}/tmp")
    assert (report["directory"], report["leads_its_session"]) == (home, True)
    assert (account.home(one) / "console.log").read_text() == "on the console\n"


def test_a_script_without_a_shebang_is_for_sh(account: Account) -> None:
    """User-data that names no interpreter is run by sh, and its end leaves the machine running."""
    [one] = account.launch(UserData="echo plain > plain")
    account.wait_for_file(one, "plain")
    wait_until(lambda: account.cloud.control.machine(one)["exit_code"] == 0)
    assert account.cloud.control.machine(one)["state"] == "running"


@pytest.mark.parametrize(
    "command", ["shutdown -h now", "poweroff", "shutdown -P +0", "systemctl poweroff", "halt -p"]
)
def test_power_off_terminates(account: Account, command: str) -> None:
    """With the behaviour `terminate`, powering off ends the instance for good."""
    [one] = account.launch(UserData=f"#!/bin/sh\n{command}\nexec sleep 600\n")
    view = account.wait_for_state(one, "terminated")
    assert view["reason"] == "Client.InstanceInitiatedShutdown"


def test_power_off_may_only_stop(account: Account) -> None:
    """With EC2's default behaviour the instance is stopped, costs on, and can be terminated."""
    [one] = account.launch(
        UserData="#!/bin/sh\npoweroff\n", InstanceInitiatedShutdownBehavior="stop"
    )
    view = account.wait_for_state(one, "stopped")
    assert view["reason"] == "Client.InstanceInitiatedShutdown"
    account.ec2.terminate_instances(InstanceIds=[one])
    account.wait_for_state(one, "terminated")


@pytest.mark.parametrize("command", ["halt", "reboot", "shutdown -r now", "shutdown -H now"])
def test_halt_ends_processes_only(account: Account, command: str) -> None:
    """AWS: halt does not trigger the shutdown behaviour. The machine stays up and costs money."""
    [one] = account.launch(UserData=f"#!/bin/sh\n{command}\nexec sleep 600\n")
    wait_until(lambda: account.cloud.control.machine(one)["exit_code"] is not None)
    assert account.cloud.control.machine(one)["state"] == "running"


def test_systemd_run_runs(account: Account) -> None:
    """The machine's systemd-run starts the command in the background, with what was set for it."""
    script = (
        "#!/bin/sh\nsystemd-run --unit=job -p MemoryMax=1G --setenv=COLOUR=red --collect "
        "sh -c 'echo $COLOUR > ran; sleep 600'\necho returned > returned\n"
    )
    [one] = account.launch(UserData=script)
    assert account.wait_for_file(one, "ran") == "red\n"
    assert account.wait_for_file(one, "returned") == "returned\n"


def test_nobody_reaches_the_real_init(account: Account) -> None:
    """The first shutdown, reboot, halt, poweroff and systemctl on the PATH are the machine's own."""
    names = "shutdown reboot halt poweroff systemctl systemd-run"
    script = f"#!/bin/sh\nfor name in {names}; do command -v $name; done > found\necho >> found\n"
    [one] = account.launch(UserData=script)
    account.wait_for_file(one, "found")
    wait_until(lambda: account.wait_for_file(one, "found").endswith("\n\n"))
    found = account.wait_for_file(one, "found").split()
    assert found == [f"{account.home(one)}/bin/{name}" for name in names.split()]
    assert all(os.access(path, os.X_OK) for path in found)


def test_eight_machines_start_at_once(account: Account) -> None:
    """A launch of eight is one call, and all eight run their own user-data."""
    ids = account.launch(MaxCount=8, UserData="#!/bin/sh\necho up > up\n")
    for one in ids:
        assert account.wait_for_file(one, "up") == "up\n"
