"""Backends. Law: a backend's owner id is made once and never changes; it marks our machines in the account."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.errors import ConfigError
from dstackd.store.tables import BACKEND, MACHINE


async def ensure_backend(
    connection: AsyncConnection,
    *,
    name: str,
    region: str,
    bucket: str,
    subnet: str | None,
    endpoint_url: str | None,
    now_ms: int,
    place: str = "",
) -> str:
    """Create or update the row; returns its owner id. `place`: where this daemon runs, as its holder's name begins.

    Raises ConfigError when region or bucket change while machines of the old ones may still run, which nobody would look after,
    or while a daemon elsewhere owns the backend.
    """
    row = (await connection.execute(select(BACKEND).where(BACKEND.c.name == name))).one_or_none()
    if row is None:
        created = await connection.execute(
            insert(BACKEND)
            .values(
                name=name,
                region=region,
                bucket=bucket,
                subnet=subnet,
                endpoint_url=endpoint_url,
                created_at_ms=now_ms,
            )
            .returning(BACKEND.c.owner)
        )
        return str(created.scalar_one())
    if (row.region, row.bucket) != (region, bucket):
        _refuse_of_others(row, place)
        await _refuse_with_machines(connection, name, row.region, row.bucket)
    values = (region, bucket, subnet, endpoint_url)
    if values == (row.region, row.bucket, row.subnet, row.endpoint_url):
        return str(row.owner)
    await connection.execute(
        update(BACKEND)
        .where(BACKEND.c.name == name)
        .values(region=region, bucket=bucket, subnet=subnet, endpoint_url=endpoint_url)
    )
    return str(row.owner)


def _refuse_of_others(row: Row[Any], place: str) -> None:
    if row.lease_holder is not None and not row.lease_holder.startswith(f"{place}/"):
        message = (
            f"backend.{row.name}: the daemon {row.lease_holder} owns it, with bucket {row.bucket} in {row.region}; give this one "
            "the same values, or another name"
        )
        raise ConfigError(message)


async def _refuse_with_machines(
    connection: AsyncConnection, name: str, region: str, bucket: str
) -> None:
    live = await connection.execute(
        select(MACHINE.c.instance_id)
        .where(MACHINE.c.backend == name, MACHINE.c.gone_at_ms.is_(None))
        .limit(1)
    )
    if live.first() is not None:
        message = (
            f"backend.{name}: machines may still run in {region} with bucket {bucket}; keep those values until they "
            "are gone, then change them"
        )
        raise ConfigError(message)
