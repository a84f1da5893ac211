"""EngineInternalService: what other services of the mesh use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
from tidebook.engine.v1 import internal_pb2, internal_pb2_grpc, types_pb2

from kernel.reasons import Reason, Refused
from mesh.identity import require_service
from mesh.log import GENESIS_HASH, LogRecord, LogTrimmed
from mesh.telemetry import parse_traceparent
from mesh.tokens import TokenVerifier
from services.engine import codec, logcodec
from services.engine.domain import commands as c
from services.engine.domain import events as e
from services.engine.domain.exchange import Exchange
from services.engine.domain.views import LevelView, MarketView
from services.engine.peers import pieces_of_newest
from services.engine.prices import take_prices
from services.engine.service import Engine
from services.engine.shared_stream import SharedStream

Context = grpc.aio.ServicerContext[Any, Any]
_LOG_BATCH = 200


class InternalServicer(internal_pb2_grpc.EngineInternalServiceServicer):
    """The mesh's own door; the listener has checked which service calls."""

    def __init__(self, engine: Engine, verifier: TokenVerifier) -> None:
        self._engine = engine
        self._verifier = verifier

    async def SubmitCommands(
        self, request_iterator: AsyncIterator[internal_pb2.SubmitCommandsRequest], context: Context
    ) -> AsyncIterator[internal_pb2.SubmitCommandsResponse]:
        require_service("gateway", "ops")
        # So that the other side knows, before it sends anything, that somebody takes it.
        await context.send_initial_metadata(())
        stream = SharedStream(self._engine, self._verifier)
        async with aclosing(stream.responses(request_iterator)) as responses:
            async for response in responses:
                yield response

    async def ApplyTransfer(
        self, request: internal_pb2.ApplyTransferRequest, context: Context
    ) -> internal_pb2.ApplyTransferResponse:
        require_service("settlement", "ops")
        self._check_shard(request.shard)
        engine = self._engine
        command = c.Transfer(
            _uint63(request.account_id, "account_id"),
            _uint63(request.transfer_id, "transfer_id"),
            self._asset_id(request.asset),
            request.amount_units,
            request.kind,
        )
        return await engine.do(
            "engine.apply_transfer",
            command,
            lambda events: internal_pb2.ApplyTransferResponse(
                log_seq=engine.projection.seq,
                repeated=isinstance(events[0], e.CommandRepeated),
            ),
            trace=parse_traceparent(request.traceparent),
        )

    async def SetPrices(
        self, requests: AsyncIterator[internal_pb2.SetPricesRequest], context: Context
    ) -> internal_pb2.SetPricesResponse:
        require_service("marketdata")
        await take_prices(self._engine, requests)
        return internal_pb2.SetPricesResponse()

    async def SetMarketStatus(
        self, request: internal_pb2.SetMarketStatusRequest, context: Context
    ) -> internal_pb2.SetMarketStatusResponse:
        require_service("ops")
        engine = self._engine
        market_id = engine.texts.named(request.market).market.market_id
        return await engine.do(
            "engine.set_market_status",
            c.SetMarketStatus(market_id=market_id, status=request.status),
            lambda _: internal_pb2.SetMarketStatusResponse(log_seq=engine.projection.seq),
        )

    async def ReadLog(
        self, request: internal_pb2.ReadLogRequest, context: Context
    ) -> AsyncIterator[internal_pb2.ReadLogResponse]:
        self._check_shard(request.shard)
        reader = self._engine.log_reader
        seq = request.after_seq
        try:
            while records := await reader.read(seq, _LOG_BATCH):
                seq = records[-1].seq
                yield _raw(records)
            if request.stop_at_end:
                return
            async with aclosing(reader.follow(seq, batch=_LOG_BATCH)) as batches:
                async for records in batches:
                    yield _raw(records)
        except LogTrimmed as error:
            raise Refused(Reason.SEQUENCE_TOO_OLD, str(error), field="after_seq") from error

    async def ReadSnapshot(
        self, request: internal_pb2.ReadSnapshotRequest, context: Context
    ) -> AsyncIterator[internal_pb2.ReadSnapshotResponse]:
        require_service("engine", "ops")
        self._check_shard(request.shard)
        async with aclosing(pieces_of_newest(self._engine.snapshots)) as pieces:
            async for piece in pieces:
                yield piece

    async def GetBookSnapshot(
        self, request: internal_pb2.GetBookSnapshotRequest, context: Context
    ) -> internal_pb2.GetBookSnapshotResponse:
        self._check_shard(request.shard)
        engine = self._engine

        def read(exchange: Exchange) -> internal_pb2.GetBookSnapshotResponse:
            projection = engine.projection
            configure = c.Configure(
                assets=tuple(exchange.assets()),
                markets=tuple(view.config for view in exchange.markets()),
            )
            return internal_pb2.GetBookSnapshotResponse(
                log_seq=projection.seq,
                log_hash=projection.log_hash,
                configuration=logcodec.encode_command(configure).configure,
                books=[_book(exchange, view) for view in exchange.markets()],
            )

        return await engine.at_rest(read)

    async def GetEngineState(
        self, request: internal_pb2.GetEngineStateRequest, context: Context
    ) -> internal_pb2.GetEngineStateResponse:
        self._check_shard(request.shard)
        engine = self._engine
        error = engine.log_error()

        def read(exchange: Exchange) -> internal_pb2.GetEngineStateResponse:
            projection = engine.projection
            response = internal_pb2.GetEngineStateResponse(
                shard=engine.settings.shard,
                epoch=engine.epoch,
                log_seq=projection.seq,
                log_hash=projection.log_hash or GENESIS_HASH,
                state_hash=b"" if request.without_state_hash else exchange.state_hash(),
                open_orders=exchange.open_order_count(),
                accounts=len(exchange.accounts()),
                fees=_totals(exchange.fees()),
                house=_totals(exchange.house()),
                clearing=_totals(exchange.clearing()),
            )
            if request.with_balances:
                _add_balances(response, exchange, request)
            return response

        response = await engine.at_rest(read)
        if error is not None:
            codec.write_error(response.log_error, error)
        return response

    def _check_shard(self, shard: int) -> None:
        texts = self._engine.texts
        if shard != texts.shard:
            raise texts.shards.elsewhere(shard, "shard")

    def _asset_id(self, code: str) -> int:
        for asset in self._engine.projection.assets.values():
            if asset.code == code:
                return asset.asset_id
        raise Refused(Reason.ASSET_NOT_FOUND, "no such asset", field="asset")


