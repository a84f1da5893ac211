"""The engine as the outbox relay sees it."""

from __future__ import annotations

import grpc
from tidebook.engine.v1 import internal_pb2, internal_pb2_grpc, types_pb2

from kernel.reasons import Refused
from mesh.status import refused_from
from services.settlement.store.transfers import OutboxMessage


class EngineClient:
    """`EnginePort` over gRPC."""

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
