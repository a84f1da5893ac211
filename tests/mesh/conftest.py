"""A real service on real sockets, with certificates and a token signer of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from redis.asyncio import Redis
from tidebook.engine.v1 import market_pb2, market_pb2_grpc, order_pb2, order_pb2_grpc, types_pb2

from kernel.clock import ManualClock
from kernel.reasons import Reason, Refused
from mesh.channel import open_channel
from mesh.config import Settings, load_settings
from mesh.identity import current_caller, require
from mesh.redis import open_redis
from mesh.server import ServiceHost
from mesh.status import refused_from
from mesh.tokens import TokenSigner, TokenVerifier
from tests.support import free_ports

NOW_NS = 1_700_000_000 * 10**9
VALID_ORDER = order_pb2.PlaceOrderRequest(
    market="BTC_USDC",
    side=types_pb2.SIDE_BUY,
    type=types_pb2.ORDER_TYPE_LIMIT,
    price="100.00",
    quantity="1",
    client_order_id="a",
)


@dataclass
class Servicer(order_pb2_grpc.OrderServiceServicer, market_pb2_grpc.MarketServiceServicer):
    """Orders and markets as far as the tests of the mesh need them."""

    on_get: Callable[[Any], Awaitable[None]] | None = None
    on_watch: Callable[[], AsyncIterator[order_pb2.WatchAccountResponse]] | None = None
    finished: list[str] = field(default_factory=list)

    async def GetServerTime(
        self, request: market_pb2.GetServerTimeRequest, context: Any
    ) -> market_pb2.GetServerTimeResponse:
        if self.on_get is not None:
            await self.on_get(context)
        return market_pb2.GetServerTimeResponse()

    async def GetAccount(
        self, request: order_pb2.GetAccountRequest, context: Any
    ) -> order_pb2.GetAccountResponse:
        caller = require("read")
        context.set_trailing_metadata(
            (("x-account", str(caller.account_id)), ("x-service", caller.service or "none"))
        )
        return order_pb2.GetAccountResponse()

    async def PlaceOrder(
        self, request: order_pb2.PlaceOrderRequest, context: Any
    ) -> order_pb2.PlaceOrderResponse:
        require("trade")
        raise Refused(Reason.PRICE_NOT_ON_TICK, "wrong tick", field="price", tick_size="0.01")

    async def CancelOrder(
        self, request: order_pb2.CancelOrderRequest, context: Any
    ) -> order_pb2.CancelOrderResponse:
        raise RuntimeError("secret internals")

    async def WatchAccount(
        self, request: order_pb2.WatchAccountRequest, context: Any
    ) -> AsyncIterator[order_pb2.WatchAccountResponse]:
        try:
            yield order_pb2.WatchAccountResponse()
            if self.on_watch is not None:
                async for update in self.on_watch():
                    yield update
            await asyncio.Event().wait()
        finally:
            self.finished.append(f"watch of {current_caller().account_id}")

    async def TradeStream(
        self, request_iterator: AsyncIterator[order_pb2.TradeStreamRequest], context: Any
    ) -> AsyncIterator[order_pb2.TradeStreamResponse]:
        async for _ in request_iterator:
            yield order_pb2.TradeStreamResponse()
        # What was in flight when the requests ended is still answered.
        yield order_pb2.TradeStreamResponse()
        self.finished.append("trade stream")


def new_servicer() -> Servicer:
    return Servicer()  # type: ignore[abstract]  # the rest answers UNSUPPORTED


@dataclass
class Mesh:
    """An engine that runs, and ways to reach it."""

    settings: Settings
    host: ServiceHost
    servicer: Servicer
    signer: TokenSigner
    clock: ManualClock
    stack: contextlib.AsyncExitStack

    def token(self, *, account_id: int = 7, scopes: str = "read trade", ttl: int = 600) -> str:
        return self.signer.sign(
            user_id="u-1",
            account_id=account_id,
            session_id="s-1",
            scopes=scopes.split(),
            ttl_seconds=ttl,
        )

    def bearer(self, **options: Any) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token(**options)}"),)

    async def internal(self, caller: str = "gateway") -> grpc.aio.Channel:
        return await self.stack.enter_async_context(
            open_channel(self.settings, "engine", caller=caller)
        )

    async def public(self) -> grpc.aio.Channel:
        return await self.stack.enter_async_context(
            grpc.aio.insecure_channel(f"127.0.0.1:{self.host.public_port}")
        )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(
        data_dir=tmp_path, engine_port=free_ports([0, 100]), drain_seconds=2.0, mode="dev"
    )


@pytest_asyncio.fixture
async def mesh(settings: Settings) -> AsyncIterator[Mesh]:
    clock = ManualClock(NOW_NS)
    signer = TokenSigner(Ed25519PrivateKey.generate(), "k1", clock=clock)

    async def keys() -> dict[str, bytes]:
        return {"k1": signer.public_key}

    servicer = new_servicer()
    host = await start_host(settings, servicer, TokenVerifier(keys, clock=clock))
    async with contextlib.AsyncExitStack() as stack:
        yield Mesh(settings, host, servicer, signer, clock, stack)
    await host.drain()


async def start_host(
    settings: Settings, servicer: Servicer, verifier: TokenVerifier | None = None
) -> ServiceHost:
    return await ServiceHost.start(
        settings,
        service="engine",
        public=[
            (order_pb2_grpc.add_OrderServiceServicer_to_server, servicer),
            (market_pb2_grpc.add_MarketServiceServicer_to_server, servicer),
        ],
        verifier=verifier,
    )


@pytest_asyncio.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    client = open_redis(load_settings(redis_url=valkey_url))
    yield client
    await client.aclose()


async def refusal(call: Any) -> Refused:
    """Why a call was refused."""
    with pytest.raises(grpc.RpcError) as caught:
        await call
    return refused_from(caught.value)
