"""An engine on its own: real process or real sockets in this one, real Valkey, tokens signed here.

Tests and benchmarks of the engine use it; nothing else of the mesh has to run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tidebook.auth.v1 import auth_pb2_grpc
from tidebook.engine.v1 import (
    internal_pb2,
    internal_pb2_grpc,
    market_pb2_grpc,
    order_pb2,
    order_pb2_grpc,
    types_pb2,
)

from kernel.markets import DEFAULT_ASSETS
from mesh.channel import open_channel
from mesh.config import Settings, environment_of, load_settings
from mesh.server import ServiceHost
from mesh.tokens import TokenSigner
from services.engine.__main__ import run
from tests.support.ports import free_ports
from tests.support.signing import SigningKeys
from tests.support.waiting import eventually

_ROOT = Path(__file__).resolve().parents[2]
_SIDES: dict[str | int, int] = {"buy": types_pb2.SIDE_BUY, "sell": types_pb2.SIDE_SELL}
_ASSETS = {asset.code: asset for asset in DEFAULT_ASSETS}


class Trader:
    """One account's way to the engine."""

    def __init__(self, channel: grpc.aio.Channel, token: str, account_id: int) -> None:
        self.account_id = account_id
        self.token = token
        self.metadata = (("authorization", f"Bearer {token}"),)
        self.stub = order_pb2_grpc.OrderServiceStub(channel)

    async def place(self, **fields: Any) -> order_pb2.PlaceOrderResponse:
        return await self.stub.PlaceOrder(limit(**fields), metadata=self.metadata, timeout=60)

    async def cancel(self, order_id: int) -> order_pb2.Order:
        request = order_pb2.CancelOrderRequest(order_id=order_id)
        answer = await self.stub.CancelOrder(request, metadata=self.metadata, timeout=60)
        return answer.order

    async def order(self, order_id: int) -> order_pb2.Order:
        request = order_pb2.GetOrderRequest(order_id=order_id)
        return (await self.stub.GetOrder(request, metadata=self.metadata, timeout=60)).order

    async def open_orders(self) -> list[order_pb2.Order]:
        request = order_pb2.ListOpenOrdersRequest()
        answer = await self.stub.ListOpenOrders(request, metadata=self.metadata, timeout=60)
        return list(answer.orders)

    async def balances(self) -> dict[str, tuple[str, str]]:
        """Asset code -> (free, held)."""
        request = order_pb2.GetAccountRequest()
        answer = await self.stub.GetAccount(request, metadata=self.metadata, timeout=60)
        return {b.asset: (b.free, b.held) for b in answer.balances}

    def stream(self) -> Any:
        return self.stub.TradeStream(metadata=self.metadata)

    def watch(self, resume_from_seq: int = 0) -> Any:
        request = order_pb2.WatchAccountRequest(resume_from_seq=resume_from_seq)
        return self.stub.WatchAccount(request, metadata=self.metadata)


