"""Real stores with settlement's schema in them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from mesh.config import Settings
from mesh.redis import open_redis
from ops.migrate import migrate
from services.settlement.store.sessions import open_store
from tests.builders import make_settings
from tests.settlement.support import LogMaker, Settlement, Wire


@pytest_asyncio.fixture
async def settings(tmp_path: Path, postgres_url: str, valkey_url: str) -> Settings:
    await migrate(postgres_url, ("settlement",))
    return make_settings(tmp_path, postgres_url=postgres_url, redis_url=valkey_url)


@pytest_asyncio.fixture
async def redis(settings: Settings) -> AsyncIterator[Redis]:
    client = open_redis(settings)
    yield client
    await client.aclose()


@pytest_asyncio.fixture
async def settlement(settings: Settings, redis: Redis) -> AsyncIterator[Settlement]:
    pool: Any = await open_store(settings)
    yield Settlement(pool, redis)
    pool.terminate()


@pytest.fixture
def maker() -> LogMaker:
    return LogMaker()


@pytest.fixture
def wire(redis: Redis) -> Wire:
    return Wire(redis)
