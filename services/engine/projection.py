"""What readers see: orders and balances as the log has them, built from its events alone.

The core runs ahead of the log while an append is under way, so nobody may read from it; this read
model only ever moves when an entry is durable. It also is a second way to the same balances, which
recovery compares with the core's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from kernel.markets import Asset, MarginTier, Market
from services.engine.cfd_model import CfdModel, CfdState, Receipt
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain import events as e
from services.engine.domain import position_events as pe
from services.engine.domain.cfds import INSURANCE_ACCOUNT
from services.engine.margin_model import MarginModel, PositionState

# Closed orders that `GetOrder` still knows; older ones are in the history service.
CLOSED_ORDERS_KEPT = 100_000
_KIND_NAMES = {
    k.MARKET_KIND_SPOT: "SPOT",
    k.MARKET_KIND_MARGIN: "MARGIN",
    k.MARKET_KIND_CFD: "CFD",
}


class Balance:
    """Units of one asset that an account has."""

    __slots__ = ("free_units", "held_units")

    def __init__(self) -> None:
        self.free_units = 0
        self.held_units = 0


class OrderState:
    """An accepted order, live or recently closed. Ticks, lots, units; times in Unix nanoseconds."""

    __slots__ = (
        "account_id",
        "close_reason",
        "created_ns",
        "fees_units",
        "filled_lots",
        "filled_notional_units",
        "log_seq",
        "market_id",
        "oco_order_id",
        "order_id",
        "price_ticks",
        "quantity_lots",
        "request",
        "status",
        "trigger_price_ticks",
        "updated_ns",
    )

    # In the order of the slots, the request last: a snapshot's row is what it is made of.
    def __init__(
        self,
        account_id: int,
        close_reason: int,
        created_ns: int,
        fees_units: int,
        filled_lots: int,
        filled_notional_units: int,
        log_seq: int,
        market_id: int,
        oco_order_id: int,
        order_id: int,
        price_ticks: int,
        quantity_lots: int,
        status: int,
        trigger_price_ticks: int,
        updated_ns: int,
        request: c.PlaceOrder,
    ) -> None:
        self.account_id = account_id
        self.close_reason = close_reason
        self.created_ns = created_ns
        self.fees_units = fees_units
        self.filled_lots = filled_lots
        self.filled_notional_units = filled_notional_units
        self.log_seq = log_seq
        self.market_id = market_id
        self.oco_order_id = oco_order_id
        self.order_id = order_id
        self.price_ticks = price_ticks
        self.quantity_lots = quantity_lots
        self.status = status
        self.trigger_price_ticks = trigger_price_ticks
        self.updated_ns = updated_ns
        self.request = request


class Account:
    """Balances by asset id, and live orders by id in the order they came."""

    __slots__ = ("balances", "orders")

    def __init__(self) -> None:
        self.balances: dict[int, Balance] = {}
        self.orders: dict[int, OrderState] = {}

    def balance(self, asset_id: int) -> Balance:
        """The balance of one asset, made when there is none yet."""
        balance = self.balances.get(asset_id)
        if balance is None:
            balance = self.balances[asset_id] = Balance()
        return balance


class Change:
    """What one log entry changed for one account."""

    __slots__ = ("asset_ids", "cfds", "orders", "positions", "receipts", "trades")

    def __init__(self) -> None:
        self.cfds: dict[int, CfdState] = {}
        # By market id; one that closed has no quantity.
        self.positions: dict[int, PositionState] = {}
        self.orders: dict[int, OrderState] = {}
        self.trades: list[e.Trade] = []
        self.receipts: list[Receipt] = []
        self.asset_ids: set[int] = set()

    def told(self) -> int:
        """How many orders, fills and so on there are to tell of."""
        states = len(self.orders) + len(self.cfds) + len(self.positions)
        return states + len(self.trades) + len(self.receipts)


class Projection:
    """The state of the exchange at log position `seq`, as far as people may read it."""

    def __init__(self, *, closed_orders_kept: int = CLOSED_ORDERS_KEPT) -> None:
        self.seq = 0
        self.time_ns = 0
        self.log_hash = b""
        self.assets: dict[int, Asset] = {}
        self.markets: dict[int, Market] = {}
        self.market_status: dict[int, int] = {}
        self.accounts: dict[int, Account] = {}
        self.orders: dict[int, OrderState] = {}
        self.fees: dict[int, int] = {}
        self.cfds = CfdModel()
        self.margin = MarginModel()
        self.open_orders = 0
        self._closed: deque[int] = deque()
        self._closed_kept = closed_orders_kept
        self._changes: dict[int, Change] = {}

    def begin_entry(self, seq: int, time_ns: int) -> None:
        """The commands that follow are those of this log entry."""
        self.seq = seq
        self.time_ns = time_ns
        self._changes = {}

    def end_entry(self, log_hash: bytes) -> dict[int, Change]:
        """What the entry changed, by account; the entry's hash becomes the position's."""
        self.log_hash = log_hash
        return self._changes

    def apply(self, command: c.Command, events: Sequence[e.Event]) -> None:
        """Follow one logged command."""
        for event in events:
            if isinstance(event, e.OrderPlaced):
                self._placed(event, request_of(command, event, first=event is events[0]))
            elif isinstance(event, e.Trade):
                self._traded(event)
            elif isinstance(event, e.OrderClosed):
                self._order_closed(event)
            elif isinstance(event, e.OrderAmended):
                self._amended(event)
            elif isinstance(event, e.OrderTriggered):
                self._triggered(event)
            elif isinstance(event, e.TransferApplied):
                balance = self.account(event.account_id).balance(event.asset_id)
                balance.free_units += event.amount_units
                self._change(event.account_id).asset_ids.add(event.asset_id)
            elif isinstance(event, e.PricesSet):
                assert isinstance(command, c.SetPrices)
                self.cfds.take_prices(command, self.time_ns)
            elif isinstance(event, pe.PositionChanged):
                self._position_changed(event)
            elif isinstance(event, pe.LeverageChanged):
                self.margin.leverage_changed(event)
            elif isinstance(event, pe.CfdOpened):
                self._cfd_opened(event)
            elif isinstance(event, pe.CfdClosed):
                self._cfd_closed(event)
            elif isinstance(event, pe.CfdTriggersChanged):
                cfd = self.cfds.triggers_changed(event)
                self._change(event.account_id).cfds[event.cfd_id] = cfd
            elif isinstance(event, pe.Liquidated):
                self._liquidated(event)
            elif isinstance(event, e.MarketStatusChanged):
                self.market_status[event.market_id] = event.status
            elif isinstance(event, e.Configured):
                assert isinstance(command, c.Configure)
                self.configure(command)

    def order_of(self, account_id: int, order_id: int) -> OrderState | None:
        """An order, live or recently closed, if it is this account's."""
        order = self.orders.get(order_id)
        return order if order is not None and order.account_id == account_id else None

    def open_orders_of(self, account_id: int, market_id: int = 0) -> list[OrderState]:
        """Live orders of an account, oldest first; of all markets when `market_id` is 0."""
        account = self.accounts.get(account_id)
        if account is None:
            return []
        return [o for o in account.orders.values() if market_id in (0, o.market_id)]

    def balances_of(self, account_id: int) -> dict[int, Balance]:
        """Asset id -> balance, for every asset the account has or had."""
        account = self.accounts.get(account_id)
        return account.balances if account is not None else {}

    def account(self, account_id: int) -> Account:
        """The account, made when it is first needed."""
        account = self.accounts.get(account_id)
        if account is None:
            account = self.accounts[account_id] = Account()
        return account

    def closed_orders(self) -> list[OrderState]:
        """Recently closed orders, in the order in which they closed."""
        return [self.orders[order_id] for order_id in self._closed]

    def add_closed(self, order: OrderState) -> None:
        """Take a closed order from a snapshot, in the order of `closed_orders`."""
        self.orders[order.order_id] = order
        self._remember_closed(order.order_id)

    def add_live(self, order: OrderState) -> None:
        """Take a live order from a snapshot, after the older ones of its account."""
        self.orders[order.order_id] = order
        self.account(order.account_id).orders[order.order_id] = order
        self.open_orders += 1

    def _remember_closed(self, order_id: int) -> None:
        self._closed.append(order_id)
        if len(self._closed) > self._closed_kept:
            del self.orders[self._closed.popleft()]

    def _change(self, account_id: int) -> Change:
        change = self._changes.get(account_id)
        if change is None:
            change = self._changes[account_id] = Change()
        return change

    def _placed(self, event: e.OrderPlaced, request: c.PlaceOrder) -> None:
        order = OrderState(
            account_id=event.account_id,
            close_reason=0,
            created_ns=self.time_ns,
            fees_units=0,
            filled_lots=0,
            filled_notional_units=0,
            log_seq=self.seq,
            market_id=event.market_id,
            oco_order_id=event.oco_order_id,
            order_id=event.order_id,
            price_ticks=request.price_ticks,
            # Less than asked for, when it may only reduce.
            quantity_lots=event.quantity_lots or request.quantity_lots,
            status=k.ORDER_STATUS_UNTRIGGERED if event.trigger_price_ticks else k.ORDER_STATUS_OPEN,
            trigger_price_ticks=event.trigger_price_ticks,
            updated_ns=self.time_ns,
            request=request,
        )
        self.orders[order.order_id] = order
        account = self.account(order.account_id)
        account.orders[order.order_id] = order
        self.open_orders += 1
        self._hold(account, event.hold_asset_id, event.hold_units)
        change = self._change(order.account_id)
        change.orders[order.order_id] = order
        change.asset_ids.add(event.hold_asset_id)

    def _traded(self, event: e.Trade) -> None:
        market = self.markets[event.market_id]
        base_id, quote_id = market.base.asset_id, market.quote.asset_id
        self._filled(event.maker_order_id, event, event.maker_fee_units)
        self._filled(event.taker_order_id, event, event.taker_fee_units)
        for account_id in (event.maker_account_id, event.taker_account_id):
            self._change(account_id).trades.append(event)
        if market.kind == "MARGIN":
            # The money is in the changes of the two positions.
            return
        if event.taker_side == k.SIDE_BUY:
            buyer, buyer_fee = event.taker_account_id, event.taker_fee_units
            seller, seller_fee = event.maker_account_id, event.maker_fee_units
        else:
            buyer, buyer_fee = event.maker_account_id, event.maker_fee_units
            seller, seller_fee = event.taker_account_id, event.taker_fee_units
        paid = event.notional_units + buyer_fee
        account = self.account(buyer)
        quote = account.balance(quote_id)
        quote.held_units -= event.quote_hold_taken
        quote.free_units += event.quote_hold_taken - paid
        account.balance(base_id).free_units += event.base_units
        account = self.account(seller)
        account.balance(base_id).held_units -= event.base_units
        account.balance(quote_id).free_units += event.notional_units - seller_fee
        self.fees[quote_id] = self.fees.get(quote_id, 0) + buyer_fee + seller_fee
        for account_id in (buyer, seller):
            change = self._change(account_id)
            change.asset_ids.add(base_id)
            change.asset_ids.add(quote_id)

    def _position_changed(self, event: pe.PositionChanged) -> None:
        asset_id = self.markets[event.market_id].quote.asset_id
        balance = self.account(event.account_id).balance(asset_id)
        balance.held_units += event.margin_delta_units - event.hold_released
        balance.free_units += (
            event.hold_released
            + event.realised_pnl_units
            - event.margin_delta_units
            - event.fee_units
        )
        self.fees[asset_id] = self.fees.get(asset_id, 0) + event.fee_units
        change = self._change(event.account_id)
        change.positions[event.market_id] = self.margin.changed(event, self.time_ns)
        change.asset_ids.add(asset_id)

    def _filled(self, order_id: int, event: e.Trade, fee_units: int) -> None:
        order = self.orders[order_id]
        order.filled_lots += event.quantity_lots
        order.filled_notional_units += event.notional_units
        order.fees_units += fee_units
        order.status = k.ORDER_STATUS_PARTIALLY_FILLED
        order.updated_ns = self.time_ns
        self._change(order.account_id).orders[order_id] = order

    def _order_closed(self, event: e.OrderClosed) -> None:
        order = self.orders[event.order_id]
        order.status = event.status
        order.close_reason = event.reason
        order.updated_ns = self.time_ns
        account = self.account(event.account_id)
        del account.orders[event.order_id]
        self.open_orders -= 1
        self._hold(account, event.hold_asset_id, -event.hold_released)
        change = self._change(event.account_id)
        change.orders[event.order_id] = order
        change.asset_ids.add(event.hold_asset_id)
        self._remember_closed(event.order_id)

    def _amended(self, event: e.OrderAmended) -> None:
        order = self.orders[event.order_id]
        order.price_ticks = event.price_ticks
        order.quantity_lots = event.quantity_lots
        if event.trigger_price_ticks:
            order.trigger_price_ticks = event.trigger_price_ticks
        order.updated_ns = self.time_ns
        self._hold(self.account(event.account_id), event.hold_asset_id, event.hold_delta)
        change = self._change(event.account_id)
        change.orders[event.order_id] = order
        change.asset_ids.add(event.hold_asset_id)

    def _triggered(self, event: e.OrderTriggered) -> None:
        order = self.orders[event.order_id]
        order.status = k.ORDER_STATUS_OPEN
        order.price_ticks = event.price_ticks
        order.updated_ns = self.time_ns
        self._hold(self.account(event.account_id), event.hold_asset_id, event.hold_delta)
        change = self._change(event.account_id)
        change.orders[event.order_id] = order
        change.asset_ids.add(event.hold_asset_id)

    def _cfd_opened(self, event: pe.CfdOpened) -> None:
        asset_id = self.markets[event.market_id].quote.asset_id
        account = self.account(event.account_id)
        self._hold(account, asset_id, event.margin_units)
        account.balance(asset_id).free_units -= event.fee_units
        self.fees[asset_id] = self.fees.get(asset_id, 0) + event.fee_units
        change = self._change(event.account_id)
        change.cfds[event.cfd_id] = self.cfds.opened(event, self.time_ns)
        change.asset_ids.add(asset_id)

    def _cfd_closed(self, event: pe.CfdClosed) -> None:
        asset_id = self.markets[event.market_id].quote.asset_id
        balance = self.account(event.account_id).balance(asset_id)
        balance.held_units -= event.margin_units
        balance.free_units += event.returned_units
        self.fees[asset_id] = self.fees.get(asset_id, 0) + event.fee_units
        change = self._change(event.account_id)
        change.cfds[event.cfd_id] = self.cfds.closed(event, self.time_ns)
        change.asset_ids.add(asset_id)

    def _liquidated(self, event: pe.Liquidated) -> None:
        asset_id = self.markets[event.market_id].quote.asset_id
        for account_id, units in (
            (event.account_id, -event.fund_delta_units),
            (INSURANCE_ACCOUNT, event.fund_delta_units),
        ):
            self.account(account_id).balance(asset_id).free_units += units
            self._change(account_id).asset_ids.add(asset_id)
        receipt = self.cfds.liquidated(event, self.seq, self.time_ns)
        self._change(event.account_id).receipts.append(receipt)

    @staticmethod
    def _hold(account: Account, asset_id: int, units: int) -> None:
        balance = account.balance(asset_id)
        balance.free_units -= units
        balance.held_units += units

    def configure(self, command: c.Configure) -> None:
        """Take assets and markets; the status of known markets stays."""
        self.assets = {a.asset_id: asset_of(a) for a in command.assets}
        self.markets = {m.market_id: market_of(m, self.assets) for m in command.markets}
        for market_id in self.markets:
            self.market_status.setdefault(market_id, k.MARKET_STATUS_TRADING)


