"""Migrations: every service in its own schema, as often as one likes, and by several at once."""

from __future__ import annotations

import asyncio

import asyncpg

from ops import migrate


async def versions(url: str) -> dict[str, str]:
    """Schema -> version."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            "select table_schema from information_schema.tables"
            " where table_name = 'alembic_version'"
        )
        schemas = [row["table_schema"] for row in rows]
        return {
            schema: await connection.fetchval(f"select version_num from {schema}.alembic_version")
            for schema in schemas
        }
    finally:
        await connection.close()


async def test_each_service_is_migrated_in_its_own_schema(postgres_url: str) -> None:
    migrated = await migrate.migrate(postgres_url)
    first = await versions(postgres_url)
    assert migrated and set(first) == set(migrated)
    assert all(first.values())

    await migrate.migrate(postgres_url)
    assert await versions(postgres_url) == first


async def test_two_systems_may_migrate_one_database_at_once(postgres_url: str) -> None:
    both = await asyncio.gather(*(migrate.migrate(postgres_url) for _ in range(2)))
    assert both[0] == both[1] == list(await versions(postgres_url))
