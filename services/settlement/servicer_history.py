"""HistoryService: decode, call, encode."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterable
from typing import Any

import asyncpg
import grpc
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from tidebook.settlement.v1 import history_pb2, history_pb2_grpc

from kernel.money import INT64_MAX
from kernel.reasons import Reason, Refused
from mesh.identity import require
from services.settlement.catalog import Catalog
from services.settlement.history import entry_to_proto, fill_to_proto, order_to_proto, span_of
from services.settlement.paging import MAX_PAGE_SIZE, make_token, page_size, read_token
from services.settlement.store import reading
from services.settlement.store.sessions import for_a_call

Context = grpc.aio.ServicerContext[Any, Any]

_ORDER_COLUMNS: tuple[str, ...] = (
    "order_id",
    "client_order_id",
    "create_time",
    "update_time",
    "market",
    "side",
    "type",
    "time_in_force",
    "status",
    "price",
    "quantity",
    "quote_amount",
    "filled_quantity",
    "filled_notional",
    "fees",
    "close_reason",
    "log_seq",
)
_FILL_COLUMNS: tuple[str, ...] = (
    "trade_id",
    "order_id",
    "time",
    "market",
    "side",
    "price",
    "quantity",
    "notional",
    "fee",
    "maker",
    "log_seq",
)
_ENTRY_COLUMNS: tuple[str, ...] = (
    "entry_id",
    "transaction_id",
    "time",
    "kind",
    "ledger_account",
    "asset",
    "amount",
    "balance_after",
    "order_id",
    "log_seq",
)


class HistoryServicer(history_pb2_grpc.HistoryServiceServicer):
    """What the caller's account did."""

    def __init__(self, pool: asyncpg.Pool, catalog: Catalog, shard: int) -> None:
        self._pool = pool
        self._catalog = catalog
        self._shard = shard

    async def ListOrders(
        self, request: history_pb2.ListOrdersRequest, context: Context
    ) -> history_pb2.ListOrdersResponse:
        account_id = require("read").account_id
        span = span_of(*_times(request))
        query = f"orders:{account_id}:{request.market}:{request.status}:{span}"
        before = read_token(request.page_token, query, 2)
        size = page_size(request.page_size)
        market_id = await self._market_id(request.market)
        async with for_a_call(self._pool) as connection:
            rows = await reading.list_orders(
                connection,
                account_id,
                market_id=market_id,
                status=request.status or None,
                span=span,
                before=before,
                limit=size + 1,
            )
        page = rows[:size]
        return history_pb2.ListOrdersResponse(
            orders=[await order_to_proto(self._catalog, row) for row in page],
            next_page_token=make_token(query, _order_key(page[-1])) if len(rows) > size else "",
        )

    async def GetOrder(
        self, request: history_pb2.GetOrderRequest, context: Context
    ) -> history_pb2.GetOrderResponse:
        account_id = require("read").account_id
        order_id = min(request.order_id, INT64_MAX)
        async with for_a_call(self._pool) as connection:
            row = await reading.get_order(connection, self._shard, account_id, order_id)
            fills = await reading.fills_of_order(connection, account_id, order_id)
        if row is None:
            raise Refused(Reason.ORDER_NOT_FOUND, field="order_id")
        return history_pb2.GetOrderResponse(
            order=await order_to_proto(self._catalog, row),
            fills=[await fill_to_proto(self._catalog, fill) for fill in fills],
        )

    async def ListFills(
        self, request: history_pb2.ListFillsRequest, context: Context
    ) -> history_pb2.ListFillsResponse:
        account_id = require("read").account_id
        span = span_of(*_times(request))
        query = f"fills:{account_id}:{request.market}:{request.order_id}:{span}"
        before = read_token(request.page_token, query, 4)
        size = page_size(request.page_size)
        market_id = await self._market_id(request.market)
        async with for_a_call(self._pool) as connection:
            rows = await reading.list_fills(
                connection,
                account_id,
                market_id=market_id,
                order_id=min(request.order_id, INT64_MAX) or None,
                span=span,
                before=before,
                limit=size + 1,
            )
        page = rows[:size]
        return history_pb2.ListFillsResponse(
            fills=[await fill_to_proto(self._catalog, row) for row in page],
            next_page_token=make_token(query, _fill_key(page[-1])) if len(rows) > size else "",
        )

    async def ListPositions(
        self, request: history_pb2.ListPositionsRequest, context: Context
    ) -> history_pb2.ListPositionsResponse:
        # The log has no margin positions yet, so nobody has closed one.
        require("read")
        return history_pb2.ListPositionsResponse()

    async def ListCfds(
        self, request: history_pb2.ListCfdsRequest, context: Context
    ) -> history_pb2.ListCfdsResponse:
        # The log has no CFDs yet, so nobody has closed one.
        require("read")
        return history_pb2.ListCfdsResponse()

    async def ExportHistory(
        self, request: history_pb2.ExportHistoryRequest, context: Context
    ) -> AsyncIterator[history_pb2.ExportHistoryResponse]:
        account_id = require("read").account_id
        span = span_of(*_times(request))
        if request.kind == history_pb2.HISTORY_KIND_ORDERS:
            columns, pages = _ORDER_COLUMNS, self._order_pages(account_id, span)
        elif request.kind == history_pb2.HISTORY_KIND_FILLS:
            columns, pages = _FILL_COLUMNS, self._fill_pages(account_id, span)
        else:
            columns, pages = _ENTRY_COLUMNS, self._entry_pages(account_id, span)
        yield history_pb2.ExportHistoryResponse(csv=_csv([columns]))
        async for messages in pages:
            rows = ([_cell(message, name) for name in columns] for message in messages)
            yield history_pb2.ExportHistoryResponse(csv=_csv(rows))

    async def _order_pages(
        self, account_id: int, span: reading.Span
    ) -> AsyncIterator[list[Message]]:
        before: tuple[int, ...] | None = None
        while True:
            async with for_a_call(self._pool) as connection:
                rows = await reading.list_orders(
                    connection,
                    account_id,
                    market_id=None,
                    status=None,
                    span=span,
                    before=before,
                    limit=MAX_PAGE_SIZE,
                )
            if not rows:
                return
            yield [await order_to_proto(self._catalog, row) for row in rows]
            before = _order_key(rows[-1])

    async def _fill_pages(
        self, account_id: int, span: reading.Span
    ) -> AsyncIterator[list[Message]]:
        before: tuple[int, ...] | None = None
        while True:
            async with for_a_call(self._pool) as connection:
                rows = await reading.list_fills(
                    connection,
                    account_id,
                    market_id=None,
                    order_id=None,
                    span=span,
                    before=before,
                    limit=MAX_PAGE_SIZE,
                )
            if not rows:
                return
            yield [await fill_to_proto(self._catalog, row) for row in rows]
            before = _fill_key(rows[-1])

    async def _entry_pages(
        self, account_id: int, span: reading.Span
    ) -> AsyncIterator[list[Message]]:
        before: tuple[int, ...] | None = None
        while True:
            async with for_a_call(self._pool) as connection:
                rows = await reading.list_entries(
                    connection,
                    account_id,
                    asset_id=None,
                    span=span,
                    before=before,
                    limit=MAX_PAGE_SIZE,
                )
            if not rows:
                return
            yield [await entry_to_proto(self._catalog, row) for row in rows]
            before = (rows[-1]["entry_id"],)

    async def _market_id(self, name: str) -> int | None:
        return (await self._catalog.market_named(name)).market_id if name else None


def _times(
    request: history_pb2.ListOrdersRequest
    | history_pb2.ListFillsRequest
    | history_pb2.ExportHistoryRequest,
) -> tuple[Any, Any]:
    return (
        request.start_time if request.HasField("start_time") else None,
        request.end_time if request.HasField("end_time") else None,
    )


def _order_key(row: asyncpg.Record) -> tuple[int, ...]:
    return (row["created_ns"], row["order_id"])


def _fill_key(row: asyncpg.Record) -> tuple[int, ...]:
    return (row["time_ns"], row["market_id"], row["trade_id"], int(row["maker"]))


def _csv(rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _cell(message: Message, name: str) -> object:
    """A field as people and spreadsheets read it: enums by name, times as RFC 3339."""
    value = getattr(message, name)
    field = message.DESCRIPTOR.fields_by_name[name]
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value.ToJsonString() if isinstance(value, Timestamp) else value
