"""TerminateInstances against an EC2 that refuses whole lists, as the real one does."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from dstackd.aws.api import Api
from dstackd.aws.termination import terminate
from dstackd.aws.untyped import Untyped
from dstackd.errors import CloudError, NotFound, Throttled, Unauthorized


class PickyEc2(Api):
    """Refuses a list for one id that it does not know, or that may not be terminated."""

    def __init__(
        self,
        *,
        known: set[str],
        denied: set[str],
        names_culprits: bool = True,
        refusal: CloudError | None = None,
    ) -> None:
        self.refusal = refusal
        self.running = set(known)
        self.known = known
        self.denied = denied
        self.names_culprits = names_culprits
        self.calls = 0

    @override
    async def call(self, operation: str, /, **parameters: Untyped) -> dict[str, Untyped]:
        """TerminateInstances: all or nothing."""
        assert operation == "TerminateInstances"
        self.calls += 1
        if self.refusal is not None:
            raise self.refusal
        ids = parameters["InstanceIds"]
        assert 0 < len(ids) <= 100
        unknown = [one for one in ids if one not in self.known]
        denied = [one for one in ids if one in self.denied]
        if unknown:
            raise NotFound("InvalidInstanceID.NotFound", self._about(unknown))
        if denied:
            raise Unauthorized("UnauthorizedOperation", self._about(denied[:1]))
        self.running -= set(ids)
        return {}

    def _about(self, ids: list[str]) -> str:
        return f"about {', '.join(ids)}" if self.names_culprits else "no names"


IDS = st.integers(0, 150).map(lambda number: f"i-{number:017x}")


@given(
    asked=st.lists(IDS, max_size=130),
    unknown=st.sets(IDS, max_size=10),
    denied=st.sets(IDS, max_size=5),
    names_culprits=st.booleans(),
)
def test_one_bad_id_never_keeps_another_machine(
    asked: list[str], unknown: set[str], denied: set[str], *, names_culprits: bool
) -> None:
    """What can be terminated is, whatever else is in the list; a denial is told, an unknown id is not."""
    known = set(asked) - unknown
    ec2 = PickyEc2(known=known, denied=denied & known, names_culprits=names_culprits)
    if ec2.denied:
        with pytest.raises(Unauthorized):
            anyio.run(terminate, ec2, asked)
    else:
        anyio.run(terminate, ec2, asked)
    assert ec2.running == ec2.denied


def test_names_in_the_message_save_calls() -> None:
    """A hundred ids with three unknown ones take three calls: all, the good ones, the bad ones."""
    ids = [f"i-{number:017x}" for number in range(100)]
    ec2 = PickyEc2(known=set(ids[3:]), denied=set())
    anyio.run(terminate, ec2, ids)
    assert (ec2.running, ec2.calls) == (set(), 3)


@pytest.mark.parametrize(
    "refusal", [Throttled("RequestLimitExceeded", ""), Unauthorized("AuthFailure", "")]
)
def test_what_no_id_is_to_blame_for_is_raised_at_once(refusal: CloudError) -> None:
    """Neither a throttle nor a bad key is answered with more calls."""
    ec2 = PickyEc2(known=set(), denied=set(), refusal=refusal)
    with pytest.raises(type(refusal)):
        anyio.run(terminate, ec2, ["i-1", "i-2"])
    assert ec2.calls == 1
