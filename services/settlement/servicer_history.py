"""HistoryService: decode, call, encode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import asyncpg
import grpc
from google.protobuf.message import Message
from tidebook.settlement.v1 import history_pb2, history_pb2_grpc

from kernel.money import INT64_MAX
from kernel.reasons import Reason, Refused
from kernel.shards import SHARDS_MAX, shard_of
from mesh.identity import require
from services.settlement import history as h
from services.settlement.catalog import Catalog
from services.settlement.export import export
from services.settlement.paging import MAX_PAGE_SIZE, make_token, page_size, read_token
from services.settlement.store import reading
from services.settlement.store.sessions import for_a_call

Context = grpc.aio.ServicerContext[Any, Any]
M = TypeVar("M", bound=Message)
# Rows put into words before other calls get a turn: about a millisecond.
_AT_ONCE = 100
PagedRequest: TypeAlias = (
    history_pb2.ListOrdersRequest
    | history_pb2.ListFillsRequest
    | history_pb2.ListPositionsRequest
    | history_pb2.ListCfdsRequest
    | history_pb2.ListLiquidationsRequest
)


class HistoryServicer(history_pb2_grpc.HistoryServiceServicer):
    """What the caller's account did."""

    def __init__(self, pool: asyncpg.Pool, catalog: Catalog) -> None:
        self._pool = pool
        self._catalog = catalog

    async def ListOrders(
        self, request: history_pb2.ListOrdersRequest, context: Context
    ) -> history_pb2.ListOrdersResponse:
        orders, token = await self._page(
            request,
            reading.list_orders,
            h.order_key,
            h.order_to_proto,
            key_length=3,
            status=request.status or None,
        )
        return history_pb2.ListOrdersResponse(orders=orders, next_page_token=token)

    async def GetOrder(
        self, request: history_pb2.GetOrderRequest, context: Context
    ) -> history_pb2.GetOrderResponse:
        account_id = require("read").account_id
        order_id = min(request.order_id, INT64_MAX)
        # No shard is that large; nor is any order of it.
        shard = min(shard_of(order_id), SHARDS_MAX)
        async with for_a_call(self._pool) as connection:
            row = await reading.get_order(connection, shard, account_id, order_id)
            if row is None:
                raise Refused(Reason.ORDER_NOT_FOUND, field="order_id")
            fills = await reading.fills_of_order(connection, row, MAX_PAGE_SIZE)
        return history_pb2.GetOrderResponse(
            order=await h.order_to_proto(self._catalog, row),
            fills=[await h.fill_to_proto(self._catalog, fill) for fill in fills],
        )

    async def ListFills(
        self, request: history_pb2.ListFillsRequest, context: Context
    ) -> history_pb2.ListFillsResponse:
        fills, token = await self._page(
            request,
            reading.list_fills,
            h.fill_key,
            h.fill_to_proto,
            key_length=4,
            order_id=min(request.order_id, INT64_MAX) or None,
        )
        return history_pb2.ListFillsResponse(fills=fills, next_page_token=token)

    async def ListPositions(
        self, request: history_pb2.ListPositionsRequest, context: Context
    ) -> history_pb2.ListPositionsResponse:
        positions, token = await self._page(
            request, reading.list_positions, h.position_key, h.position_to_proto, key_length=4
        )
        return history_pb2.ListPositionsResponse(positions=positions, next_page_token=token)

    async def ListCfds(
        self, request: history_pb2.ListCfdsRequest, context: Context
    ) -> history_pb2.ListCfdsResponse:
        cfds, token = await self._page(
            request, reading.list_cfds, h.cfd_key, h.cfd_to_proto, key_length=3
        )
        return history_pb2.ListCfdsResponse(cfds=cfds, next_page_token=token)

    async def ListLiquidations(
        self, request: history_pb2.ListLiquidationsRequest, context: Context
    ) -> history_pb2.ListLiquidationsResponse:
        liquidations, token = await self._page(
            request,
            reading.list_liquidations,
            h.liquidation_key,
            h.liquidation_to_proto,
            key_length=3,
        )
        return history_pb2.ListLiquidationsResponse(
            liquidations=liquidations, next_page_token=token
        )

    async def ExportHistory(
        self, request: history_pb2.ExportHistoryRequest, context: Context
    ) -> AsyncIterator[history_pb2.ExportHistoryResponse]:
        account_id = require("read").account_id
        span = h.span_of(request)
        async for text in export(self._pool, self._catalog, request.kind, account_id, span):
            yield history_pb2.ExportHistoryResponse(csv=text)

    async def _page(
        self,
        request: PagedRequest,
        read: Callable[..., Awaitable[list[asyncpg.Record]]],
        key: Callable[[asyncpg.Record], tuple[int, ...]],
        to_proto: Callable[[Catalog, asyncpg.Record], Awaitable[M]],
        *,
        key_length: int,
        **filters: Any,
    ) -> tuple[Sequence[M], str]:
        """A page of the caller's rows, and the token of the next one."""
        account_id = require("read").account_id
        span = h.span_of(request)
        # A token is only good for the query that it came from.
        asked = ":".join(map(str, filters.values()))
        query = f"{type(request).__name__}:{account_id}:{request.market}:{asked}:{span}"
        before = read_token(request.page_token, query, key_length)
        size = page_size(request.page_size)
        market_id = None
        if request.market:
            market_id = (await self._catalog.market_named(request.market)).market_id
        async with for_a_call(self._pool) as connection:
            rows = await read(
                connection,
                account_id,
                market_id=market_id,
                span=span,
                before=before,
                limit=size + 1,
                **filters,
            )
        page = rows[:size]
        token = make_token(query, key(page[-1])) if len(rows) > size else ""
        messages = []
        for number, row in enumerate(page, 1):
            messages.append(await to_proto(self._catalog, row))
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
        return messages, token
