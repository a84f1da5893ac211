"""What readers see of contracts for difference and liquidations; the projection keeps it.

Built from events alone, like everything in the projection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from services.engine.domain import commands as c
from services.engine.domain import position_events as pe

# Closed contracts, and receipts of liquidations, that are still known here; history has the rest.
CLOSED_CFDS_KEPT: Final = 10_000
RECEIPTS_KEPT: Final = 10_000


class CfdState:
    """A contract, open or recently closed. Ticks, units; times in Unix nanoseconds."""

    __slots__ = (
        "close_reason",
        "close_ticks",
        "closed_ns",
        "fees_units",
        "opened",
        "opened_ns",
        "pnl_units",
        "stop_loss_ticks",
        "take_profit_ticks",
    )

    def __init__(self, opened: pe.CfdOpened, opened_ns: int) -> None:
        self.opened = opened
        self.opened_ns = opened_ns
        self.stop_loss_ticks = opened.stop_loss_ticks
        self.take_profit_ticks = opened.take_profit_ticks
        self.fees_units = opened.fee_units
        self.closed_ns = 0
        self.close_ticks = 0
        self.close_reason = 0
        self.pnl_units = 0


class Receipt:
    """A liquidation, and the log entry that it is in."""

    __slots__ = ("liquidated", "seq", "time_ns")

    def __init__(self, liquidated: pe.Liquidated, seq: int, time_ns: int) -> None:
        self.liquidated = liquidated
        self.seq = seq
        self.time_ns = time_ns


class CfdModel:
    """Contracts by id and by account, receipts by account, and the newest external prices."""

    def __init__(self) -> None:
        self.cfds: dict[int, CfdState] = {}
        self.prices: dict[int, c.PriceUpdate] = {}
        self._open: dict[int, dict[int, CfdState]] = {}
        self._closed: deque[int] = deque()
        self._receipts: deque[Receipt] = deque()
        self._receipts_of: dict[int, deque[Receipt]] = {}

    def open_of(self, account_id: int, market_id: int = 0) -> list[CfdState]:
        """Open contracts of an account, oldest first; of all markets when `market_id` is 0."""
        found = self._open.get(account_id, {}).values()
        return [cfd for cfd in found if market_id in (0, cfd.opened.market_id)]

    def of(self, account_id: int, cfd_id: int) -> CfdState | None:
        """A contract, open or recently closed, if it is this account's."""
        cfd = self.cfds.get(cfd_id)
        return cfd if cfd is not None and cfd.opened.account_id == account_id else None

    def receipts_of(self, account_id: int) -> Iterator[Receipt]:
        """Receipts of an account, newest first."""
        return reversed(self._receipts_of.get(account_id, deque()))

    def take_prices(self, command: c.SetPrices, now_ns: int) -> None:
        """Prices that the core took: it leaves those that are older than what it has."""
        for price in command.prices:
            time_ns = min(price.time_ns, now_ns)
            known = self.prices.get(price.market_id)
            if known is None or time_ns >= known.time_ns:
                self.prices[price.market_id] = c.PriceUpdate(
                    price.market_id,
                    price.bid_ticks,
                    price.ask_ticks,
                    price.index_ticks,
                    time_ns,
                )

    def opened(self, event: pe.CfdOpened, now_ns: int) -> CfdState:
        """A contract opened."""
        cfd = self.cfds[event.cfd_id] = CfdState(event, now_ns)
        self._open.setdefault(event.account_id, {})[event.cfd_id] = cfd
        return cfd

    def closed(self, event: pe.CfdClosed, now_ns: int) -> CfdState:
        """A contract closed."""
        cfd = self.cfds[event.cfd_id]
        cfd.closed_ns = now_ns
        cfd.close_ticks = event.close_ticks
        cfd.close_reason = event.reason
        cfd.pnl_units = event.pnl_units
        cfd.fees_units += event.fee_units
        owned = self._open[event.account_id]
        del owned[event.cfd_id]
        if not owned:
            del self._open[event.account_id]
        self._remember_closed(event.cfd_id)
        return cfd

    def triggers_changed(self, event: pe.CfdTriggersChanged) -> CfdState:
        """New triggers of a contract."""
        cfd = self.cfds[event.cfd_id]
        cfd.stop_loss_ticks = event.stop_loss_ticks
        cfd.take_profit_ticks = event.take_profit_ticks
        return cfd

    def liquidated(self, event: pe.Liquidated, seq: int, now_ns: int) -> Receipt:
        """A liquidation left its receipt."""
        receipt = Receipt(event, seq, now_ns)
        self._receipts.append(receipt)
        self._receipts_of.setdefault(event.account_id, deque()).append(receipt)
        if len(self._receipts) > RECEIPTS_KEPT:
            account_id = self._receipts.popleft().liquidated.account_id
            of_account = self._receipts_of[account_id]
            of_account.popleft()
            if not of_account:
                del self._receipts_of[account_id]
        return receipt

    def closed_cfds(self) -> list[CfdState]:
        """Recently closed contracts, in the order in which they closed."""
        return [self.cfds[cfd_id] for cfd_id in self._closed]

    def add_closed(self, cfd: CfdState) -> None:
        """Take a closed contract from a snapshot, in the order of `closed_cfds`."""
        self.cfds[cfd.opened.cfd_id] = cfd
        self._remember_closed(cfd.opened.cfd_id)

    def receipts(self) -> list[Receipt]:
        """Receipts of all accounts, oldest first."""
        return list(self._receipts)

    def _remember_closed(self, cfd_id: int) -> None:
        self._closed.append(cfd_id)
        if len(self._closed) > CLOSED_CFDS_KEPT:
            del self.cfds[self._closed.popleft()]