def _uint63(value: int, field: str) -> int:
    if value >> 63:
        raise Refused(Reason.INVALID_ARGUMENT, "is too large", field=field)
    return value


def _raw(records: list[LogRecord]) -> internal_pb2.ReadLogResponse:
    return internal_pb2.ReadLogResponse(
        entries=[
            internal_pb2.RawLogEntry(seq=record.seq, payload=record.payload, hash=record.hash)
            for record in records
        ]
    )


def _book(exchange: Exchange, view: MarketView) -> internal_pb2.MarketBook:
    book = exchange.book(view.config.market_id)
    return internal_pb2.MarketBook(
        market_id=view.config.market_id,
        status=types_pb2.MarketStatus.ValueType(view.status),
        last_trade_id=view.last_trade_id,
        last_price_ticks=view.last_price_ticks,
        bids=_resting(book.bids),
        asks=_resting(book.asks),
    )


def _resting(levels: tuple[LevelView, ...]) -> list[internal_pb2.RestingOrder]:
    return [
        internal_pb2.RestingOrder(
            order_id=order.order_id,
            price_ticks=level.price_ticks,
            quantity_lots=order.quantity_lots,
        )
        for level in levels
        for order in level.orders
    ]


def _totals(units_of: dict[int, int]) -> list[internal_pb2.AssetTotal]:
    return [
        internal_pb2.AssetTotal(asset_id=asset_id, units=units)
        for asset_id, units in units_of.items()
    ]


def _add_balances(
    response: internal_pb2.GetEngineStateResponse,
    exchange: Exchange,
    request: internal_pb2.GetEngineStateRequest,
) -> None:
    """Balances of the accounts asked for, and where to go on from."""
    wanted = [request.account_id]
    if not request.account_id:
        wanted = [one for one in exchange.accounts() if one > request.after_account_id]
    if 0 < request.max_accounts < len(wanted):
        wanted = wanted[: request.max_accounts]
        response.last_account_id = wanted[-1]
    for account_id in wanted:
        for asset_id, balance in sorted(exchange.account(account_id).items()):
            if balance.free_units or balance.held_units:
                response.balances.add(
                    account_id=account_id,
                    asset_id=asset_id,
                    free_units=balance.free_units,
                    held_units=balance.held_units,
                )
