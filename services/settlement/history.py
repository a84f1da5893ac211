"""History as messages: rows of the database -> orders, fills, entries and transfers."""

from __future__ import annotations

from collections.abc import Callable

import asyncpg
from google.protobuf.timestamp_pb2 import Timestamp
from tidebook.common.v1 import reason_pb2
from tidebook.engine.v1 import order_pb2, types_pb2
from tidebook.settlement.v1 import ledger_pb2

from kernel.markets import Market
from kernel.money import INT64_MAX
from kernel.reasons import Reason
from services.settlement.catalog import Catalog
from services.settlement.domain.ledger import LedgerKind, TransactionKind
from services.settlement.store.reading import Span

_LEDGER_NAMES = {LedgerKind.CLIENT_FREE: "free", LedgerKind.CLIENT_HELD: "held"}


def timestamp(time_ns: int) -> Timestamp:
    """Unix nanoseconds -> Timestamp."""
    result = Timestamp()
    result.FromNanoseconds(time_ns)
    return result


def span_of(start: Timestamp | None, end: Timestamp | None) -> Span:
    """The span of a request's `start_time` and `end_time`, open where one is missing."""
    return Span(
        _clamped(start) if start is not None else 0,
        _clamped(end) if end is not None else INT64_MAX,
    )


def _clamped(time: Timestamp) -> int:
    # A Timestamp reaches from year 1 to 9999, 64 bits of nanoseconds from 1677 to 2262.
    return max(0, min(time.ToNanoseconds(), INT64_MAX))


async def order_to_proto(catalog: Catalog, row: asyncpg.Record) -> order_pb2.Order:
    """A row of `orders`."""
    market = await catalog.market(row["market_id"])
    order_type = row["type"]
    is_market = order_type == types_pb2.ORDER_TYPE_MARKET
    time_in_force = row["time_in_force"] or (
        types_pb2.TIME_IN_FORCE_IOC if is_market else types_pb2.TIME_IN_FORCE_GTC
    )
    order = order_pb2.Order(
        order_id=row["order_id"],
        client_order_id=row["client_order_id"],
        market=market.name,
        side=types_pb2.Side.ValueType(row["side"]),
        type=types_pb2.OrderType.ValueType(order_type),
        time_in_force=types_pb2.TimeInForce.ValueType(time_in_force),
        status=types_pb2.OrderStatus.ValueType(row["status"]),
        price="" if is_market else market.format_price(row["price_ticks"]),
        quantity=_or_empty(market.format_quantity, row["quantity_lots"]),
        quote_amount=_or_empty(market.quote.format, row["quote_amount_units"]),
        filled_quantity=market.format_quantity(row["filled_lots"]),
        filled_notional=market.quote.format(row["filled_notional_units"]),
        fees=market.quote.format(row["fees_units"]),
        post_only=row["post_only"],
        reduce_only=row["reduce_only"],
        display_quantity=_or_empty(market.format_quantity, row["display_quantity_lots"]),
        trigger_price=_or_empty(market.format_price, row["trigger_price_ticks"]),
        trigger_source=types_pb2.TriggerSource.ValueType(row["trigger_source"]),
        close_reason=reason_pb2.Reason.ValueType(row["close_reason"]),
        create_time=timestamp(row["created_ns"]),
        update_time=timestamp(row["updated_ns"]),
        log_seq=row["log_seq"],
        self_trade_prevention=types_pb2.SelfTradePrevention.ValueType(row["self_trade_prevention"]),
    )
    if row["expire_ns"]:
        order.expire_time.CopyFrom(timestamp(row["expire_ns"]))
    return order


async def fill_to_proto(catalog: Catalog, row: asyncpg.Record) -> order_pb2.Fill:
    """A row of `fills`."""
    market: Market = await catalog.market(row["market_id"])
    return order_pb2.Fill(
        trade_id=row["trade_id"],
        order_id=row["order_id"],
        market=market.name,
        side=types_pb2.Side.ValueType(row["side"]),
        price=market.format_price(row["price_ticks"]),
        quantity=market.format_quantity(row["quantity_lots"]),
        notional=market.quote.format(row["notional_units"]),
        fee=market.quote.format(row["fee_units"]),
        maker=row["maker"],
        time=timestamp(row["time_ns"]),
        log_seq=row["log_seq"],
    )


async def entry_to_proto(catalog: Catalog, row: asyncpg.Record) -> ledger_pb2.LedgerEntry:
    """A row of `ledger_entries` with kind, position and time of its transaction."""
    asset = await catalog.asset(row["asset_id"])
    return ledger_pb2.LedgerEntry(
        entry_id=row["entry_id"],
        transaction_id=row["transaction_id"],
        kind=TransactionKind(row["kind"]).name,
        ledger_account=_LEDGER_NAMES[LedgerKind(row["ledger_kind"])],
        asset=asset.code,
        amount=asset.format(row["amount"]),
        balance_after=asset.format(row["balance_after"]),
        order_id=row["order_id"],
        log_seq=row["log_seq"],
        time=timestamp(row["time_ns"]),
    )


async def transfer_to_proto(catalog: Catalog, row: asyncpg.Record) -> ledger_pb2.Transfer:
    """A row of `transfers`."""
    asset = await catalog.asset(row["asset_id"])
    return ledger_pb2.Transfer(
        transfer_id=row["transfer_id"],
        request_id=row["request_id"],
        direction=ledger_pb2.TransferDirection.ValueType(row["direction"]),
        asset=asset.code,
        amount=asset.format(row["amount_units"]),
        status=ledger_pb2.TransferStatus.ValueType(row["status"]),
        failure=Reason(row["failure"]).name if row["failure"] else "",
        create_time=timestamp(row["created_ns"]),
        update_time=timestamp(row["updated_ns"]),
        log_seq=row["log_seq"],
        simulated=row["simulated"],
    )


def _or_empty(format_: Callable[[int], str], value: int) -> str:
    """Formatted, or empty for the zero that stands for "not given"."""
    return format_(value) if value else ""
