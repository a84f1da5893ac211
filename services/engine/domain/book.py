"""Order books: price levels in order, and in each level the queue of orders by time."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING

from kernel.prices import mark_price
from services.engine.domain.accounts import Account, Balance
from services.engine.domain.commands import MarketConfig, PlaceOrder
from services.engine.domain.constants import MARKET_KIND_MARGIN, MARKET_STATUS_TRADING, SIDE_BUY
from services.engine.domain.triggers import Triggers, Watch

if TYPE_CHECKING:
    from services.engine.domain.positions import Position


class Condition:
    """What an order has to do with things outside the book: the price that fires it while it waits,
    and the other order of its pair.

    `extreme_ticks` is the best price that a trailing stop has seen. `own_hold` is what a lot would
    hold without the pair: the first order holds the dearer of the two per lot, the second, while
    it waits, nothing.
    """

    __slots__ = ("extreme_ticks", "own_hold", "partner", "trigger_ticks", "waits")

    def __init__(
        self, trigger_ticks: int, extreme_ticks: int, own_hold: int, *, waits: bool
    ) -> None:
        self.trigger_ticks = trigger_ticks
        self.extreme_ticks = extreme_ticks
        self.own_hold = own_hold
        self.waits = waits
        self.partner: Order | None = None


class Order:
    """A live order and its hold.

    The hold of an order in the book is always `(remaining - uncovered) * hold_per_lot`; only lots
    that close a margin position are uncovered. A MARKET buy by quote amount holds `amount_left` in
    its place (`hold_per_lot` is 0); it never rests. `hidden` is the part of `remaining` that an
    iceberg does not show; 0 for all others. A stop that waits has a `condition` and no level.
    """

    __slots__ = (
        "account",
        "amount_left",
        "book",
        "condition",
        "created_ns",
        "fees",
        "filled",
        "filled_notional",
        "hidden",
        "hold_balance",
        "hold_per_lot",
        "level",
        "maker_fee_bps",
        "next",
        "order_id",
        "prev",
        "price_ticks",
        "remaining",
        "request",
        "side",
        "uncovered",
        "updated_ns",
    )

    def __init__(
        self,
        order_id: int,
        account: Account,
        book: Book,
        request: PlaceOrder,
        hold_balance: Balance,
        price_ticks: int,
        remaining: int,
        hold_per_lot: int,
        now_ns: int,
    ) -> None:
        self.order_id = order_id
        self.account = account
        self.book = book
        self.request = request
        self.hold_balance = hold_balance
        self.side = request.side
        self.price_ticks = price_ticks
        self.remaining = remaining
        self.hold_per_lot = hold_per_lot
        # The rate it was placed under: its hold covers no higher one.
        self.maker_fee_bps = book.maker_fee_bps
        self.amount_left = 0
        self.filled = 0
        self.filled_notional = 0
        self.hidden = 0
        self.uncovered = 0
        self.fees = 0
        self.created_ns = now_ns
        self.updated_ns = now_ns
        self.condition: Condition | None = None
        self.level: Level | None = None
        self.prev: Order | None = None
        self.next: Order | None = None

    def hold_asset_id(self) -> int:
        """Quote for a buy, base for a sell; in MARGIN markets always quote."""
        return self.book.hold_asset_id(self.side)

    def hold_units(self) -> int:
        """What the order holds now."""
        if self.hold_per_lot == 0:
            return self.amount_left
        return (self.remaining - self.uncovered) * self.hold_per_lot

    def drop_hold(self, lots: int) -> int:
        """What these lots hold, which leave the order; those that hold nothing go first."""
        uncovered = self.uncovered
        if uncovered:
            uncovered = min(uncovered, lots)
            self.uncovered -= uncovered
        return (lots - uncovered) * self.hold_per_lot

    def waits(self) -> bool:
        """Whether it is a stop that has not fired."""
        return self.condition is not None and self.condition.waits

    def trigger_ticks(self) -> int:
        """What fires it now; 0 unless it waits."""
        condition = self.condition
        return condition.trigger_ticks if condition is not None and condition.waits else 0

    def shown(self) -> int:
        """What the book shows of it."""
        return self.remaining - self.hidden if self.level is not None else 0

    def show_slice(self) -> None:
        """An iceberg shows its next slice; only while it is out of its level."""
        display = self.request.display_quantity_lots
        self.hidden = self.remaining - display if 0 < display < self.remaining else 0

    def release(self, units: int) -> None:
        """Give part of the hold back."""
        self.hold_balance.held -= units
        self.hold_balance.free += units


class Level:
    """The orders at one price, oldest first, and the sum of what they show."""

    __slots__ = ("head", "key", "quantity", "tail")

    def __init__(self, key: int) -> None:
        self.key = key
        self.quantity = 0
        self.head: Order | None = None
        self.tail: Order | None = None


class BookSide:
    """One side of a book.

    Levels are kept under `price * sign`, so that on both sides the best level has the highest key
    and stands last in `keys`, where adding and removing is cheapest.
    """

    __slots__ = ("keys", "levels", "sign")

    def __init__(self, sign: int) -> None:
        self.sign = sign
        self.levels: dict[int, Level] = {}
        self.keys: list[int] = []

    def best_price(self) -> int:
        """Best price in ticks; 0 when the side is empty."""
        return self.keys[-1] * self.sign if self.keys else 0

    def reaches(self, price_ticks: int) -> bool:
        """Whether an order from the other side with this limit would meet this side."""
        return bool(self.keys) and self.keys[-1] >= price_ticks * self.sign

    def add(self, order: Order) -> None:
        """Put an order at the back of its level."""
        key = order.price_ticks * self.sign
        level = self.levels.get(key)
        if level is None:
            level = self.levels[key] = Level(key)
            keys = self.keys
            if not keys or keys[-1] < key:
                keys.append(key)
            else:
                insort(keys, key)
        tail = level.tail
        if tail is None:
            level.head = order
        else:
            tail.next = order
            order.prev = tail
        level.tail = order
        order.level = level
        level.quantity += order.remaining - order.hidden

    def remove(self, order: Order) -> None:
        """Take an order out of its level; nobody else moves."""
        level = order.level
        assert level is not None
        before = order.prev
        after = order.next
        if before is None:
            level.head = after
        else:
            before.next = after
            order.prev = None
        if after is None:
            level.tail = before
        else:
            after.prev = before
            order.next = None
        order.level = None
        level.quantity -= order.remaining - order.hidden
        if level.head is None:
            key = level.key
            del self.levels[key]
            keys = self.keys
            if keys[-1] == key:
                keys.pop()
            else:
                del keys[bisect_left(keys, key)]


class Book:
    """A market: its rules, its status, its two sides and its counters."""

    __slots__ = (
        "asks",
        "base_asset_id",
        "bids",
        "config",
        "external_ask_ticks",
        "external_bid_ticks",
        "external_ns",
        "index_ticks",
        "is_margin",
        "last_price_ticks",
        "last_stops",
        "last_trade_id",
        "long_liquidations",
        "lot_size_units",
        "maker_fee_bps",
        "mark_stops",
        "market_id",
        "positions",
        "quote_asset_id",
        "short_liquidations",
        "status",
        "taker_fee_bps",
        "units_per_tick_lot",
        "worst_fee_bps",
    )

    def __init__(self, config: MarketConfig) -> None:
        self.configure(config)
        self.status: int = MARKET_STATUS_TRADING
        self.bids = BookSide(1)
        self.asks = BookSide(-1)
        self.last_trade_id = 0
        self.last_price_ticks = 0
        # Stops that wait, by the price that they watch.
        self.last_stops = Watch()
        self.mark_stops = Watch()
        # What the feed said last, and when; 0 for never.
        self.external_bid_ticks = 0
        self.external_ask_ticks = 0
        self.index_ticks = 0
        self.external_ns = 0
        # MARGIN: open positions by account, and the marks at which they are liquidated.
        self.positions: dict[int, Position] = {}
        self.long_liquidations = Triggers(falling=True)
        self.short_liquidations = Triggers(falling=False)

    def configure(self, config: MarketConfig) -> None:
        """Take new rules; what every order needs is kept one step closer."""
        self.config = config
        self.market_id = config.market_id
        self.is_margin = config.kind == MARKET_KIND_MARGIN
        self.base_asset_id = config.base_asset_id
        self.quote_asset_id = config.quote_asset_id
        self.units_per_tick_lot = config.units_per_tick_lot
        self.lot_size_units = config.lot_size_units
        self.maker_fee_bps = config.maker_fee_bps
        self.taker_fee_bps = config.taker_fee_bps
        self.worst_fee_bps = max(config.maker_fee_bps, config.taker_fee_bps)

    def has_fresh_price(self, now_ns: int) -> bool:
        """Whether the feed's price of this market still counts."""
        limit_ns = self.config.price_stale_ns
        return self.index_ticks > 0 and (limit_ns == 0 or now_ns - self.external_ns <= limit_ns)

    def mark_price(self, now_ns: int) -> int:
        """Mark price in ticks, a stale index left out; 0 while there is nothing to make it of."""
        return mark_price(
            self.index_ticks if self.has_fresh_price(now_ns) else 0,
            self.bids.best_price(),
            self.asks.best_price(),
            self.last_price_ticks,
        )

    def side(self, side: int) -> BookSide:
        """Where orders of `side` rest."""
        return self.bids if side == SIDE_BUY else self.asks

    def opposite(self, side: int) -> BookSide:
        """What orders of `side` trade with."""
        return self.asks if side == SIDE_BUY else self.bids

    def hold_asset_id(self, side: int) -> int:
        """Asset that orders of `side` hold."""
        return self.quote_asset_id if side == SIDE_BUY or self.is_margin else self.base_asset_id

    def hold_per_lot(self, side: int, price_ticks: int) -> int:
        """Units that one lot of an order holds: for a buy with the worst fee.

        Every fill's fee is rounded up on its own, so only a fee rounded up per lot covers any split
        of the order into fills.
        """
        if side != SIDE_BUY:
            return self.lot_size_units
        notional = price_ticks * self.units_per_tick_lot
        return notional - (-notional * self.worst_fee_bps // 10_000)
