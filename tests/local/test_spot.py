"""Spot requests, their status, and a reclaim as EC2 documents it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from dstackd.local.control import ControlError
from tests.local.conftest import TAG, Account, wait_until


def requests_with(account: Account, **filters: str) -> list[dict[str, Any]]:
    """Spot requests by filters; `tag` is the bucket's tag."""
    names = {"tag": f"tag:{TAG}", "code": "status-code", "state": "state"}
    answer = account.ec2.describe_spot_instance_requests(
        Filters=[{"Name": names[name], "Values": [text]} for name, text in filters.items()]
    )
    found: list[dict[str, Any]] = answer["SpotInstanceRequests"]
    return found


def code_of(account: Account, tag: str) -> tuple[str, str]:
    """State and status code of the one request with a tag."""
    [request] = requests_with(account, tag=tag)
    return request["State"], request["Status"]["Code"]


def test_each_spot_instance_has_a_tagged_request(account: Account) -> None:
    """A spot launch answers with request ids, and the records carry the tags of the same call."""
    ids = account.launch(tag="records", spot=True, MaxCount=3)
    requests = requests_with(account, tag="records", code="fulfilled", state="active")
    assert sorted(one["InstanceId"] for one in requests) == sorted(ids)
    by_instance = {one["InstanceId"]: one["SpotInstanceRequestId"] for one in requests}
    described = account.describe(ids[0])
    assert described["SpotInstanceRequestId"] == by_instance[ids[0]]
    assert described["InstanceLifecycle"] == "spot"
    assert requests[0]["LaunchedAvailabilityZone"] == "us-east-1a"


def test_an_on_demand_launch_makes_no_request(account: Account) -> None:
    """An on-demand instance has no lifecycle and no request."""
    [one] = account.launch(tag="plain")
    assert "InstanceLifecycle" not in account.describe(one)
    assert requests_with(account, tag="plain") == []


def test_requests_come_in_pages(account: Account) -> None:
    """MaxResults and NextToken walk over the requests."""
    account.launch(tag="many", spot=True, MaxCount=7)
    filters = [{"Name": f"tag:{TAG}", "Values": ["many"]}]
    first = account.ec2.describe_spot_instance_requests(Filters=filters, MaxResults=5)
    second = account.ec2.describe_spot_instance_requests(
        Filters=filters, MaxResults=5, NextToken=first["NextToken"]
    )
    assert [len(one["SpotInstanceRequests"]) for one in (first, second)] == [5, 2]
    assert "NextToken" not in second


def test_a_cancelled_request_leaves_its_instance_running(account: Account) -> None:
    """Cancelling changes the record, not the instance."""
    [one] = account.launch(tag="cancel", spot=True)
    account.wait_for_state(one, "running")
    [request] = requests_with(account, tag="cancel")
    answer = account.ec2.cancel_spot_instance_requests(
        SpotInstanceRequestIds=[request["SpotInstanceRequestId"]]
    )
    assert answer["CancelledSpotInstanceRequests"][0]["State"] == "cancelled"
    assert code_of(account, "cancel") == ("cancelled", "request-canceled-and-instance-running")
    assert account.cloud.control.machine(one)["state"] == "running"


def test_an_unknown_request_is_not_found(account: Account) -> None:
    """Describe and Cancel name the error EC2 names."""
    for call in (
        account.ec2.describe_spot_instance_requests,
        account.ec2.cancel_spot_instance_requests,
    ):
        with pytest.raises(ClientError, match=r"InvalidSpotInstanceRequestID\.NotFound"):
            call(SpotInstanceRequestIds=["sir-00000000"])


def test_terminating_closes_the_request(account: Account) -> None:
    """TerminateInstances by its user is told apart from a reclaim."""
    [one] = account.launch(tag="by-user", spot=True)
    account.ec2.terminate_instances(InstanceIds=[one])
    assert code_of(account, "by-user") == ("closed", "instance-terminated-by-user")


def test_a_bid_below_the_price_is_refused(account: Account) -> None:
    """MaxPrice below the current price is SpotMaxPriceTooLow; at the on-demand price it is taken."""
    with pytest.raises(ClientError, match="SpotMaxPriceTooLow"):
        account.launch(spot=True, bid="0.001")
    assert len(account.launch(spot=True, bid="0.096")) == 1


