"""A whole gateway process's worth of gateway, before small real services, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest_asyncio
from tidebook.auth.v1 import auth_pb2_grpc
from tidebook.engine.v1 import (
    internal_pb2_grpc,
    market_pb2_grpc,
    order_pb2_grpc,
    position_pb2_grpc,
)
from tidebook.marketdata.v1 import marketdata_pb2_grpc
from tidebook.settlement.v1 import history_pb2_grpc, ledger_pb2_grpc

from gateway.__main__ import run
from mesh.config import Settings, load_settings
from mesh.server import Registration, ServiceHost
from mesh.tokens import TokenVerifier
from services.engine.__main__ import CHECKED_BY_HANDLER
from tests.gateway.services import (
    AuthService,
    EngineService,
    HistoryService,
    LedgerService,
    MarketDataService,
)
from tests.support import eventually, free_port, free_ports


@dataclass
class World:
    """The gateway under test and what stands behind it."""

    settings: Settings
    auth: AuthService = field(default_factory=AuthService)
    engine: EngineService = field(default_factory=EngineService)
    marketdata: MarketDataService = field(default_factory=MarketDataService)
    history: HistoryService = field(default_factory=HistoryService)
    hosts: dict[str, ServiceHost] = field(default_factory=dict)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    gateway: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.http_port}"

    @property
    def door(self) -> str:
        return f"127.0.0.1:{self.settings.grpc_port}"

    def bearer(self, account_id: int = 7) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.auth.token(account_id)}"}

    async def start_service(self, name: str) -> None:
        """Start one of the services behind the gateway (again)."""
        public: dict[str, list[Registration]] = {
            "auth": [(auth_pb2_grpc.add_AuthServiceServicer_to_server, self.auth)],
            "engine": [
                (order_pb2_grpc.add_OrderServiceServicer_to_server, self.engine),
                (market_pb2_grpc.add_MarketServiceServicer_to_server, self.engine),
                (position_pb2_grpc.add_PositionServiceServicer_to_server, self.engine),
            ],
            "marketdata": [
                (marketdata_pb2_grpc.add_MarketDataServiceServicer_to_server, self.marketdata)
            ],
            "settlement": [
                (history_pb2_grpc.add_HistoryServiceServicer_to_server, self.history),
                (
                    ledger_pb2_grpc.add_LedgerServiceServicer_to_server,
                    LedgerService(),  # type: ignore[abstract]
                ),
            ],
        }
        add_engine = internal_pb2_grpc.add_EngineInternalServiceServicer_to_server
        internal: dict[str, list[Registration]] = {"engine": [(add_engine, self.engine)]}
        signer = self.auth.signer

        async def keys() -> dict[str, bytes]:
            return {signer.kid: signer.public_key}

        host = await ServiceHost.start(
            self.settings,
            service=name,
            public=public[name],
            internal=internal.get(name, ()),
            verifier=TokenVerifier(keys),
            checked_by_handler=CHECKED_BY_HANDLER,
        )
        await host.set_serving(True)
        self.hosts[name] = host

    async def stop_service(self, name: str) -> None:
        await self.hosts.pop(name).drain()

    async def ready(self) -> None:
        async with aiohttp.ClientSession(self.url) as session:

            async def check() -> bool:
                async with session.get("/readyz") as answer:
                    return answer.status == 200

            await eventually(check)


@contextlib.asynccontextmanager
async def running_world(directory: Path, **different: Any) -> AsyncIterator[World]:
    """A world with the settings that a test wants to be different."""
    ports = free_ports([0, 1, 2, 3, 100, 101, 102, 103])
    values: dict[str, Any] = {
        "data_dir": directory,
        "http_port": free_port(),
        "grpc_port": free_port(),
        "auth_port": ports,
        "engine_port": ports + 1,
        "marketdata_port": ports + 2,
        "settlement_port": ports + 3,
        "drain_seconds": 1.0,
        "web_dir": directory / "dist",
    }
    world = World(load_settings(**values | different))
    try:
        for name in ("auth", "engine", "marketdata", "settlement"):
            await world.start_service(name)
        world.gateway = asyncio.create_task(run(world.settings, world.stop))
        await world.ready()
        yield world
    finally:
        world.stop.set()
        if world.gateway is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await world.gateway
        for name in list(world.hosts):
            await world.stop_service(name)


Start = Callable[..., Awaitable[World]]


@pytest_asyncio.fixture
async def start_world(short_dir: Path, valkey_url: str) -> AsyncIterator[Start]:
    """Starts worlds that end with the test."""
    async with contextlib.AsyncExitStack() as worlds:

        async def start(**different: Any) -> World:
            return await worlds.enter_async_context(
                running_world(short_dir, **{"redis_url": valkey_url} | different)
            )

        yield start


@pytest_asyncio.fixture
async def world(start_world: Start) -> World:
    """A world with the usual settings."""
    return await start_world()


@pytest_asyncio.fixture
async def http(world: World) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the world's gateway that keeps no cookies by itself."""
    async with aiohttp.ClientSession(world.url, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


@pytest_asyncio.fixture
async def door(world: World) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the world's gRPC door."""
    async with grpc.aio.insecure_channel(world.door) as channel:
        yield channel
