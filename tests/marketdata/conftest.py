"""Fixtures of the market data tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.marketdata.rig import MarketDataRig, market_data_rig


@pytest_asyncio.fixture
async def rig(short_dir: Path, valkey_url: str, postgres_url: str) -> AsyncIterator[MarketDataRig]:
    """Engine and market data service on real stores; neither is started."""
    async with market_data_rig(short_dir, valkey_url, postgres_url) as rig:
        yield rig


@pytest_asyncio.fixture
async def running(rig: MarketDataRig) -> MarketDataRig:
    """Both are running."""
    await rig.engine.start()
    await rig.start()
    return rig