def test_prices_are_recent_and_plausible(account: Account) -> None:
    """One quote per zone, about a third of the on-demand figure, minutes old."""
    account.cloud.control.prices({"m5.large": 0.1})
    quotes = account.ec2.describe_spot_price_history(
        InstanceTypes=["m5.large"],
        ProductDescriptions=["Linux/UNIX"],
        Filters=[{"Name": "product-description", "Values": ["Linux/UNIX"]}],
    )["SpotPriceHistory"]
    assert len({quote["AvailabilityZone"] for quote in quotes}) == len(quotes) > 1
    assert all(0.034 < float(quote["SpotPrice"]) < 0.04 for quote in quotes)
    age = datetime.now(tz=UTC) - quotes[0]["Timestamp"]
    assert timedelta(0) < age < timedelta(hours=1)


def test_prices_of_other_products_are_not_known(account: Account) -> None:
    """Only Linux is quoted."""
    answer = account.ec2.describe_spot_price_history(
        InstanceTypes=["m5.large"], ProductDescriptions=["Windows"]
    )
    assert answer["SpotPriceHistory"] == []


WATCH = """#!/bin/bash
echo started > started
python3 - <<'PYTHON'
import os, time, urllib.error, urllib.request
base = os.environ["AWS_EC2_METADATA_SERVICE_ENDPOINT"] + "/latest/"
ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
ask = urllib.request.Request(base + "api/token", headers=ttl, method="PUT")
token = {"X-aws-ec2-metadata-token": urllib.request.urlopen(ask).read().decode()}
while True:
    path = base + "meta-data/spot/instance-action"
    try:
        text = urllib.request.urlopen(urllib.request.Request(path, headers=token)).read()
    except urllib.error.HTTPError as error:
        assert error.code == 404
        time.sleep(0.05)
        continue
    with open("notice", "wb") as file:
        file.write(text + b"\\n")
    break
PYTHON
sleep 600
"""


def test_a_reclaim(account: Account) -> None:
    """Status at once, notice on the machine, the instance gone after it, with EC2's own reason."""
    [one] = account.launch(tag="reclaim", spot=True, UserData=WATCH)
    account.wait_for_file(one, "started")
    asked_at = time.time()
    account.cloud.control.reclaim(one, notice_s=1.5)
    assert code_of(account, "reclaim")[1] == "instance-terminated-no-capacity"
    assert account.cloud.control.machine(one)["state"] == "running"
    notice = account.wait_for_file(one, "notice")
    assert '"action": "terminate"' in notice
    view = account.wait_for_state(one, "terminated")
    assert time.time() - asked_at > 1.4
    assert view["reason"] == "Server.SpotInstanceTermination"
    assert code_of(account, "reclaim")[1] == "instance-terminated-no-capacity"


def test_a_reclaimed_request_is_found_by_its_status(account: Account) -> None:
    """One call with a tag and status codes shows every interruption within the notice."""
    [one, _] = account.launch(tag="sweep", spot=True, MaxCount=2)
    account.cloud.control.reclaim(one, notice_s=60)
    found = requests_with(account, tag="sweep", code="instance-terminated-no-capacity")
    assert [request["InstanceId"] for request in found] == [one]


def test_only_a_spot_instance_is_reclaimed(account: Account) -> None:
    """A reclaim of an on-demand or an unknown instance is refused with a reason."""
    [one] = account.launch()
    with pytest.raises(ControlError, match="is not a spot instance"):
        account.cloud.control.reclaim(one, notice_s=1)
    with pytest.raises(ControlError, match="unknown"):
        account.cloud.control.reclaim("i-00000000000000000", notice_s=1)


def test_ended_requests_disappear(account: Account) -> None:
    """An ended request is described for some hours, then unknown."""
    [one] = account.launch(tag="ended", spot=True)
    account.ec2.terminate_instances(InstanceIds=[one])
    account.cloud.control.faults(closed_request_visible_s=0)
    wait_until(lambda: requests_with(account, tag="ended") == [])
