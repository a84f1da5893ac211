"""The engine as the outbox relay sees it."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from tidebook.engine.v1 import internal_pb2, internal_pb2_grpc, types_pb2

from kernel.reasons import Reason, Refused
from mesh.status import refused_from
from services.settlement.reconciler import EngineView
from services.settlement.store.transfers import OutboxMessage


class EngineClients:
    """`EnginePort` over the engines of all shards."""

    def __init__(self, by_shard: Mapping[int, EngineClient]) -> None:
        self._by_shard = by_shard

    async def apply_transfer(self, message: OutboxMessage, asset: str) -> None:
        """See `EnginePort.apply_transfer`."""
        client = self._by_shard.get(message.shard)
        if client is None:
            raise Refused(Reason.UNAVAILABLE, f"shard {message.shard} is not configured")
        await client.apply_transfer(message, asset)


class EngineClient:
    """`EnginePort` and `EngineStatePort` of one shard over gRPC."""

    def __init__(self, channel: grpc.aio.Channel, shard: int) -> None:
        self._stub = internal_pb2_grpc.EngineInternalServiceStub(channel)
        self._shard = shard

    async def apply_transfer(self, message: OutboxMessage, asset: str) -> None:
        """See `EnginePort.apply_transfer`."""
        request = internal_pb2.ApplyTransferRequest(
            transfer_id=message.engine_transfer_id,
            account_id=message.account_id,
            asset=asset,
            amount_units=message.amount_units,
            kind=types_pb2.TransferKind.ValueType(message.kind),
            traceparent=message.traceparent,
            shard=message.shard,
        )
        try:
            await self._stub.ApplyTransfer(request)
        except grpc.RpcError as error:
            refused: Refused = refused_from(error)
            raise refused from error

    async def accounts_after(self, account_id: int, count: int) -> EngineView:
        """See `EngineStatePort.accounts_after`."""
        return await self._state(
            internal_pb2.GetEngineStateRequest(
                shard=self._shard,
                with_balances=True,
                without_state_hash=True,
                after_account_id=account_id,
                max_accounts=count,
            )
        )

    async def account(self, account_id: int) -> EngineView:
        """See `EngineStatePort.account`."""
        return await self._state(
            internal_pb2.GetEngineStateRequest(
                shard=self._shard,
                with_balances=True,
                without_state_hash=True,
                account_id=account_id,
            )
        )

    async def _state(self, request: internal_pb2.GetEngineStateRequest) -> EngineView:
        try:
            state = await self._stub.GetEngineState(request)
        except grpc.RpcError as error:
            refused: Refused = refused_from(error)
            raise refused from error
        return EngineView(
            log_seq=state.log_seq,
            log_hash=state.log_hash,
            balances={
                (b.account_id, b.asset_id): (b.free_units, b.held_units) for b in state.balances
            },
            fees={total.asset_id: total.units for total in state.fees},
            house={total.asset_id: total.units for total in state.house},
            clearing={total.asset_id: total.units for total in state.clearing},
            last_account_id=state.last_account_id,
        )
