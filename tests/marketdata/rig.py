"""A market data service in this process, beside a real engine, PostgreSQL and Valkey."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tidebook.marketdata.v1 import marketdata_pb2_grpc as rpc

from mesh.config import Settings, environment_of
from ops.migrate import migrate
from services.marketdata.__main__ import run
from tests.support.engine import EngineRig, engine_rig
from tests.support.ports import free_ports
from tests.support.waiting import eventually

_ROOT = Path(__file__).resolve().parents[2]


class MarketDataRig:
    """The service, to be started and stopped, always on the same data and ports."""

    def __init__(self, engine: EngineRig, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self.channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{settings.marketdata_port}",
            options=[
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.max_reconnect_backoff_ms", 100),
            ],
        )
        self.stub = rpc.MarketDataServiceStub(self.channel)

    async def start(self, *, wait: bool = True) -> None:
        """Run it; returns when it listens and, with `wait`, has the books."""
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(run(self.settings, self._stop))
        await eventually(self.health)
        if wait:
            await eventually(self.is_serving)

    async def stop(self) -> None:
        """Drain it."""
        if self._task is not None:
            self._stop.set()
            await self._task
            self._task = None

    async def spawn(self) -> None:
        """Run it in a process of its own; returns when it has the books."""
        variables = {k: v for k, v in os.environ.items() if not k.startswith("TIDEBOOK_")}
        with (self.settings.data_dir / "marketdata.log").open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "services.marketdata"),
                env=variables | environment_of(self.settings, {}),
                cwd=_ROOT,
                stdout=output,
                stderr=output,
            )
        await eventually(self.is_serving)

    async def kill(self) -> None:
        """End its process at once, without a drain or a last write."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    async def health(self) -> int:
        """What its health check answers; raises while it does not listen."""
        if self._task is not None and self._task.done():
            self._task.result()
        stub = health_pb2_grpc.HealthStub(self.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=2)
        return int(answer.status)

    async def is_serving(self) -> bool:
        return bool(await self.health() == health_pb2.HealthCheckResponse.SERVING)


@contextlib.asynccontextmanager
async def market_data_rig(
    data_dir: Path, redis_url: str, postgres_url: str, **settings: Any
) -> AsyncIterator[MarketDataRig]:
    """Engine (started) and market data (not yet)."""
    await migrate(postgres_url, ("marketdata",))
    values: dict[str, Any] = {
        "postgres_url": postgres_url,
        "marketdata_port": free_ports([0, 100]),
        "feed": "synthetic:7",
    }
    async with engine_rig(data_dir, redis_url, **(values | settings)) as engine:
        rig = MarketDataRig(engine, engine.settings)
        try:
            yield rig
        finally:
            await rig.stop()
            await rig.kill()
            await rig.channel.close()
