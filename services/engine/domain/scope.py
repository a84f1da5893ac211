"""What one order can have to do with: enough of the state to try it without copying all of it."""

from __future__ import annotations

from services.engine.domain.accounts import Account
from services.engine.domain.book import Book, BookSide, Order
from services.engine.domain.commands import PlaceOrder
from services.engine.domain.state import State


class Scope:
    """The orders that a new order can meet, those that count beside it, and whose they are.

    These are, in its market: the levels of the other side that it takes to fill it and one more,
    the best level of its own side, and every order of each account that has one of those or places
    it; so limits per account, self-trade prevention, pairs and cover come out as they would.
    """

    __slots__ = ("_market_id", "_orders", "accounts")

    def __init__(self, state: State, command: PlaceOrder) -> None:
        self._market_id = command.market_id
        self._orders: dict[int, Order] = {}
        self.accounts: dict[int, Account] = {}
        own = state.accounts.get(command.account_id)
        if own is not None:
            self._add_account(own)
        book = state.books.get(command.market_id)
        if book is None:
            return
        mine = book.side(command.side)
        if mine.keys:
            self._add_level(mine, mine.keys[-1])
        opposite = book.opposite(command.side)
        limit_key = command.price_ticks * opposite.sign
        lots = command.quantity_lots
        amount = command.quote_amount_units
        for key in reversed(opposite.keys):
            found = self._add_level(opposite, key, command.account_id)
            if (lots <= 0 and amount <= 0) or (limit_key and key < limit_key):
                break
            lots -= found
            amount -= found * abs(key) * book.units_per_tick_lot

    def of_market(self, book: Book) -> list[list[Order]]:
        """Bids and asks, best and oldest first, then stops that wait, by id."""
        bids: list[Order] = []
        asks: list[Order] = []
        waiting: list[Order] = []
        if book.market_id == self._market_id:
            for side, found in ((book.bids, bids), (book.asks, asks)):
                keys = {
                    order.level.key
                    for order in self._orders.values()
                    if order.level is not None and book.side(order.side) is side
                }
                for key in sorted(keys, reverse=True):
                    maker = side.levels[key].head
                    while maker is not None:
                        if maker.order_id in self._orders:
                            found.append(maker)
                        maker = maker.next
            waiting = [order for _, order in sorted(self._orders.items()) if order.level is None]
        return [bids, asks, waiting]

    def _add_level(self, side: BookSide, key: int, not_counted: int = 0) -> int:
        """Take in a level with the accounts in it; returns its lots that are of others."""
        lots = 0
        order = side.levels[key].head
        while order is not None:
            self._add_account(order.account)
            if order.account.account_id != not_counted:
                lots += order.remaining
            order = order.next
        return lots

    def _add_account(self, account: Account) -> None:
        if account.account_id not in self.accounts:
            self.accounts[account.account_id] = account
            self._orders.update(account.orders.get(self._market_id, {}))
