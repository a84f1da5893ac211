"""The house: open contracts for difference, the prices that fire them, and what the house carries.

The house is the other side of every contract. What it wins and loses is its balance, which may be
below zero; what it carries in a market is the net of the open notionals.
"""

from __future__ import annotations

from collections import deque

from services.engine.domain.accounts import LIVE, Account, Balance
from services.engine.domain.book import Book
from services.engine.domain.constants import SIDE_BUY
from services.engine.domain.position_commands import OpenCfd
from services.engine.domain.triggers import Triggers


class Cfd:
    """An open contract. Rates are those it was opened under, in basis points; 0 for no trigger."""

    __slots__ = (
        "account",
        "balance",
        "book",
        "cfd_id",
        "entry_ticks",
        "fee_bps",
        "leverage",
        "liquidation_ticks",
        "maintenance_bps",
        "margin_units",
        "notional_units",
        "opened_ns",
        "remembered",
        "side",
        "stop_loss_ticks",
        "take_profit_ticks",
    )

    def __init__(
        self,
        cfd_id: int,
        account: Account,
        book: Book,
        side: int,
        entry_ticks: int,
        margin_units: int,
        leverage: int,
        liquidation_ticks: int,
        stop_loss_ticks: int,
        take_profit_ticks: int,
        maintenance_bps: int,
        fee_bps: int,
        opened_ns: int,
    ) -> None:
        self.cfd_id = cfd_id
        self.account = account
        self.book = book
        self.balance: Balance = account.balance(book.quote_asset_id)
        self.side = side
        self.entry_ticks = entry_ticks
        self.margin_units = margin_units
        self.leverage = leverage
        self.notional_units = margin_units * leverage
        self.liquidation_ticks = liquidation_ticks
        self.stop_loss_ticks = stop_loss_ticks
        self.take_profit_ticks = take_profit_ticks
        self.maintenance_bps = maintenance_bps
        self.fee_bps = fee_bps
        self.opened_ns = opened_ns
        # What was asked for, if the owner gave it an id.
        self.remembered: RememberedCfd | None = None


class RememberedCfd:
    """A client id that was used: for which contract, and with which payload."""

    __slots__ = ("cfd_id", "closed_ns", "request")

    def __init__(self, cfd_id: int, request: OpenCfd) -> None:
        self.cfd_id = cfd_id
        self.request = request
        self.closed_ns: int = LIVE


class SideTriggers:
    """What the contracts of one side of one market wait for.

    A long contract loses and is stopped as its price falls and gains as it rises; a short one the
    other way round.
    """

    __slots__ = ("liquidations", "stop_losses", "take_profits")

    def __init__(self, *, long: bool) -> None:
        self.liquidations = Triggers(falling=long)
        self.stop_losses = Triggers(falling=long)
        self.take_profits = Triggers(falling=not long)

    def set(self, cfd: Cfd) -> None:
        """Take a contract's triggers as they are now."""
        cfd_id = cfd.cfd_id
        if cfd.liquidation_ticks:
            self.liquidations.set(cfd_id, cfd.liquidation_ticks)
        self.set_exits(cfd)

    def set_exits(self, cfd: Cfd) -> None:
        """Take a contract's stop loss and take profit as they are now."""
        for triggers, ticks in (
            (self.stop_losses, cfd.stop_loss_ticks),
            (self.take_profits, cfd.take_profit_ticks),
        ):
            if ticks:
                triggers.set(cfd.cfd_id, ticks)
            else:
                triggers.drop(cfd.cfd_id)

    def drop(self, cfd_id: int) -> None:
        """Forget a contract."""
        self.liquidations.drop(cfd_id)
        self.stop_losses.drop(cfd_id)
        self.take_profits.drop(cfd_id)


class Desk:
    """One market's open contracts: how many each account has, the net notional, the triggers."""

    __slots__ = ("counts", "longs", "net_units", "shorts")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        # Notional of the long contracts minus that of the short ones.
        self.net_units = 0
        self.longs = SideTriggers(long=True)
        self.shorts = SideTriggers(long=False)

    def side(self, side: int) -> SideTriggers:
        """Triggers of long (BUY) or short contracts."""
        return self.longs if side == SIDE_BUY else self.shorts


class House:
    """Every open contract, by id and by account, and the idempotency window of their client ids."""

    __slots__ = (
        "balances",
        "by_account",
        "cfds",
        "client_ids",
        "desks",
        "last_cfd_id",
        "window",
    )

    def __init__(self) -> None:
        self.last_cfd_id = 0
        # Asset id -> what the house has won minus what it has lost.
        self.balances: dict[int, int] = {}
        self.cfds: dict[int, Cfd] = {}
        self.by_account: dict[int, dict[int, Cfd]] = {}
        self.desks: dict[int, Desk] = {}
        self.client_ids: dict[tuple[int, str], RememberedCfd] = {}
        # Client ids of closed contracts, oldest closing first.
        self.window: deque[RememberedCfd] = deque()

    def desk(self, market_id: int) -> Desk:
        """The desk of a market, made when it is first needed."""
        desk = self.desks.get(market_id)
        if desk is None:
            desk = self.desks[market_id] = Desk()
        return desk

    def add(self, cfd: Cfd) -> None:
        """A contract opens."""
        account_id = cfd.account.account_id
        self.cfds[cfd.cfd_id] = cfd
        owned = self.by_account.get(account_id)
        if owned is None:
            owned = self.by_account[account_id] = {}
        owned[cfd.cfd_id] = cfd
        desk = self.desk(cfd.book.market_id)
        desk.counts[account_id] = desk.counts.get(account_id, 0) + 1
        desk.net_units += cfd.notional_units if cfd.side == SIDE_BUY else -cfd.notional_units
        desk.side(cfd.side).set(cfd)

    def remove(self, cfd: Cfd) -> None:
        """A contract closes."""
        account_id = cfd.account.account_id
        del self.cfds[cfd.cfd_id]
        owned = self.by_account[account_id]
        del owned[cfd.cfd_id]
        if not owned:
            del self.by_account[account_id]
        desk = self.desks[cfd.book.market_id]
        left = desk.counts[account_id] - 1
        if left:
            desk.counts[account_id] = left
        else:
            del desk.counts[account_id]
        desk.net_units -= cfd.notional_units if cfd.side == SIDE_BUY else -cfd.notional_units
        desk.side(cfd.side).drop(cfd.cfd_id)

    def remember(self, known: RememberedCfd) -> None:
        """Note the client id of a contract, open or closed."""
        self.client_ids[known.request.account_id, known.request.client_cfd_id] = known

    def forget(self, before_ns: int, entries: int) -> None:
        """Drop what closed up to `before_ns`, and the oldest above `entries`."""
        window = self.window
        while window and (window[0].closed_ns <= before_ns or len(window) > entries):
            old = window.popleft()
            key = old.request.account_id, old.request.client_cfd_id
            if self.client_ids.get(key) is old:
                del self.client_ids[key]

    def of_account(self, account_id: int) -> list[Cfd]:
        """Open contracts of an account, oldest first."""
        return list(self.by_account.get(account_id, {}).values())
