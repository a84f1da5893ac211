"""A batch of log entries -> everything that has to be written for it. Pure.

A batch does not know what was there before: orders of earlier batches appear as changes, balances
as postings. Whoever writes it adds them to what is stored. Its rows are named tuples, because a
busy second makes tens of thousands of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from services.settlement.domain import ledger
from services.settlement.domain.facts import (
    FIRST_TRIGGERED_TYPE,
    OrderAmendedFact,
    OrderClosedFact,
    OrderPlacedFact,
    OrderRequestFact,
    OrderStatus,
    Side,
    TradeFact,
    TransferFact,
    TransferKind,
)
from services.settlement.domain.ledger import Move, Posting, TransactionKind

_TRANSFERS = {
    TransferKind.DEPOSIT: (ledger.deposits, TransactionKind.DEPOSIT),
    TransferKind.WITHDRAWAL: (ledger.withdrawals, TransactionKind.WITHDRAWAL),
    TransferKind.WITHDRAWAL_CANCELLED: (ledger.withdrawals, TransactionKind.WITHDRAWAL_CANCELLED),
    # For one shard's books the other shard is the outside world.
    TransferKind.SHARD: (ledger.deposits, TransactionKind.SHARD_TRANSFER),
}


class AssetRow(NamedTuple):
    """An asset as configured in the log."""

    asset_id: int
    code: str
    decimals: int
    transfer_decimals: int


class MarketRow(NamedTuple):
    """A market as configured in the log: what settlement has to know of it."""

    market_id: int
    name: str
    kind: int
    base_asset_id: int
    quote_asset_id: int
    tick_size_units: int
    lot_size_units: int


class Transaction(NamedTuple):
    """A ledger transaction: the event that caused it and its postings."""

    log_seq: int
    event_index: int
    kind: TransactionKind
    order_id: int
    time_ns: int
    postings: list[Posting]


class NewOrder(NamedTuple):
    """An accepted order as it came; what became of it is in its `OrderChange`."""

    order_id: int
    account_id: int
    market_id: int
    client_order_id: str
    side: int
    type: int
    time_in_force: int
    status: OrderStatus
    price_ticks: int
    quantity_lots: int
    quote_amount_units: int
    post_only: bool
    reduce_only: bool
    display_quantity_lots: int
    trigger_price_ticks: int
    trigger_source: int
    self_trade_prevention: int
    expire_ns: int
    created_ns: int
    log_seq: int


@dataclass(slots=True)
class OrderChange:
    """What a batch did to an order: sums to add, and new values where they are not None."""

    updated_ns: int = 0
    filled_lots: int = 0
    filled_notional_units: int = 0
    fees_units: int = 0
    status: OrderStatus | None = None
    close_reason: int | None = None
    price_ticks: int | None = None
    quantity_lots: int | None = None


class Fill(NamedTuple):
    """One side of a trade."""

    market_id: int
    trade_id: int
    maker: bool
    account_id: int
    order_id: int
    side: Side
    price_ticks: int
    quantity_lots: int
    notional_units: int
    fee_units: int
    time_ns: int
    log_seq: int


class TransferOutcome(NamedTuple):
    """What the engine did with a transfer; `refusal` is 0 when it was applied."""

    engine_transfer_id: int
    refusal: int
    log_seq: int
    time_ns: int


class TracedCommand(NamedTuple):
    """A command that belongs to a trace, for the span of its settlement."""

    trace_id: bytes
    span_id: bytes
    log_seq: int
    order_id: int


@dataclass(slots=True)
class Batch:
    """What consecutive log entries mean for ledger, history and transfers.

    `market_assets` (market id -> base and quote asset) is what was configured before; the batch
    adds what it configures itself. Call `begin_entry` for each log entry, then one method per event
    in order; `event_index` counts all events of an entry. Methods raise `ValueError` for what
    cannot be.
    """

    market_assets: dict[int, tuple[int, int]]
    log_seq: int = 0
    time_ns: int = 0
    event_index: int = 0
    assets: dict[int, AssetRow] = field(default_factory=dict)
    markets: dict[int, MarketRow] = field(default_factory=dict)
    transactions: list[Transaction] = field(default_factory=list)
    new_orders: dict[int, NewOrder] = field(default_factory=dict)
    order_changes: dict[int, OrderChange] = field(default_factory=dict)
    fills: list[Fill] = field(default_factory=list)
    transfers: list[TransferOutcome] = field(default_factory=list)
    traced: list[TracedCommand] = field(default_factory=list)

    def begin_entry(self, log_seq: int, time_ns: int) -> None:
        """The events that follow belong to this log entry."""
        self.log_seq = log_seq
        self.time_ns = time_ns
        self.event_index = 0

    def configured(self, assets: Iterable[AssetRow], markets: Iterable[MarketRow]) -> None:
        """Assets and markets are in force."""
        self.assets.update((asset.asset_id, asset) for asset in assets)
        for market in markets:
            self.markets[market.market_id] = market
            self.market_assets[market.market_id] = (market.base_asset_id, market.quote_asset_id)

    def transfer_applied(self, event: TransferFact) -> None:
        """Money came from outside, or went there."""
        outside, kind = _TRANSFERS[TransferKind(event.kind)]
        client = ledger.free(event.account_id, event.asset_id)
        move = Move(outside(event.asset_id), client, event.amount_units)
        self._post(kind, 0, (move,))
        self.transfers.append(TransferOutcome(event.transfer_id, 0, self.log_seq, self.time_ns))

    def transfer_refused(self, transfer_id: int, reason: int) -> None:
        """The engine would not apply a transfer; nothing moved."""
        self.transfers.append(TransferOutcome(transfer_id, reason, self.log_seq, self.time_ns))

    def order_placed(self, event: OrderPlacedFact, request: OrderRequestFact) -> None:
        """An order was accepted and its hold taken."""
        order_id = event.order_id
        if order_id in self.new_orders:
            raise ValueError(f"order {order_id} was placed twice")
        waits = request.type >= FIRST_TRIGGERED_TYPE
        self.new_orders[order_id] = NewOrder(
            order_id=order_id,
            account_id=event.account_id,
            market_id=event.market_id,
            client_order_id=request.client_order_id,
            side=event.side,
            type=request.type,
            time_in_force=request.time_in_force,
            status=OrderStatus.UNTRIGGERED if waits else OrderStatus.OPEN,
            price_ticks=event.price_ticks,
            quantity_lots=event.quantity_lots,
            quote_amount_units=request.quote_amount_units,
            post_only=request.post_only,
            reduce_only=request.reduce_only,
            display_quantity_lots=request.display_quantity_lots,
            trigger_price_ticks=request.trigger_price_ticks,
            trigger_source=request.trigger_source,
            self_trade_prevention=request.self_trade_prevention,
            expire_ns=request.expire_ns,
            created_ns=self.time_ns,
            log_seq=self.log_seq,
        )
        self._change(order_id)
        self._hold(
            TransactionKind.HOLD, event.account_id, event.hold_asset_id, event.hold_units, order_id
        )

    def order_triggered(self, order_id: int) -> None:
        """A stop fired and is an ordinary order now."""
        self._change(order_id).status = OrderStatus.OPEN

    def order_amended(self, event: OrderAmendedFact) -> None:
        """A live order has a new price or quantity, and its hold changed with it."""
        change = self._change(event.order_id)
        change.price_ticks = event.price_ticks
        change.quantity_lots = event.quantity_lots
        self._hold(
            TransactionKind.AMEND,
            event.account_id,
            event.hold_asset_id,
            event.hold_delta,
            event.order_id,
        )

    def order_closed(self, event: OrderClosedFact) -> None:
        """An order ended and what was left of its hold is free again."""
        change = self._change(event.order_id)
        change.status = OrderStatus(event.status)
        change.close_reason = event.reason
        self._hold(
            TransactionKind.RELEASE,
            event.account_id,
            event.hold_asset_id,
            -event.hold_released,
            event.order_id,
        )

    def trade(self, event: TradeFact) -> None:
        """Two orders traded: coins and money change hands, the exchange takes its fees."""
        assets = self.market_assets.get(event.market_id)
        if assets is None:
            raise ValueError(f"trade in unknown market {event.market_id}")
        base, quote = assets
        maker = (event.maker_account_id, event.maker_order_id, event.maker_fee_units)
        taker = (event.taker_account_id, event.taker_order_id, event.taker_fee_units)
        taker_buys = event.taker_side == Side.BUY
        buyer, buy_order, buy_fee = taker if taker_buys else maker
        seller, sell_order, sell_fee = maker if taker_buys else taker
        hold = ledger.held(buyer, quote)
        proceeds = event.notional_units - sell_fee
        # Together these take exactly `quote_hold_taken` out of the buyer's hold.
        back = event.quote_hold_taken - event.notional_units - buy_fee
        self._post(
            TransactionKind.TRADE,
            event.taker_order_id,
            (
                Move(hold, ledger.free(seller, quote), proceeds, buy_order, sell_order),
                Move(hold, ledger.fees(quote), buy_fee + sell_fee, buy_order),
                Move(hold, ledger.free(buyer, quote), back, buy_order, buy_order),
                Move(
                    ledger.held(seller, base),
                    ledger.free(buyer, base),
                    event.base_units,
                    sell_order,
                    buy_order,
                ),
            ),
        )
        self._fill(event, True, *maker, side=Side.SELL if taker_buys else Side.BUY)
        self._fill(event, False, *taker, side=Side.BUY if taker_buys else Side.SELL)

    def balance_deltas(self) -> Mapping[ledger.LedgerAccount, int]:
        """Sum of the batch's postings per ledger account."""
        deltas: dict[ledger.LedgerAccount, int] = {}
        for transaction in self.transactions:
            for posting in transaction.postings:
                deltas[posting.account] = deltas.get(posting.account, 0) + posting.amount
        return deltas

    def _fill(
        self,
        event: TradeFact,
        maker: bool,
        account_id: int,
        order_id: int,
        fee_units: int,
        *,
        side: Side,
    ) -> None:
        change = self._change(order_id)
        change.filled_lots += event.quantity_lots
        change.filled_notional_units += event.notional_units
        change.fees_units += fee_units
        self.fills.append(
            Fill(
                market_id=event.market_id,
                trade_id=event.trade_id,
                maker=maker,
                account_id=account_id,
                order_id=order_id,
                side=side,
                price_ticks=event.price_ticks,
                quantity_lots=event.quantity_lots,
                notional_units=event.notional_units,
                fee_units=fee_units,
                time_ns=self.time_ns,
                log_seq=self.log_seq,
            )
        )

    def _hold(
        self, kind: TransactionKind, account_id: int, asset_id: int, units: int, order_id: int
    ) -> None:
        if units:
            move = Move(
                ledger.free(account_id, asset_id),
                ledger.held(account_id, asset_id),
                units,
                order_id,
                order_id,
            )
            self._post(kind, order_id, (move,))

    def _change(self, order_id: int) -> OrderChange:
        change = self.order_changes.get(order_id)
        if change is None:
            change = self.order_changes[order_id] = OrderChange()
        change.updated_ns = self.time_ns
        return change

    def _post(self, kind: TransactionKind, order_id: int, moves: tuple[Move, ...]) -> None:
        if posted := ledger.postings(moves):
            self.transactions.append(
                Transaction(self.log_seq, self.event_index, kind, order_id, self.time_ns, posted)
            )
