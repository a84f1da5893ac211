"""What `first_trade.py` checks with: exact comparisons, and mirrors of the streams.

A mirror takes the messages of a stream as they come and fails at once when one is missing, out of
order, or leads to a state that cannot be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from decimal import Decimal
from typing import NamedTuple, TypeVar

from tidebook.engine.v1 import market_pb2, order_pb2, types_pb2
from tidebook.gateway.v1 import gateway_pb2
from tidebook.marketdata.v1 import marketdata_pb2
from tidebook.settlement.v1 import ledger_pb2

from examples.book import BookClient, OutOfStep

T = TypeVar("T")

_BAR_WIDTH = 40
_SHOWN_MAX = 100
# Fees are counted in the smallest unit of the quote asset.
QUOTE_UNIT = Decimal("0.00000001")


class CheckFailed(AssertionError):
    """Something is not what it should be; the message says expected and actual."""


class Report:
    """Prints what is done and compares it; a difference ends the run."""

    def __init__(self) -> None:
        self.checks = 0

    def step(self, text: str) -> None:
        print(f"\n{text}", flush=True)

    def say(self, text: str) -> None:
        print(f"    {text}", flush=True)

    def equal(self, what: str, actual: object, expected: object) -> None:
        """Fails unless the two are equal."""
        self.checks += 1
        if actual != expected:
            raise CheckFailed(f"{what}\n    expected {expected!r}\n    actual   {actual!r}")
        self.say(f"ok  {what}{_shown(actual)}")

    def true(self, what: str, holds: bool, detail: object = "") -> None:
        """Fails unless it holds."""
        self.checks += 1
        if not holds:
            raise CheckFailed(f"{what} does not hold: {detail}")
        self.say(f"ok  {what}")


def _shown(value: object) -> str:
    """What was compared, if it fits into the line."""
    text = str(value)
    return f": {text}" if len(text) <= _SHOWN_MAX else ""


async def eventually(
    what: str, look: Callable[[], Awaitable[T | None]], *, seconds: float = 15.0
) -> T:
    """Look again until there is something; raises `CheckFailed` after `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                found = await look()
                if found is not None:
                    return found
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise CheckFailed(f"{what}: not within {seconds:.0f} s") from None


def fee_of(notional: Decimal, fee_bps: int) -> Decimal:
    """`ceil(notional x fee_bps / 10_000)` in the quote asset's smallest unit."""
    units = int(notional / QUOTE_UNIT)
    return Decimal(-(-units * fee_bps // 10_000)) * QUOTE_UNIT


class Pair(NamedTuple):
    """What an account has of an asset."""

    free: Decimal
    held: Decimal

    def __repr__(self) -> str:
        return f"{self.free} free + {self.held} held"


def funds_in(balances: Iterable[order_pb2.Balance | ledger_pb2.LedgerBalance]) -> dict[str, Pair]:
    """Asset -> (free, held), assets with nothing left out."""
    found = {b.asset: Pair(Decimal(b.free), Decimal(b.held)) for b in balances}
    return {asset: pair for asset, pair in found.items() if any(pair)}


def expected_funds(
    market: market_pb2.Market,
    deposits: Mapping[str, Decimal],
    fills: Iterable[order_pb2.Fill],
    open_orders: Iterable[order_pb2.Order],
) -> dict[str, Pair]:
    """What an account must have, worked out from nothing but what it brought in and traded."""
    base, quote = market.base_asset, market.quote_asset
    total = {base: Decimal(0), quote: Decimal(0)} | dict(deposits)
    held = dict.fromkeys(total, Decimal(0))
    for fill in fills:
        sign = 1 if fill.side == types_pb2.SIDE_BUY else -1
        total[base] += sign * Decimal(fill.quantity)
        total[quote] -= sign * Decimal(fill.notional) + Decimal(fill.fee)
    for order in open_orders:
        rest = Decimal(order.quantity) - Decimal(order.filled_quantity or 0)
        if order.side == types_pb2.SIDE_SELL:
            held[base] += rest
        else:
            # Each fill's fee is rounded up by itself: only the fee of single lots surely covers it.
            lot = Decimal(market.lot_size)
            a_lot = lot * Decimal(order.price)
            held[quote] += (
                rest
                / lot
                * (a_lot + fee_of(a_lot, max(market.maker_fee_bps, market.taker_fee_bps)))
            )
    pairs = {asset: Pair(total[asset] - held[asset], held[asset]) for asset in total}
    return {asset: pair for asset, pair in pairs.items() if any(pair)}


def check_fill(market: market_pb2.Market, fill: order_pb2.Fill) -> None:
    """Notional and fee of a fill, by the rules."""
    notional = Decimal(fill.price) * Decimal(fill.quantity)
    fee = fee_of(notional, market.maker_fee_bps if fill.maker else market.taker_fee_bps)
    if (Decimal(fill.notional), Decimal(fill.fee)) != (notional, fee):
        raise CheckFailed(
            f"fill {fill.trade_id}: {fill.quantity} at {fill.price} is {notional} with a fee of"
            f" {fee}, not {fill.notional} with {fill.fee}"
        )


class AccountMirror:
    """The private stream of one account."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seq = 0
        self.messages = 0
        self.balances: dict[str, order_pb2.Balance] = {}
        self.fills: dict[tuple[str, int], order_pb2.Fill] = {}
        self.open_orders: dict[int, order_pb2.Order] = {}

    def take(self, message: order_pb2.WatchAccountResponse) -> None:
        """The next message."""
        if message.snapshot:
            self.balances.clear()
            self.open_orders.clear()
        elif not self.messages:
            raise CheckFailed(f"{self.name}: the stream does not begin with a snapshot")
        elif message.prev_seq != self.seq or message.seq <= self.seq:
            raise CheckFailed(
                f"{self.name}: message {message.prev_seq} -> {message.seq} after {self.seq}"
            )
        self.seq = message.seq
        self.messages += 1
        self.balances.update({balance.asset: balance for balance in message.balances})
        for fill in message.fills:
            key = (fill.market, fill.trade_id)
            if key in self.fills:
                raise CheckFailed(f"{self.name}: fill {key} came twice")
            self.fills[key] = fill
        for order in message.orders:
            if order_is_open(order):
                self.open_orders[order.order_id] = order
            else:
                self.open_orders.pop(order.order_id, None)


class BookMirror:
    """The aggregated book of one market."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.messages = 0
        self.checksums = 0
        self._book = BookClient()

    def take(self, update: marketdata_pb2.BookUpdate) -> None:
        """The next update."""
        try:
            if not self._book.take(update):
                why = f"update {update.prev_seq} -> {update.seq} after {self._book.seq}"
                raise CheckFailed(f"{self.name}: {why}")
        except OutOfStep as error:
            raise CheckFailed(f"{self.name}: {error}") from None
        self.messages += 1
        self.checksums += update.HasField("checksum")

    def levels(self, depth: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """The best `depth` bids and asks, as (price, quantity)."""
        return self._book.levels(depth)


class PriceMirror:
    """The external feed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.messages = 0
        self.newest: dict[str, marketdata_pb2.Price] = {}

    def take(self, price: marketdata_pb2.Price) -> None:
        """The next price of any market."""
        before = self.newest.get(price.market)
        if price.prev_seq != (before.seq if before else 0):
            raise CheckFailed(
                f"{self.name}: {price.market} {price.prev_seq} -> {price.seq}"
                f" after {before.seq if before else 0}"
            )
        self.newest[price.market] = price
        self.messages += 1


class TradeMirror:
    """The public tape of one market: ids without a gap."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.trades: dict[int, marketdata_pb2.Trade] = {}

    def take(self, trade: marketdata_pb2.Trade) -> None:
        """The next trade."""
        if self.trades and trade.trade_id != max(self.trades) + 1:
            raise CheckFailed(f"{self.name}: trade {trade.trade_id} after {max(self.trades)}")
        self.trades[trade.trade_id] = trade


def order_is_open(order: order_pb2.Order) -> bool:
    """Whether an order rests in the book."""
    return order.status in (types_pb2.ORDER_STATUS_OPEN, types_pb2.ORDER_STATUS_PARTIALLY_FILLED)


def waterfall(trace: gateway_pb2.GetOrderTraceResponse) -> list[str]:
    """The spans of a trace as lines with bars, by start time."""
    begin = min(span.start_ns for span in trace.spans)
    whole = max(span.start_ns + span.duration_ns for span in trace.spans) - begin or 1
    lines = []
    for span in trace.spans:
        left = (span.start_ns - begin) * _BAR_WIDTH // whole
        width = max(1, span.duration_ns * _BAR_WIDTH // whole)
        bar = (" " * left + "█" * width)[:_BAR_WIDTH].ljust(_BAR_WIDTH)
        lines.append(
            f"{span.service:<11} {span.name.rpartition('.v1.')[2]:<28} |{bar}| "
            f"+{(span.start_ns - begin) / 1e6:8.3f} ms {span.duration_ns / 1e6:8.3f} ms"
        )
    return lines
