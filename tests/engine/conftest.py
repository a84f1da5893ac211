"""An engine for every test that wants one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.support.engine import EngineRig, engine_rig


@pytest_asyncio.fixture
async def rig(short_dir: Path, valkey_url: str) -> AsyncIterator[EngineRig]:
    """A rig whose engine is not started yet."""
    async with engine_rig(short_dir, valkey_url) as rig:
        yield rig


@pytest_asyncio.fixture
async def engine(rig: EngineRig) -> EngineRig:
    """A running engine in this process."""
    await rig.start()
    return rig
