"""Which daemon owns a backend. Law: one at a time; no other can commit anything for it; only elapsed time is compared, and each
daemon measures it with its own monotonic clock.

Who waits for a backend asks (`lease_asked` rises), and its owner answers (`lease_answered` follows) when it next looks. Asked in
vain for LEASE_S, by the clock of who has waited, the owner counts as gone: whoever is first takes its place, and `fence`
rises. Where nobody waits, nothing is ever written. Decision 0024 has the proof.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, bindparam, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.errors import LeaseLost, LeaseUnsure
from dstackd.ports import Clock
from dstackd.store.tables import BACKEND

LEASE_S = 9.0
"""A question that stays without an answer for this long tells that the owner is gone;"""
SURE_S = 7.0
"""its owner trusts in a look for less, so that a call which leaves at the last moment has arrived when somebody takes over."""
STALLED_S = 5
"""PostgreSQL ends a transaction in which nothing comes for this long: a daemon that stalls in one holds the lease's row."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What a daemon holds: the backend by name, under the number that no later owner has."""

    backend: str
    holder: str
    fence: int


@dataclass(frozen=True, slots=True)
class LeaseState:
    """The lease's columns as last read. `holder` None: it was given back."""

    holder: str | None
    fence: int
    asked: int
    answered: int

    @property
    def is_waited_for(self) -> bool:
        """Whether a question has no answer."""
        return self.asked != self.answered


class Tenure:
    """One daemon's ownership of one backend, as far as it knows. It begins with `begin` and ends for good with `end`."""

    def __init__(self, backend: str, *, clock: Clock) -> None:
        self.backend = backend
        self._clock = clock
        self._lease: Lease | None = None
        self._sure_until_s = 0.0

    @property
    def lease(self) -> Lease:
        """Raises LeaseLost when there is none."""
        if self._lease is None:
            message = f"this daemon does not own backend {self.backend}"
            raise LeaseLost(message)
        return self._lease

    def begin(self, lease: Lease, *, asked_at_s: float) -> None:
        """The lease is ours. `asked_at_s`: the monotonic time before the look that said so."""
        self._lease = lease
        self.renew(asked_at_s=asked_at_s)

    def renew(self, *, asked_at_s: float) -> None:
        """A look that began then has found it ours, with no question open."""
        self._sure_until_s = asked_at_s + SURE_S

    def end(self) -> None:
        """It is not ours any more."""
        self._lease = None

    def permit(self) -> None:
        """Before anything is changed outside the database. Raises LeaseUnsure when another daemon may do it by now."""
        if self._lease is None or self._clock.monotonic_s() > self._sure_until_s:
            message = f"not sent: this daemon is not sure to own backend {self.backend}"
            raise LeaseUnsure("LeaseUnsure", message)


async def read_lease(connection: AsyncConnection, backend: str) -> LeaseState:
    """The lease of a backend that has a row."""
    row = (await connection.execute(_STATE, {"the_name": backend})).one()
    return LeaseState(*row)


_COLUMNS = (
    BACKEND.c.lease_holder,
    BACKEND.c.fence,
    BACKEND.c.lease_asked,
    BACKEND.c.lease_answered,
)
_STATE = select(*_COLUMNS).where(BACKEND.c.name == bindparam("the_name"))
_OURS = (
    (BACKEND.c.name == bindparam("the_name"))
    & (BACKEND.c.lease_holder == bindparam("the_holder"))
    & (BACKEND.c.fence == bindparam("the_fence"))
)
_GUARD = select(literal(1)).where(_OURS).with_for_update(read=True)
_BOUND = func.set_config("idle_in_transaction_session_timeout", f"{STALLED_S}s", True)  # noqa: FBT003 - PostgreSQL's is_local
_POSTGRES_GUARD = _GUARD.add_columns(_BOUND)


async def guard(connection: AsyncConnection, lease: Lease) -> None:
    """Before the first statement of an owner's transaction: whoever wants to take over waits for its end, or it fails here.
    Raises LeaseLost.
    """
    statement = _POSTGRES_GUARD if connection.dialect.name == "postgresql" else _GUARD
    found = await connection.execute(statement, _named(lease))
    if found.first() is None:
        message = f"another daemon has taken over backend {lease.backend}"
        raise LeaseLost(message)


async def ask(connection: AsyncConnection, backend: str, seen: LeaseState) -> None:
    """Ask the owner for a sign of life, unless somebody has asked since."""
    await _bound(connection)
    await connection.execute(
        update(BACKEND)
        .where(BACKEND.c.name == backend, *_unchanged(seen))
        .values(lease_asked=BACKEND.c.lease_asked + 1)
    )


async def answer(connection: AsyncConnection, lease: Lease) -> None:
    """The owner's sign of life. Raises LeaseLost."""
    await _bound(connection)
    result = await connection.execute(
        update(BACKEND).where(_OURS).values(lease_answered=BACKEND.c.lease_asked), _named(lease)
    )
    if not result.rowcount:
        message = f"another daemon has taken over backend {lease.backend}"
        raise LeaseLost(message)


async def take(
    connection: AsyncConnection, backend: str, seen: LeaseState, *, holder: str
) -> Lease | None:
    """Own the backend under the next fence; None when it is not as it was `seen` any more: the owner lives, or another was first."""
    await _bound(connection)
    fence = await connection.execute(
        update(BACKEND)
        .where(BACKEND.c.name == backend, *_unchanged(seen))
        .values(lease_holder=holder, fence=seen.fence + 1, lease_answered=BACKEND.c.lease_asked)
        .returning(BACKEND.c.fence)
    )
    number = fence.scalar_one_or_none()
    return None if number is None else Lease(backend, holder, int(number))


async def give_back(connection: AsyncConnection, lease: Lease) -> None:
    """At a clean end, when nothing of the owner's runs any more: who waits need not wait for LEASE_S."""
    await connection.execute(update(BACKEND).where(_OURS).values(lease_holder=None), _named(lease))


async def _bound(connection: AsyncConnection) -> None:
    """Whoever stalls behind the next statement does not hold the lease's row for long."""
    if connection.dialect.name == "postgresql":
        await connection.execute(select(_BOUND))


def _named(lease: Lease) -> dict[str, object]:
    return {"the_name": lease.backend, "the_holder": lease.holder, "the_fence": lease.fence}


def _unchanged(seen: LeaseState) -> tuple[ColumnElement[bool], ...]:
    return (
        BACKEND.c.lease_holder.is_not_distinct_from(seen.holder),
        BACKEND.c.fence == seen.fence,
        BACKEND.c.lease_asked == seen.asked,
        BACKEND.c.lease_answered == seen.answered,
    )
