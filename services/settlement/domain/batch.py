"""A batch of log entries -> everything that has to be written for it. Pure.

A batch does not know what was there before: orders of earlier batches appear as changes, balances
as postings. Whoever writes it adds them to what is stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kernel.money import INT64_MAX
from services.settlement.domain import ledger
from services.settlement.domain.facts import (
    OrderAmendedFact,
    OrderClosedFact,
    OrderPlacedFact,
    OrderRequestFact,
    OrderStatus,
    OrderTriggeredFact,
    Side,
    TradeFact,
    TransferFact,
    TransferKind,
)
from services.settlement.domain.ledger import LedgerAccount, Move, Posting, TransactionKind
from services.settlement.domain.rows import (
    AssetRow,
    CfdClosing,
    CfdOpening,
    CfdTriggers,
    Fill,
    LiquidationRow,
    MarketKind,
    MarketRow,
    NewOrder,
    OrderChange,
    PositionChange,
    TracedCommand,
    Transaction,
    TransferOutcome,
)

_TRANSFERS = {
    TransferKind.DEPOSIT: (ledger.deposits, TransactionKind.DEPOSIT),
    TransferKind.WITHDRAWAL: (ledger.withdrawals, TransactionKind.WITHDRAWAL),
    TransferKind.WITHDRAWAL_CANCELLED: (ledger.withdrawals, TransactionKind.WITHDRAWAL_CANCELLED),
    # For one shard's books the other shard is the outside world.
    TransferKind.SHARD: (ledger.deposits, TransactionKind.SHARD_TRANSFER),
}

_STATUSES = {int(status): status for status in OrderStatus}


@dataclass(slots=True)
class Batch:
    """What consecutive log entries mean for ledger, history and transfers.

    `known` has the markets configured before, by id; the batch adds what it configures itself.
    Call `begin_entry` for each log entry, then one method per event in order; `event_index` counts
    all events of an entry. Methods raise `ValueError` for what cannot be.
    """

    known: dict[int, MarketRow]
    log_seq: int = 0
    time_ns: int = 0
    event_index: int = 0
    assets: dict[int, AssetRow] = field(default_factory=dict)
    markets: dict[int, MarketRow] = field(default_factory=dict)
    transactions: list[Transaction] = field(default_factory=list)
    new_orders: dict[int, NewOrder] = field(default_factory=dict)
    order_changes: dict[int, OrderChange] = field(default_factory=dict)
    fills: list[Fill] = field(default_factory=list)
    position_changes: list[PositionChange] = field(default_factory=list)
    # In the order of the log, because a CFD may open and close in one batch.
    cfds: list[CfdOpening | CfdTriggers | CfdClosing] = field(default_factory=list)
    liquidations: list[LiquidationRow] = field(default_factory=list)
    # (log seq, event index) of the last change of each position that was liquidated.
    liquidated: set[tuple[int, int]] = field(default_factory=set)
    first_time_ns: int = 0
    transfers: list[TransferOutcome] = field(default_factory=list)
    traced: list[TracedCommand] = field(default_factory=list)

    def begin_entry(self, log_seq: int, time_ns: int) -> None:
        """The events that follow belong to this log entry."""
        self.log_seq = log_seq
        self.time_ns = time_ns
        self.event_index = 0
        self.first_time_ns = self.first_time_ns or time_ns

    def configured(self, assets: Iterable[AssetRow], markets: Iterable[MarketRow]) -> None:
        """Assets and markets are in force."""
        self.assets.update((asset.asset_id, asset) for asset in assets)
        for market in markets:
            self.markets[market.market_id] = self.known[market.market_id] = market

    def transfer_applied(self, event: TransferFact) -> None:
        """Money came from outside, or went there."""
        outside, kind = _TRANSFERS[TransferKind(event.kind)]
        client = ledger.free(event.account_id, event.asset_id)
        move = Move(outside(event.asset_id), client, event.amount_units)
        self.post(kind, 0, (move,))
        self.transfers.append(TransferOutcome(event.transfer_id, 0, self.log_seq, self.time_ns))

    def transfer_refused(self, transfer_id: int, reason: int) -> None:
        """The engine would not apply a transfer; nothing moved."""
        self.transfers.append(TransferOutcome(transfer_id, reason, self.log_seq, self.time_ns))

    def order_placed(self, event: OrderPlacedFact, request: OrderRequestFact) -> None:
        """An order was accepted and its hold taken."""
        order_id = event.order_id
        if order_id in self.new_orders:
            raise ValueError(f"order {order_id} was placed twice")
        self.new_orders[order_id] = NewOrder(event, request, self.time_ns, self.log_seq)
        self._change(order_id)
        self._hold(
            TransactionKind.HOLD, event.account_id, event.hold_asset_id, event.hold_units, order_id
        )

    def order_triggered(self, event: OrderTriggeredFact) -> None:
        """A stop fired and is an ordinary order now; its hold may change with it."""
        self._change(event.order_id).status = OrderStatus.OPEN
        self._hold(
            TransactionKind.TRIGGER,
            event.account_id,
            event.hold_asset_id,
            event.hold_delta,
            event.order_id,
        )

    def order_amended(self, event: OrderAmendedFact) -> None:
        """A live order has a new price or quantity, and its hold changed with it; one that waits
        may have a new trigger price, 0 for the old one.
        """
        change = self._change(event.order_id)
        change.trigger_price_ticks = event.trigger_price_ticks or change.trigger_price_ticks
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
        status = _STATUSES.get(event.status)
        if status is None:
            raise ValueError(f"order {event.order_id} ended with status {event.status}")
        change = self._change(event.order_id)
        change.status = status
        change.close_reason = event.reason
        self._hold(
            TransactionKind.RELEASE,
            event.account_id,
            event.hold_asset_id,
            -event.hold_released,
            event.order_id,
        )

    def trade(self, event: TradeFact) -> None:
        """Two orders traded: coins and money change hands, the exchange takes its fees.

        In a margin market nothing changes hands by the trade itself: what each side pays is in the
        change of its position.
        """
        market = self.market(event.market_id)
        maker = (event.maker_account_id, event.maker_order_id, event.maker_fee_units)
        taker = (event.taker_account_id, event.taker_order_id, event.taker_fee_units)
        taker_buys = event.taker_side == Side.BUY
        buyer, seller = (taker, maker) if taker_buys else (maker, taker)
        if market.kind != MarketKind.MARGIN:
            self._exchange(event, market, buyer, seller)
        self._fill(event, True, maker, Side.SELL if taker_buys else Side.BUY)
        self._fill(event, False, taker, Side.BUY if taker_buys else Side.SELL)

    def _exchange(
        self,
        event: TradeFact,
        market: MarketRow,
        buyer: tuple[int, int, int],
        seller: tuple[int, int, int],
    ) -> None:
        base, quote = market.base_asset_id, market.quote_asset_id
        buyer_id, buy_order, buy_fee = buyer
        seller_id, sell_order, sell_fee = seller
        taken, coins = event.quote_hold_taken, event.base_units
        proceeds, fees = event.notional_units - sell_fee, buy_fee + sell_fee
        # What the buyer's hold had for this fill and the price did not need goes back to the buyer.
        back = taken - proceeds - fees
        if max(map(abs, (taken, proceeds, fees, back, coins))) > INT64_MAX:
            raise ValueError(f"postings of trade {event.trade_id} are beyond 64 bits")
        legs = (
            (ledger.held(buyer_id, quote), -taken, buy_order),
            (ledger.free(seller_id, quote), proceeds, sell_order),
            (ledger.fees(quote), fees, buy_order),
            (ledger.free(buyer_id, quote), back, buy_order),
            (ledger.held(seller_id, base), -coins, sell_order),
            (ledger.free(buyer_id, base), coins, buy_order),
        )
        posted = [leg for leg in legs if leg[1]]
        self._add(TransactionKind.TRADE, event.taker_order_id, posted)

    def market(self, market_id: int) -> MarketRow:
        """A market that is configured. Raises `ValueError`."""
        market = self.known.get(market_id)
        if market is None:
            raise ValueError(f"market {market_id} is not configured")
        return market

    def balance_deltas(self) -> Mapping[LedgerAccount, int]:
        """Sum of the batch's postings per ledger account."""
        deltas: dict[LedgerAccount, int] = {}
        for transaction in self.transactions:
            for account, amount, _ in transaction.postings:
                deltas[account] = deltas.get(account, 0) + amount
        return deltas

    def _fill(self, event: TradeFact, maker: bool, party: tuple[int, int, int], side: Side) -> None:
        account_id, order_id, fee_units = party
        lots, notional = event.quantity_lots, event.notional_units
        change = self._change(order_id)
        change.filled_lots += lots
        change.filled_notional_units += notional
        change.fees_units += fee_units
        self.fills.append(
            Fill(
                event.market_id,
                event.trade_id,
                maker,
                account_id,
                order_id,
                side,
                event.price_ticks,
                lots,
                notional,
                fee_units,
                self.time_ns,
                self.log_seq,
            )
        )

    def _hold(
        self, kind: TransactionKind, account_id: int, asset_id: int, units: int, order_id: int
    ) -> None:
        if units:
            posted = ledger.transfer(
                ledger.free(account_id, asset_id),
                ledger.held(account_id, asset_id),
                units,
                order_id,
            )
            self._add(kind, order_id, posted)

    def _change(self, order_id: int) -> OrderChange:
        change = self.order_changes.get(order_id)
        if change is None:
            change = self.order_changes[order_id] = OrderChange()
        change.updated_ns = self.time_ns
        return change

    def post(self, kind: TransactionKind, order_id: int, moves: tuple[Move, ...]) -> None:
        """The event under way moves money; nothing is written when all moves are empty."""
        self._add(kind, order_id, ledger.postings(moves))

    def _add(self, kind: TransactionKind, order_id: int, posted: list[Posting]) -> None:
        if posted:
            self.transactions.append(
                Transaction(self.log_seq, self.event_index, kind, order_id, self.time_ns, posted)
            )
