"""Backends. Law: a backend's owner id is made once and never changes; it marks our machines in the account."""

from __future__ import annotations

from sqlalchemy import insert, select, update
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
) -> str:
    """Create or update the row; returns its owner id.

    Raises ConfigError when region or bucket change while machines of the old ones may still run: nobody would
    look after them.
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
        await _refuse_with_machines(connection, name, row.region, row.bucket)
    await connection.execute(
        update(BACKEND)
        .where(BACKEND.c.name == name)
        .values(region=region, bucket=bucket, subnet=subnet, endpoint_url=endpoint_url)
    )
    return str(row.owner)


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
