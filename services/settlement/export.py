"""A whole history as CSV, page by page, whatever its length: only one page is in memory.

The next page is read when the reader has taken this one, and none after it has gone. What the
columns mean is said in docs/ledger.md.
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import asyncpg
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from tidebook.settlement.v1 import history_pb2

from services.settlement import history as h
from services.settlement.catalog import Catalog
from services.settlement.store import reading
from services.settlement.store.database import Connection
from services.settlement.store.pages import Span
from services.settlement.store.sessions import for_a_call
from services.settlement.store.transfers import export_transfers

Row = asyncpg.Record
# Rows of a page. Other calls wait while one is put into words.
_ROWS = 250
# Chosen by clients. A spreadsheet takes what begins like this for a formula; the apostrophe says
# that it is text.
_FREE_TEXTS = frozenset({"client_order_id", "client_cfd_id", "request_id"})
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
# (connection, account, span, key of the last row, limit) -> the next rows
Pages = Callable[[Connection, int, Span, tuple[int, ...] | None, int], Awaitable[list[Row]]]

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
_POSITION_COLUMNS: tuple[str, ...] = (
    "market",
    "open_time",
    "close_time",
    "opened_quantity",
    "entry_notional",
    "exit_notional",
    "realised_pnl",
    "fees",
    "liquidated",
    "log_seq",
)
_CFD_COLUMNS: tuple[str, ...] = (
    "cfd_id",
    "client_cfd_id",
    "market",
    "open_time",
    "close_time",
    "side",
    "margin",
    "leverage",
    "notional",
    "entry_price",
    "exit_price",
    "realised_pnl",
    "returned",
    "fees",
    "close_reason",
)
_LIQUIDATION_COLUMNS: tuple[str, ...] = (
    "liquidation_id",
    "time",
    "market",
    "cfd_id",
    "side",
    "quantity",
    "entry_price",
    "entry_notional",
    "margin",
    "mark_price",
    "bankruptcy_price",
    "filled_quantity",
    "fund_quantity",
    "deleveraged_quantity",
    "fund_change",
    "fees",
    "returned",
    "order_id",
    "log_seq",
)
_TRANSFER_COLUMNS: tuple[str, ...] = (
    "transfer_id",
    "request_id",
    "create_time",
    "update_time",
    "direction",
    "asset",
    "amount",
    "status",
    "failure",
    "log_seq",
)


@dataclass(frozen=True, slots=True)
class _Kind:
    columns: tuple[str, ...]
    pages: Pages
    key: Callable[[Row], tuple[int, ...]]
    to_proto: Callable[[Catalog, Row], Awaitable[Message]]


def _pages(read: Callable[..., Awaitable[list[Row]]], **filters: Any) -> Pages:
    async def pages(
        connection: Connection,
        account_id: int,
        span: Span,
        before: tuple[int, ...] | None,
        limit: int,
    ) -> list[Row]:
        return await read(connection, account_id, span=span, before=before, limit=limit, **filters)

    return pages


_KINDS = {
    history_pb2.HISTORY_KIND_ORDERS: _Kind(
        _ORDER_COLUMNS,
        _pages(reading.list_orders, market_id=None, status=None),
        h.order_key,
        h.order_to_proto,
    ),
    history_pb2.HISTORY_KIND_FILLS: _Kind(
        _FILL_COLUMNS,
        _pages(reading.list_fills, market_id=None, order_id=None),
        h.fill_key,
        h.fill_to_proto,
    ),
    history_pb2.HISTORY_KIND_LEDGER: _Kind(
        _ENTRY_COLUMNS, _pages(reading.list_entries, asset_id=None), h.entry_key, h.entry_to_proto
    ),
    history_pb2.HISTORY_KIND_POSITIONS: _Kind(
        _POSITION_COLUMNS,
        _pages(reading.list_positions, market_id=None),
        h.position_key,
        h.position_to_proto,
    ),
    history_pb2.HISTORY_KIND_CFDS: _Kind(
        _CFD_COLUMNS, _pages(reading.list_cfds, market_id=None), h.cfd_key, h.cfd_to_proto
    ),
    history_pb2.HISTORY_KIND_LIQUIDATIONS: _Kind(
        _LIQUIDATION_COLUMNS,
        _pages(reading.list_liquidations, market_id=None),
        h.liquidation_key,
        h.liquidation_to_proto,
    ),
    history_pb2.HISTORY_KIND_TRANSFERS: _Kind(
        _TRANSFER_COLUMNS, _pages(export_transfers), h.transfer_key, h.transfer_to_proto
    ),
}


async def export(
    pool: asyncpg.Pool,
    catalog: Catalog,
    kind: history_pb2.HistoryKind.ValueType,
    account_id: int,
    span: Span,
) -> AsyncIterator[str]:
    """Pieces of CSV, newest rows first; the first piece is the header."""
    of = _KINDS[kind]
    yield _csv([of.columns])
    before: tuple[int, ...] | None = None
    while True:
        # A connection for each page: a slow reader must not keep one from the others.
        async with for_a_call(pool) as connection:
            rows = await of.pages(connection, account_id, span, before, _ROWS)
        if not rows:
            return
        messages = [await of.to_proto(catalog, row) for row in rows]
        yield _csv([_cell(message, name) for name in of.columns] for message in messages)
        if len(rows) < _ROWS:
            return
        before = of.key(rows[-1])


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
    if isinstance(value, Timestamp):
        return value.ToJsonString()
    if name in _FREE_TEXTS and value.startswith(_FORMULA):
        return "'" + value
    return value
