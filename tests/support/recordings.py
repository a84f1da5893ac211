"""The recordings of real order flow beside the repository, and a core to replay them through."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kernel.markets import Asset, Market
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain import events as e
from services.engine.domain.configuration import configuration
from services.engine.domain.exchange import Exchange
from services.engine.domain.views import BookView

ROOT = Path(__file__).resolve().parents[3] / "shared" / "data"
QUOTE, BASE = 1, 2
MARKET = 1
_START_NS = 1_000_000_000


def recording(name: str) -> Path:
    """A recorded file; the test is skipped where it is not there."""
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"the recording {name} is not beside this repository")
    return path


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a compressed text file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from file


class Replay:
    """A core with one spot market of a given tick and lot, and one rich account per side.

    Two accounts, so that a recorded match never is a self-trade.
    """

    BUYER, SELLER = 1, 2

    def __init__(self, tick: str, lot: str, *, quote_decimals: int, base_decimals: int) -> None:
        quote = Asset(QUOTE, "USD", quote_decimals, quote_decimals)
        base = Asset(BASE, "BASE", base_decimals, base_decimals)
        self.market = Market(
            market_id=MARKET,
            name="BASE_USD",
            kind="SPOT",
            base=base,
            quote=quote,
            tick_size_units=quote.parse(tick),
            lot_size_units=base.parse(lot),
            maker_fee_bps=0,
            taker_fee_bps=0,
            max_open_orders=1_000_000,
        )
        self.exchange = Exchange()
        self._now_ns = _START_NS
        self.do(configuration((quote, base), (self.market,)))
        for number, (account_id, asset) in enumerate(
            [(self.BUYER, QUOTE), (self.SELLER, BASE)], start=1
        ):
            self.do(c.Transfer(account_id, number, asset, 10**18, k.TRANSFER_KIND_DEPOSIT))
        # Id in the recording -> (account, id in the core).
        self.ids: dict[int, tuple[int, int]] = {}
        # And back.
        self.recorded: dict[int, int] = {}

    def do(self, command: c.Command) -> list[e.Event]:
        """Apply a command that must be accepted, one nanosecond after the one before."""
        self._now_ns += 1
        events = self.exchange.apply(command, self._now_ns)
        assert not isinstance(events[0], e.CommandRefused), (command, events)
        return events

    def add(
        self, order: int, buys: bool, price: str, quantity: str, **fields: Any
    ) -> list[e.Event]:
        """A LIMIT order of the recording."""
        account_id = self.BUYER if buys else self.SELLER
        side = k.SIDE_BUY if buys else k.SIDE_SELL
        events = self.do(
            c.PlaceOrder(
                account_id,
                MARKET,
                side=side,
                type=k.ORDER_TYPE_LIMIT,
                price_ticks=self.market.parse_price(price),
                quantity_lots=self.market.parse_quantity(quantity),
                **fields,
            )
        )
        placed = events[0]
        assert isinstance(placed, e.OrderPlaced)
        self.ids[order] = (account_id, placed.order_id)
        self.recorded[placed.order_id] = order
        return events

    def open_lots(self, order: int) -> int:
        """What an order of the recording still has in the book; 0 if it has gone."""
        if order not in self.ids:
            return 0
        view = self.exchange.order(self.ids[order][1])
        return view.remaining_lots if view is not None else 0

    def reduce_to(self, order: int, lots: int) -> None:
        """Bring an order in the book down to `lots`, keeping its place; 0 cancels it."""
        account_id, order_id = self.ids[order]
        view = self.exchange.order(order_id)
        assert view is not None
        if lots == 0:
            self.do(c.CancelOrder(account_id, order_id))
        elif lots < view.remaining_lots:
            total = view.filled_lots + lots
            events = self.do(c.AmendOrder(account_id, order_id, quantity_lots=total))
            assert isinstance(events[0], e.OrderAmended)
            assert not events[0].lost_priority

    def cancel_everything(self) -> None:
        """Empty the book."""
        for account_id in (self.BUYER, self.SELLER):
            self.do(c.CancelAll(account_id))
        self.ids.clear()

    def book(self) -> BookView:
        """The book as it is."""
        return self.exchange.book(MARKET)

    def ticks(self, price: str) -> int:
        """A price however it is written in the recording -> ticks; 0 for an empty one."""
        return int(Decimal(price) / Decimal(self.market.tick_size)) if price else 0
