"""The whole error tree. Law: an error is named for what its catcher does next.

DstackdError
|-- ConfigError            the operator must mend the configuration; exit code 78
|-- SpecError (spec.errors) a job spec is refused, field by field; the row ends as rejected
|-- InvariantError         our own bug; the process ends and starts again
|-- LeaseLost              another daemon owns the backend now; stop everything at once and stand by
`-- OperatingError         the world is at fault; the pass goes on, the loop backs off
    |-- StoreBusy          the database stayed locked; try the transaction again later
    |-- StorageFailed        the database or a file cannot be written or reached (a full disk, a restart); read again later
    |-- StaleRow           somebody else moved the row on; drop the result, read again
    `-- CloudError         an AWS API answered with an error code, or not at all
        |-- CloudUnavailable   outcome unknown: repeat the identical call
        |   `-- LeaseUnsure    not sent: another daemon may own the backend by now, and do it itself
        |-- Throttled          not done, nothing is wrong: the same call, later
        |-- CapacityShortage   not done: block a scope for a while, take the next offering
        |-- NotFound           the thing is not there, or not visible yet
        |-- InvalidRequest     the request is wrong; repeating it is pointless
        |-- Unauthorized       stop and tell the operator
        |-- LaunchOver         the machines of this client token have come and gone
        `-- PreconditionFailed a conditional write lost against another writer
"""

from __future__ import annotations

from enum import StrEnum


class DstackdError(Exception):
    """Root of everything this program raises on purpose."""


class ConfigError(DstackdError):
    """The configuration is wrong; the text names the key and the fix."""


class InvariantError(DstackdError):
    """A promise of our own code did not hold."""


class LeaseLost(DstackdError):
    """The backend is another daemon's; nothing of what this one had in hand may be done."""


class OperatingError(DstackdError):
    """The world is at fault; try again later."""


class StoreBusy(OperatingError):
    """The database stayed locked longer than the write bound."""


class StorageFailed(OperatingError):
    """The disk, or the database, does not do its work now. A transaction that ended so may have been committed."""


class StaleRow(OperatingError):
    """A guarded save matched no row: somebody else has moved it on."""


class BlockScope(StrEnum):
    """How much of the market an error rules out for a while."""

    OFFERING = "offering"
    """This instance type in this subnet in this market."""
    QUOTA = "quota"
    """Every offering that draws on the same quota: the type's class in the market (G types on spot)."""
    SUBNET = "subnet"
    """Every offering in the subnet."""
    MARKET = "market"
    """Every offering of the market (spot, on-demand) in the region."""
    REGION = "region"
    """Everything: the account or the region cannot launch at all."""


class CloudError(OperatingError):
    """An AWS API refused or failed. `code` is AWS's own error code, or a transport failure's name;
    `advice` says what an operator can do about it, where there is something.
    """

    def __init__(self, code: str, message: str, *, operation: str = "", advice: str = "") -> None:
        super().__init__(f"{operation}: {code}: {message}" if operation else f"{code}: {message}")
        self.code = code
        self.message = message
        self.operation = operation
        self.advice = advice

    @property
    def explained(self) -> str:
        """Code and message, and what would help where that is known: a waiting job's message."""
        told = f"{self.code}: {self.message}"
        return f"{told} ({self.advice})" if self.advice else told


class CloudUnavailable(CloudError):
    """No answer, or a server-side failure: whether the call took effect is unknown."""


class LeaseUnsure(CloudUnavailable):
    """The call was not made: this daemon cannot be sure that it still owns the backend."""


class Throttled(CloudError):
    """AWS asks for fewer calls; nothing was done."""


class CapacityShortage(CloudError):
    """Nothing was launched because capacity, a quota or an address ran out."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        operation: str = "",
        advice: str = "",
        scope: BlockScope,
        block_s: float,
        limit_vcpus: int | None = None,
    ) -> None:
        super().__init__(code, message, operation=operation, advice=advice)
        self.scope = scope
        self.block_s = block_s
        self.limit_vcpus = limit_vcpus
        """The vCPU quota that the message names, if it names one."""


class NotFound(CloudError):
    """The named thing does not exist, or is not visible yet."""


class InvalidRequest(CloudError):
    """AWS will never accept this request as it stands."""


class Unauthorized(CloudError):
    """The credentials or the policy do not allow the call."""


class LaunchOver(CloudError):
    """EC2's IdempotentInstanceTerminated: this client token's machines are terminated."""


class PreconditionFailed(CloudError):
    """A conditional write (If-None-Match, If-Match) lost, or the thing to create is there already."""


def require(condition: object, message: str) -> None:
    """Raise InvariantError unless `condition` holds. Unlike `assert`, it survives `python -O`."""
    if not condition:
        raise InvariantError(message)
