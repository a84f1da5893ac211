"""The whole state of a shard, and the steps that every command is made of."""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush
from typing import Final

from kernel.reasons import Reason, Refused
from services.engine.domain.accounts import LIVE, Account, Remembered
from services.engine.domain.book import Book, Order
from services.engine.domain.commands import AssetConfig, PlaceOrder
from services.engine.domain.constants import (
    ORDER_STATUS_CANCELLED,
    SIDE_BUY,
    TIME_IN_FORCE_GTD,
)
from services.engine.domain.events import Event, OrderClosed
from services.engine.domain.house import House
from services.engine.domain.ranges import IdRanges

# A client order id is known while its order lives and for a day after it closed, but of closed ones
# only this many, so that the window cannot grow without end.
WINDOW_NS: Final = 24 * 3600 * 1_000_000_000
WINDOW_ENTRIES: Final = 1_000_000
# Closed orders that can still be told from unknown ones: between this many and twice as many.
CLOSED_GENERATION: Final = 50_000

_OCO: Final = int(Reason.OCO_CANCELLED)


class State:
    """Everything that decides what the next command does."""

    __slots__ = (
        "accounts",
        "assets",
        "books",
        "clearing",
        "closed_before",
        "closed_recently",
        "epoch",
        "expiries",
        "external",
        "fees",
        "gtd_orders",
        "house",
        "last_command_seq",
        "last_liquidation_id",
        "last_order_id",
        "orders",
        "switch_times",
        "switches",
        "transfers",
        "waiting",
        "window",
        "window_entries",
    )

    def __init__(self, window_entries: int = WINDOW_ENTRIES) -> None:
        self.window_entries = window_entries
        self.last_command_seq = 0
        self.last_order_id = 0
        self.last_liquidation_id = 0
        self.house = House()
        self.epoch = 0
        self.assets: dict[int, AssetConfig] = {}
        self.books: dict[int, Book] = {}
        self.accounts: dict[int, Account] = {}
        self.orders: dict[int, Order] = {}
        self.fees: dict[int, int] = {}
        # The other side of profits and losses paid on margin positions; 0 while none is open.
        self.clearing: dict[int, int] = {}
        self.external: dict[int, int] = {}
        self.transfers = IdRanges()
        # Client ids of closed orders, oldest closing first.
        self.window: deque[Remembered] = deque()
        # Order id -> account id of closed orders, in two generations: dropping the older whole
        # costs nothing per order.
        self.closed_recently: dict[int, int] = {}
        self.closed_before: dict[int, int] = {}
        # (expire_ns, order_id) of GTD orders; entries of closed ones are skipped when met.
        self.expiries: list[tuple[int, int]] = []
        self.gtd_orders = 0
        # Stops of all markets that have not fired.
        self.waiting = 0
        # Account id -> when its dead man's switch fires; the heap of (at_ns, account_id) has
        # entries of moved and disarmed ones too, which are skipped when met.
        self.switches: dict[int, int] = {}
        self.switch_times: list[tuple[int, int]] = []

    def account(self, account_id: int) -> Account:
        """The account, made when it is first needed."""
        account = self.accounts.get(account_id)
        if account is None:
            account = self.accounts[account_id] = Account(account_id)
        return account

    def tradable_book(self, market_id: int) -> Book:
        """The book of a market. Raises `Refused(MARKET_NOT_FOUND)`."""
        book = self.books.get(market_id)
        if book is None:
            raise Refused(Reason.MARKET_NOT_FOUND, field="market_id")
        return book

    # ------------------------------------------------------------ live orders

    def register(self, order: Order) -> None:
        """An order starts to rest, or to wait for its trigger."""
        order_id = order.order_id
        self.orders[order_id] = order
        by_market = order.account.orders
        market_id = order.book.market_id
        orders = by_market.get(market_id)
        if orders is None:
            orders = by_market[market_id] = {}
        orders[order_id] = order
        if order.request.time_in_force == TIME_IN_FORCE_GTD:
            self.add_expiry(order)

    def close(
        self, order: Order, status: int, reason: int, now_ns: int, events: list[Event]
    ) -> None:
        """End an order, resting or not: out of the book, hold released, client id into the window.

        `reason` is 0 for a filled order. Of a pair, the other order is cancelled after it.
        """
        order_id = order.order_id
        account = order.account
        book = order.book
        request = order.request
        side = order.side
        remaining = order.remaining
        removed = 0
        level_price = 0
        if order.level is not None:
            removed = remaining - order.hidden
            level_price = order.price_ticks
            if side == SIDE_BUY:
                book.bids.remove(order)
            else:
                book.asks.remove(order)
        released = (remaining - order.uncovered) * order.hold_per_lot
        if request.quote_amount_units:
            # Never asked for in lots, so none are left over; a buy holds what is left to spend.
            released = order.hold_units()
            remaining = 0
        if released:
            balance = order.hold_balance
            balance.held -= released
            balance.free += released
        if order_id in self.orders:
            del self.orders[order_id]
            del account.orders[book.market_id][order_id]
            if request.time_in_force == TIME_IN_FORCE_GTD:
                self.gtd_orders -= 1
        closed = self.closed_recently
        closed[order_id] = account.account_id
        if len(closed) >= CLOSED_GENERATION:
            self.closed_before = closed
            self.closed_recently = {}
        if request.client_order_id:
            remembered = account.client_ids[request.client_order_id]
            remembered.closed_ns = now_ns
            self.window.append(remembered)
        events.append(
            OrderClosed(
                order_id,
                account.account_id,
                book.market_id,
                status,
                reason,
                released,
                remaining,
                removed,
                level_price,
                side,
                book.hold_asset_id(side),
            )
        )
        if order.condition is not None:
            self.wait_no_more(order)
            self.end_partner(order, now_ns, events)

    def wait_no_more(self, order: Order) -> None:
        """A stop fires or ends; nothing happens to an order that does not wait."""
        condition = order.condition
        if condition is not None and condition.waits:
            condition.waits = False
            self.waiting -= 1
            order.book.last_stops.drop(order.order_id)
            order.book.mark_stops.drop(order.order_id)

    def end_partner(self, order: Order, now_ns: int, events: list[Event]) -> None:
        """Cancel the other order of a pair, if there is one; `order` stands alone from then on."""
        condition = order.condition
        if condition is None or condition.partner is None:
            return
        partner = condition.partner
        condition.partner = None
        if partner.condition is not None:
            partner.condition.partner = None
        self.close(partner, ORDER_STATUS_CANCELLED, _OCO, now_ns, events)

    def find_order(
        self, account_id: int, order_id: int, client_order_id: str, now_ns: int
    ) -> Order:
        """A live order of the account, by either id.

        Raises `Refused`: ORDER_NOT_FOUND (also for someone else's), ORDER_ALREADY_CLOSED,
        INVALID_ARGUMENT unless exactly one id is given.
        """
        if (order_id == 0) == (client_order_id == ""):
            raise Refused(Reason.INVALID_ARGUMENT, "needs exactly one id", field="order_id")
        if order_id:
            order = self.orders.get(order_id)
            if order is not None and order.account.account_id == account_id:
                return order
            owner = self.closed_recently.get(order_id) or self.closed_before.get(order_id)
            if owner == account_id:
                raise Refused(Reason.ORDER_ALREADY_CLOSED, field="order_id")
            raise Refused(Reason.ORDER_NOT_FOUND, field="order_id")
        known = self.remembered(account_id, client_order_id, now_ns)
        if known is None:
            raise Refused(Reason.ORDER_NOT_FOUND, field="client_order_id")
        if known.closed_ns != LIVE:
            raise Refused(Reason.ORDER_ALREADY_CLOSED, field="client_order_id")
        return self.orders[known.order_id]

    # ------------------------------------------------------------ client order ids

    def remembered(self, account_id: int, client_order_id: str, now_ns: int) -> Remembered | None:
        """What is known of a client order id: of a live order, or inside the window."""
        account = self.accounts.get(account_id)
        if account is None:
            return None
        known = account.client_ids.get(client_order_id)
        if known is not None and known.closed_ns != LIVE and known.closed_ns + WINDOW_NS <= now_ns:
            # It left the window; it is only dropped by the next accepted order, because looking
            # something up must not change the state.
            return None
        return known

    def remember(self, order: Order, now_ns: int) -> None:
        """Note the client id of a new order and forget those that have left the window."""
        window = self.window
        while window and (
            window[0].closed_ns + WINDOW_NS <= now_ns or len(window) > self.window_entries
        ):
            old = window.popleft()
            ids = old.account.client_ids
            if ids.get(old.request.client_order_id) is old:
                del ids[old.request.client_order_id]
        request: PlaceOrder = order.request
        order.account.client_ids[request.client_order_id] = Remembered(
            order.account, order.order_id, request
        )

    # ------------------------------------------------------------ expiry of GTD orders

    def add_expiry(self, order: Order) -> None:
        """Note when an order expires."""
        self.gtd_orders += 1
        heappush(self.expiries, (order.request.expire_ns, order.order_id))
        if len(self.expiries) > 64 and len(self.expiries) > 2 * self.gtd_orders:
            # Mostly closed orders by now, some with far expiries: keep the live ones only.
            self.expiries = [entry for entry in self.expiries if entry[1] in self.orders]
            heapify(self.expiries)

    def next_expiry_ns(self) -> int:
        """When the next live order expires; 0 if none will."""
        expiries = self.expiries
        while expiries and expiries[0][1] not in self.orders:
            heappop(expiries)
        return expiries[0][0] if expiries else 0

    def take_due(self, now_ns: int) -> Order | None:
        """The next live order whose time is over, in order of time, then id."""
        due_ns = self.next_expiry_ns()
        if due_ns == 0 or due_ns > now_ns:
            return None
        return self.orders[heappop(self.expiries)[1]]

    # ------------------------------------------------------------ dead man's switches

    def set_switch(self, account_id: int, at_ns: int) -> None:
        """Arm or move an account's switch; 0 disarms it."""
        if at_ns == 0:
            self.switches.pop(account_id, None)
            return
        self.switches[account_id] = at_ns
        heappush(self.switch_times, (at_ns, account_id))
        if len(self.switch_times) > 64 and len(self.switch_times) > 2 * len(self.switches):
            # Mostly moved ones by now: a client moves its switch with every heartbeat.
            self.switch_times = [(due_ns, owner) for owner, due_ns in self.switches.items()]
            heapify(self.switch_times)

    def next_switch_ns(self) -> int:
        """When the next switch fires; 0 if none will."""
        times = self.switch_times
        while times and self.switches.get(times[0][1]) != times[0][0]:
            heappop(times)
        return times[0][0] if times else 0

    def take_due_switch(self, now_ns: int) -> int:
        """The account whose switch is due, disarmed, in order of time, then id; 0 if none is."""
        due_ns = self.next_switch_ns()
        if due_ns == 0 or due_ns > now_ns:
            return 0
        account_id = heappop(self.switch_times)[1]
        del self.switches[account_id]
        return account_id

    def next_due_ns(self) -> int:
        """When the next order expires or switch fires; 0 for never."""
        expiry_ns, switch_ns = self.next_expiry_ns(), self.next_switch_ns()
        return min(expiry_ns, switch_ns) if expiry_ns and switch_ns else expiry_ns or switch_ns
