"""The settlement service on real sockets, with a small engine of the test's own behind it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis.asyncio import Redis
from tidebook.auth.v1 import auth_pb2_grpc
from tidebook.engine.v1 import internal_pb2, internal_pb2_grpc
from tidebook.settlement.v1 import (
    history_pb2_grpc,
    ledger_pb2,
    ledger_pb2_grpc,
)
from tidebook.settlement.v1 import (
    internal_pb2 as settlement_internal_pb2,
)
from tidebook.settlement.v1 import (
    internal_pb2_grpc as settlement_internal_pb2_grpc,
)

from kernel.markets import DEFAULT_ASSETS
from kernel.reasons import Reason, Refused
from mesh.channel import open_channel
from mesh.config import Settings
from mesh.log import LogRecord
from mesh.server import ServiceHost
from mesh.tokens import TokenSigner
from services.engine.domain import commands as c
from services.engine.domain import events as e
from services.settlement.__main__ import run
from tests.settlement.support import LogMaker, Wire
from tests.support import eventually, free_ports
from tests.support.paging import pages
from tests.support.signing import SigningKeys

_ASSETS = {asset.code: asset for asset in DEFAULT_ASSETS}


class SmallEngine(internal_pb2_grpc.EngineInternalServiceServicer):
    """ApplyTransfer through the real core and into the real log; faults on request."""

    def __init__(self, maker: LogMaker, wire: Wire) -> None:
        self.maker = maker
        self.wire = wire
        self.calls: list[int] = []
        # Called before and after the transfer is in the log; may raise what the caller then gets.
        self.before: Callable[[], Awaitable[None]] = _nothing
        self.after: Callable[[], Awaitable[None]] = _nothing
        # What it says of its state from now on, whatever that is.
        self.told: internal_pb2.GetEngineStateResponse | None = None
        self._turn = asyncio.Lock()

    async def ApplyTransfer(
        self, request: internal_pb2.ApplyTransferRequest, context: Any
    ) -> internal_pb2.ApplyTransferResponse:
        self.calls.append(request.transfer_id)
        await self.before()
        command = c.Transfer(
            request.account_id,
            request.transfer_id,
            _ASSETS[request.asset].asset_id,
            request.amount_units,
            request.kind,
        )
        async with self._turn:
            await self.wire.append(self.maker.entry(command))
            ((event,),) = self.maker.events
            seq = self.maker.seq
        await self.after()
        if isinstance(event, e.CommandRefused):
            raise Refused(Reason(event.reason))
        return internal_pb2.ApplyTransferResponse(
            log_seq=seq, repeated=isinstance(event, e.CommandRepeated)
        )

    async def write(self, make: Callable[[], LogRecord]) -> None:
        """Append what `make` makes, between two transfers."""
        async with self._turn:
            await self.wire.append(make())

    async def GetEngineState(
        self, request: internal_pb2.GetEngineStateRequest, context: Any
    ) -> internal_pb2.GetEngineStateResponse:
        if self.told is not None:
            return self.told
        exchange = self.maker.exchange
        response = internal_pb2.GetEngineStateResponse(
            log_seq=self.maker.seq, log_hash=self.maker.hash
        )
        for asset_id, units in exchange.fees().items():
            response.fees.add(asset_id=asset_id, units=units)
        for account_id in exchange.accounts():
            if request.account_id in (0, account_id):
                for asset_id, balance in exchange.account(account_id).items():
                    response.balances.add(
                        account_id=account_id,
                        asset_id=asset_id,
                        free_units=balance.free_units,
                        held_units=balance.held_units,
                    )
        return response


async def _nothing() -> None:
    pass


class Client:
    """One account's way to settlement."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self.metadata = (("authorization", f"Bearer {token}"),)
        self.ledger = ledger_pb2_grpc.LedgerServiceStub(channel)
        self.history = history_pb2_grpc.HistoryServiceStub(channel)

    async def call(self, method: Any, request: Any) -> Any:
        return await method(request, metadata=self.metadata, timeout=60)

    async def deposit(
        self, asset: str, amount: str, request_id: str = "one"
    ) -> ledger_pb2.Transfer:
        request = ledger_pb2.CreateDepositRequest(asset=asset, amount=amount, request_id=request_id)
        transfer: ledger_pb2.Transfer = (
            await self.call(self.ledger.CreateDeposit, request)
        ).transfer
        return transfer

    async def withdraw(
        self, asset: str, amount: str, request_id: str = "out"
    ) -> ledger_pb2.Transfer:
        request = ledger_pb2.CreateWithdrawalRequest(
            asset=asset, amount=amount, request_id=request_id, address="somewhere"
        )
        transfer: ledger_pb2.Transfer = (
            await self.call(self.ledger.CreateWithdrawal, request)
        ).transfer
        return transfer

    async def transfers(self) -> list[ledger_pb2.Transfer]:
        """All of them, newest first."""
        request = ledger_pb2.ListTransfersRequest(page_size=1000)
        ask = partial(self.call, self.ledger.ListTransfers)
        return [transfer async for page in pages(ask, request) for transfer in page.transfers]

    async def balances(self) -> dict[str, tuple[str, str]]:
        """Asset code -> (free, held)."""
        answer = await self.call(self.ledger.ListBalances, ledger_pb2.ListBalancesRequest())
        return {b.asset: (b.free, b.held) for b in answer.balances}