class EngineRig:
    """An engine that can be started, stopped and killed, always on the same data and ports."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.signer = TokenSigner(Ed25519PrivateKey.generate(), "k1")
        self.process: asyncio.subprocess.Process | None = None
        self._auth: ServiceHost | None = None
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._transfers = 0
        self._stack = contextlib.AsyncExitStack()

    @property
    def log_path(self) -> Path:
        """What the engine's process wrote."""
        return self.settings.data_dir / "engine.log"

    async def open(self) -> None:
        """Start what the engine needs of auth."""
        self._auth = await ServiceHost.start(
            self.settings,
            service="auth",
            internal=[
                (
                    auth_pb2_grpc.add_AuthServiceServicer_to_server,
                    SigningKeys(self.signer),  # type: ignore[abstract]
                )
            ],
        )
        self.public = await self._stack.enter_async_context(
            grpc.aio.insecure_channel(
                f"127.0.0.1:{self.settings.engine_port}",
                # A restarted engine is wanted at once, not after a back-off.
                options=[
                    ("grpc.initial_reconnect_backoff_ms", 50),
                    ("grpc.max_reconnect_backoff_ms", 100),
                ],
            )
        )
        ops = await self._stack.enter_async_context(
            open_channel(self.settings, "engine", caller="ops")
        )
        self.internal = internal_pb2_grpc.EngineInternalServiceStub(ops)
        self.markets = market_pb2_grpc.MarketServiceStub(self.public)

    async def close(self) -> None:
        """Stop everything."""
        await self.stop()
        await self._stack.aclose()
        if self._auth is not None:
            await self._auth.drain()

    async def start(self) -> None:
        """Run the engine in this process; returns when it is healthy."""
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(run(self.settings, self._stop))
        await self.wait_until_healthy()

    async def spawn(self) -> None:
        """Run the engine in a process of its own; returns when it is healthy."""
        self.process = await self.launch()
        await self.wait_until_healthy()

    async def launch(self, **changed: Any) -> asyncio.subprocess.Process:
        """A bare engine process, with some settings changed."""
        variables = {k: v for k, v in os.environ.items() if not k.startswith("TIDEBOOK_")}
        with self.log_path.open("ab") as output:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "services.engine"),
                env=variables | environment_of(self.settings, changed),
                cwd=_ROOT,
                stdout=output,
                stderr=output,
            )

    async def stop(self) -> None:
        """End it the orderly way."""
        if self._task is not None:
            self._stop.set()
            await self._task
            self._task = None
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            await self.process.wait()
        self.process = None

    async def kill(self) -> None:
        """End its process at once."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()
        self.process = None

    async def wait_until_healthy(self) -> None:
        """Until it has recovered and takes commands."""
        stub = health_pb2_grpc.HealthStub(self.public)

        async def healthy() -> bool:
            if self._task is not None and self._task.done():
                self._task.result()
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=2)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

        await eventually(healthy)
        # After a kill the internal channel may still be waiting before it connects again.
        await eventually(self.state)

    def trader(self, account_id: int, scopes: str = "read trade") -> Trader:
        """An account, by token."""
        token = self.signer.sign(
            user_id=f"u-{account_id}",
            account_id=account_id,
            session_id=f"s-{account_id}",
            scopes=scopes.split(),
            ttl_seconds=3600,
        )
        return Trader(self.public, token, account_id)

    async def deposit(self, account_id: int, asset: str, amount: str) -> None:
        """Credit an account, as settlement would."""
        self._transfers += 1
        await self.internal.ApplyTransfer(
            internal_pb2.ApplyTransferRequest(
                transfer_id=self._transfers,
                account_id=account_id,
                asset=asset,
                amount_units=_ASSETS[asset].parse(amount),
                kind=types_pb2.TRANSFER_KIND_DEPOSIT,
            )
        )

    async def funded(self, account_id: int) -> Trader:
        """An account with plenty of everything."""
        await self.deposit(account_id, "USDC", "10000000")
        await self.deposit(account_id, "BTC", "1000")
        return self.trader(account_id)

    async def state(self, *, with_balances: bool = False) -> internal_pb2.GetEngineStateResponse:
        """Position, hashes, totals."""
        request = internal_pb2.GetEngineStateRequest(with_balances=with_balances)
        return await self.internal.GetEngineState(request)


def limit(
    side: str | int = "buy", price: str = "100", quantity: str = "0.1", **fields: Any
) -> order_pb2.PlaceOrderRequest:
    """A limit order in BTC_USDC; other fields as they are named in the contract."""
    values: dict[str, Any] = {
        "market": "BTC_USDC",
        "side": _SIDES.get(side, side),
        "type": types_pb2.ORDER_TYPE_LIMIT,
        "price": price,
        "quantity": quantity,
    }
    return order_pb2.PlaceOrderRequest(**(values | fields))


@contextlib.asynccontextmanager
async def engine_rig(data_dir: Path, redis_url: str, **settings: Any) -> AsyncIterator[EngineRig]:
    """A rig whose engine is not started yet."""
    base = free_ports([0, 1, 2, 100, 101, 102])
    values: dict[str, Any] = {
        "data_dir": data_dir,
        "redis_url": redis_url,
        "auth_port": base,
        "engine_port": base + 1,
        "settlement_port": base + 2,
        "drain_seconds": 4.0,
        "mode": "dev",
    }
    rig = EngineRig(load_settings(**(values | settings)))
    await rig.open()
    try:
        yield rig
    finally:
        await rig.close()