def request_of(command: c.Command, placed: e.OrderPlaced, *, first: bool) -> c.PlaceOrder:
    """What an order asked for; the first of a pair is placed first, and the second names it.

    An order that no command asked for closes a position, because the engine must.
    """
    if isinstance(command, c.PlaceOco) and placed.oco_order_id:
        of_second = placed.oco_order_id < placed.order_id
        return command.second if of_second else command.first
    if isinstance(command, c.PlaceOrder) and first:
        return command
    return c.PlaceOrder(
        placed.account_id,
        placed.market_id,
        side=placed.side,
        type=k.ORDER_TYPE_LIMIT,
        time_in_force=k.TIME_IN_FORCE_IOC,
        price_ticks=placed.price_ticks,
        quantity_lots=placed.quantity_lots,
        reduce_only=True,
    )


def asset_of(config: c.AssetConfig) -> Asset:
    """An asset as the log has it -> the kernel's."""
    return Asset(config.asset_id, config.code, config.decimals, config.transfer_decimals)


def market_of(config: c.MarketConfig, assets: dict[int, Asset]) -> Market:
    """A market as the log has it -> the kernel's. Raises `ValueError` for inexact notionals."""
    return Market(
        market_id=config.market_id,
        name=config.name,
        kind=_KIND_NAMES[config.kind],
        base=assets[config.base_asset_id],
        quote=assets[config.quote_asset_id],
        tick_size_units=config.tick_size_units,
        lot_size_units=config.lot_size_units,
        min_quantity_lots=config.min_quantity_lots,
        max_quantity_lots=config.max_quantity_lots,
        min_notional_units=config.min_notional_units,
        max_notional_units=config.max_notional_units,
        max_price_ticks=config.max_price_ticks,
        maker_fee_bps=config.maker_fee_bps,
        taker_fee_bps=config.taker_fee_bps,
        max_open_orders=config.max_open_orders,
        max_leverage=config.max_leverage,
        margin_tiers=tuple(
            MarginTier(tier.from_notional_units, tier.maintenance_bps, tier.max_leverage)
            for tier in config.margin_tiers
        ),
        liquidation_fee_bps=config.liquidation_fee_bps,
        price_stale_ns=config.price_stale_ns,
        price_band_bps=config.price_band_bps,
        max_exposure_units=config.max_exposure_units,
    )