class Rig:
    """Settlement that can be started and stopped on the same data and ports."""

    def __init__(self, settings: Settings, engine: SmallEngine) -> None:
        self.settings = settings
        self.engine = engine
        self._signer = TokenSigner(Ed25519PrivateKey.generate(), "k1")
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._hosts: list[ServiceHost] = []
        self._stack = contextlib.AsyncExitStack()

    async def open(self) -> None:
        """Start the neighbours: a signing key and the small engine."""
        self._hosts = [
            await ServiceHost.start(
                self.settings,
                service="auth",
                internal=[
                    (
                        auth_pb2_grpc.add_AuthServiceServicer_to_server,
                        SigningKeys(self._signer),  # type: ignore[abstract]
                    )
                ],
            ),
            await ServiceHost.start(
                self.settings,
                service="engine",
                internal=[
                    (
                        internal_pb2_grpc.add_EngineInternalServiceServicer_to_server,
                        self.engine,
                    )
                ],
            ),
        ]
        address = f"127.0.0.1:{self.settings.settlement_port}"
        self.public = await self._stack.enter_async_context(grpc.aio.insecure_channel(address))
        channel = open_channel(self.settings, "settlement", caller="ops")
        await self._stack.enter_async_context(channel)
        self.internal = settlement_internal_pb2_grpc.SettlementInternalServiceStub(channel)

    async def start(self) -> None:
        """Run settlement; returns when it is healthy."""
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(run(self.settings, self._stop))
        stub = health_pb2_grpc.HealthStub(self.public)

        async def healthy() -> bool:
            assert self._task is not None
            if self._task.done():
                self._task.result()
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=2)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

        await eventually(healthy)

    async def stop(self) -> None:
        if self._task is not None:
            self._stop.set()
            await self._task
            self._task = None

    async def close(self) -> None:
        await self.stop()
        await self._stack.aclose()
        for host in self._hosts:
            await host.drain()

    def client(self, account_id: int, scopes: str = "read trade withdraw") -> Client:
        """An account, by token."""
        token = self._signer.sign(
            user_id=f"u-{account_id}",
            account_id=account_id,
            session_id=f"s-{account_id}",
            scopes=scopes.split(),
            ttl_seconds=600,
        )
        return Client(self.public, token)


@contextlib.asynccontextmanager
async def settlement_rig(settings: Settings, redis: Redis) -> AsyncIterator[Rig]:
    """A running settlement service, its log begun with assets and markets."""
    base = free_ports([0, 1, 2, 100, 101, 102])
    settings = settings.model_copy(
        update={
            "auth_port": base,
            "engine_port": base + 1,
            "settlement_port": base + 2,
            "reconcile_seconds": 0.2,
        }
    )
    maker, wire = LogMaker(), Wire(redis)
    await wire.append(maker.begin())
    rig = Rig(settings, SmallEngine(maker, wire))  # type: ignore[abstract]
    try:
        await rig.open()
        await rig.start()

        async def configured() -> bool:
            request = settlement_internal_pb2.GetProgressRequest()
            return bool((await rig.internal.GetProgress(request)).applied_seq)

        await eventually(configured)
        yield rig
    finally:
        await rig.close()
