"""History as messages: rows of the database -> orders, fills, entries and transfers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import asyncpg
from google.protobuf.timestamp_pb2 import Timestamp
from tidebook.common.v1 import reason_pb2
from tidebook.engine.v1 import order_pb2, position_pb2, types_pb2
from tidebook.settlement.v1 import ledger_pb2

from kernel.clock import NS_PER_SECOND
from kernel.markets import Market
from kernel.money import INT64_MAX
from kernel.reasons import Reason
from services.settlement.catalog import Catalog
from services.settlement.domain.ledger import LedgerKind, TransactionKind
from services.settlement.store.pages import Span

_LEDGER_NAMES = {LedgerKind.CLIENT_FREE: "free", LedgerKind.CLIENT_HELD: "held"}


def timestamp(time_ns: int) -> Timestamp:
    """Unix nanoseconds -> Timestamp."""
    seconds, nanos = divmod(time_ns, NS_PER_SECOND)
    return Timestamp(seconds=seconds, nanos=nanos)


def span_of(request: Any) -> Span:
    """The span of a request's `start_time` and `end_time`, open where one is missing."""
    return Span(
        _clamped(request.start_time) if request.HasField("start_time") else 0,
        _clamped(request.end_time) if request.HasField("end_time") else INT64_MAX,
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
        trailing_bps=row["trailing_bps"],
        oco_order_id=row["oco_order_id"],
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
        shard=row["shard"],
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
        cancelling=row["cancelling"],
        address=row["address"],
        shard=row["shard"],
        to_shard=row["to_shard"],
    )


async def position_to_proto(catalog: Catalog, row: asyncpg.Record) -> position_pb2.Position:
    """A row of `closed_positions`."""
    market = await catalog.market(row["market_id"])
    quote = market.quote
    return position_pb2.Position(
        market=market.name,
        quantity="0",
        entry_notional=quote.format(row["opened_notional_units"]),
        margin="0",
        realised_pnl=quote.format(row["realised_pnl_units"]),
        opened_quantity=market.format_quantity(row["opened_lots"]),
        exit_notional=quote.format(row["closed_notional_units"]),
        fees=quote.format(row["fees_units"]),
        open_time=timestamp(row["opened_ns"]),
        close_time=timestamp(row["closed_ns"]),
        liquidated=row["liquidated"],
        log_seq=row["log_seq"],
    )


async def cfd_to_proto(catalog: Catalog, row: asyncpg.Record) -> position_pb2.Cfd:
    """A row of `reading.list_cfds`."""
    market = await catalog.market(row["market_id"])
    quote = market.quote
    return position_pb2.Cfd(
        cfd_id=row["cfd_id"],
        client_cfd_id=row["client_cfd_id"],
        market=market.name,
        side=types_pb2.Side.ValueType(row["side"]),
        margin=quote.format(row["margin_units"]),
        leverage=row["leverage"],
        notional=quote.format(row["notional_units"]),
        entry_price=market.format_price(row["entry_ticks"]),
        exit_price=market.format_price(row["close_ticks"]),
        liquidation_price=market.format_price(row["liquidation_ticks"]),
        stop_loss=_or_empty(market.format_price, row["stop_loss_ticks"]),
        take_profit=_or_empty(market.format_price, row["take_profit_ticks"]),
        open_time=timestamp(row["opened_ns"]),
        close_time=timestamp(row["closed_ns"]),
        close_reason=types_pb2.CfdCloseReason.ValueType(row["close_reason"]),
        realised_pnl=quote.format(row["pnl_units"]),
        fees=quote.format(row["fees_units"]),
        returned=quote.format(row["returned_units" if row["left_units"] is None else "left_units"]),
    )


async def liquidation_to_proto(catalog: Catalog, row: asyncpg.Record) -> position_pb2.Liquidation:
    """A row of `liquidations`."""
    market = await catalog.market(row["market_id"])
    quote = market.quote
    return position_pb2.Liquidation(
        liquidation_id=row["liquidation_id"],
        market=market.name,
        cfd_id=row["cfd_id"],
        formula_version=row["formula_version"],
        quantity=market.format_quantity(row["quantity_lots"]),
        entry_notional=quote.format(row["entry_notional_units"]),
        margin=quote.format(row["margin_units"]),
        mark_price=market.format_price(row["mark_ticks"]),
        bankruptcy_price=market.format_price(row["bankruptcy_ticks"]),
        filled_quantity=market.format_quantity(row["filled_lots"]),
        fund_quantity=market.format_quantity(row["fund_lots"]),
        fund_change=quote.format(row["fund_delta_units"]),
        maintenance_bps=row["maintenance_bps"],
        fee_bps=row["fee_bps"],
        order_id=row["order_id"],
        filled_notional=quote.format(row["filled_notional_units"]),
        fees=quote.format(row["fee_units"]),
        returned=quote.format(row["returned_units"]),
        deleveraged_quantity=market.format_quantity(sum(row["deleveraged_lots"])),
        entry_price=_or_empty(market.format_price, row["entry_ticks"]),
        side=types_pb2.Side.ValueType(row["side"]),
        time=timestamp(row["time_ns"]),
        log_seq=row["log_seq"],
    )


# The keys that pages go by: what a row is found again by, in the order of its list.


def order_key(row: asyncpg.Record) -> tuple[int, ...]:
    """Key of an order in its list."""
    return (row["created_ns"], row["order_id"], row["shard"])


def fill_key(row: asyncpg.Record) -> tuple[int, ...]:
    """Key of a fill in its list."""
    return (row["time_ns"], row["market_id"], row["trade_id"], int(row["maker"]))


def entry_key(row: asyncpg.Record) -> tuple[int, ...]:
    """Key of a ledger entry in its list."""
    return (row["time_ns"], row["entry_id"], row["shard"])


def position_key(row: asyncpg.Record) -> tuple[int, ...]:
    """Key of a closed position in its list."""
    return (row["closed_ns"], row["log_seq"], row["event_index"], row["shard"])


def cfd_key(row: asyncpg.Record) -> tuple[int, ...]:
    """Key of a closed CFD in its list."""
    return (row["closed_ns"], row["cfd_id"], row["shard"])


def liquidation_key(row: asyncpg.Record) -> tuple[int, ...]:
    """Key of a liquidation in its list."""
    return (row["time_ns"], row["liquidation_id"], row["shard"])


def transfer_key(row: asyncpg.Record) -> tuple[int, ...]:
    """Key of a transfer in its list."""
    return (row["transfer_id"],)


def _or_empty(format_: Callable[[int], str], value: int) -> str:
    """Formatted, or empty for the zero that stands for "not given"."""
    return format_(value) if value else ""
