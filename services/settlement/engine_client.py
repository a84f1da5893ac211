"""The engine as the outbox relay sees it."""

from __future__ import annotations

import grpc
from tidebook.engine.v1 import internal_pb2, internal_pb2_grpc, types_pb2

from kernel.reasons import Refused
from mesh.status import refused_from
from services.settlement.reconciler import EngineView
from services.settlement.store.transfers import OutboxMessage


class EngineClient:
    """`EnginePort` and `EngineStatePort` over gRPC."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = internal_pb2_grpc.EngineInternalServiceStub(channel)

    async def apply_transfer(self, message: OutboxMessage, asset: str) -> None:
        """See `EnginePort.apply_transfer`."""
        request = internal_pb2.ApplyTransferRequest(
            transfer_id=message.engine_transfer_id,
            account_id=message.account_id,
            asset=asset,
            amount_units=message.amount_units,
            kind=types_pb2.TransferKind.ValueType(message.kind),
            traceparent=message.traceparent,
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
                with_balances=True, without_state_hash=True, account_id=account_id
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
            last_account_id=state.last_account_id,
        )
