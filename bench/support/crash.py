"""A recorded crash through seeded accounts with margin positions: what it leaves behind.

Every recorded price is an index price, with a maker's thin ladder around it. During the first half
the accounts take their positions one after the other, 1x to 100x, half of them long; what the book
does not take of the liquidations is the insurance fund's, then the winners'. At the end, and on the
way, the exchange's invariants must hold.
"""

from __future__ import annotations

import csv
import gzip
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from kernel.markets import DEFAULT_ASSETS, Market, default_markets
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain import events as e
from services.engine.domain import position_commands as pc
from services.engine.domain import position_events as pe
from services.engine.domain.configuration import configuration
from services.engine.domain.exchange import Exchange

RECORDINGS = (
    "trades/gemini_BTCUSD_20251010_h00-20.csv.gz",
    "klines/klines_1m_20210417_20210419_USDT.csv.gz",
)
SEED = 20_251_010
FUND, MAKER, FIRST = 1, 2, 1001
USDC = 1
_LEVERAGES = (1, 2, 3, 5, 10, 20, 25, 50, 75, 100)
MARKET: Market = next(m for m in default_markets() if m.name == "BTC_USDC_MARGIN")


@dataclass
class Crash:
    """The exchange under way, and what happened in it."""

    exchange: Exchange = field(default_factory=Exchange)
    rng: random.Random = field(default_factory=lambda: random.Random(SEED))
    now_ns: int = 0
    transfers: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def apply(self, command: c.Command) -> list[e.Event]:
        events = self.exchange.apply(command, self.now_ns)
        for event in events:
            if isinstance(event, pe.Liquidated):
                self.counts["liquidated"] += 1
                self.counts["by_fund"] += event.fund_lots > 0
                self.counts["deleveraged"] += len(event.auto_deleverages)
            elif isinstance(event, e.CommandRefused):
                self.counts["refused"] += 1
            elif isinstance(event, e.Trade):
                self.counts["trades"] += 1
        return events

    def deposit(self, account_id: int, units: int) -> None:
        self.transfers += 1
        self.apply(c.Transfer(account_id, self.transfers, USDC, units, k.TRANSFER_KIND_DEPOSIT))

    def order(self, account_id: int, side: int, price_ticks: int, lots: int, tif: int) -> None:
        order = c.PlaceOrder(account_id, MARKET.market_id, "", side, k.ORDER_TYPE_LIMIT, tif)
        order.price_ticks, order.quantity_lots = price_ticks, lots
        self.apply(order)

    def price(self, ticks: int, time_ns: int) -> None:
        """An index price, and a maker that follows it."""
        self.now_ns = max(self.now_ns, time_ns)
        self.apply(c.CancelAll(MAKER, MARKET.market_id))
        for side, sign in ((k.SIDE_BUY, -1), (k.SIDE_SELL, 1)):
            for step in (1, 2, 4):
                limit = ticks + sign * max(1, ticks * step * 5 // 10_000)
                lots = self.rng.randrange(1_000, 20_000)
                self.order(MAKER, side, limit, lots, k.TIME_IN_FORCE_GTC)
        update = c.PriceUpdate(MARKET.market_id, 0, 0, ticks, self.now_ns)
        self.apply(c.SetPrices(prices=(update,)))

    def take_position(self, account_id: int, ticks: int) -> None:
        """A leverage, a side and a size by seed; the maker is the other side."""
        leverage = self.rng.choice(_LEVERAGES)
        money = MARKET.quote.parse(str(self.rng.randrange(100, 5_000)))
        self.deposit(account_id, money)
        self.apply(pc.SetLeverage(account_id, MARKET.market_id, leverage))
        lots = money * leverage * 9 // 10 // MARKET.notional_units(ticks, 1)
        lots = min(lots, MARKET.max_notional_units // MARKET.notional_units(ticks, 1) // 2)
        side = self.rng.choice((k.SIDE_BUY, k.SIDE_SELL))
        other = k.SIDE_SELL if side == k.SIDE_BUY else k.SIDE_BUY
        self.apply(c.CancelAll(MAKER, MARKET.market_id))
        self.order(MAKER, other, ticks, max(lots, 1), k.TIME_IN_FORCE_GTC)
        self.order(account_id, side, ticks, max(lots, 1), k.TIME_IN_FORCE_IOC)
        self.counts["opened"] += self.exchange.position(account_id, MARKET.market_id) is not None


def prices_of(path: Path) -> Iterator[tuple[int, int]]:
    """(Unix nanoseconds, ticks) of a recording: BTC trades, or lows and closes of BTC candles."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if not row["symbol"].startswith("BTC"):
                continue
            if "price" in row:
                yield int(row["ts_us"]) * 1_000, _ticks(row["price"])
            else:
                opened_ns = int(row["open_us"]) * 1_000
                yield opened_ns, _ticks(row["low"])
                yield opened_ns + 59_000_000_000, _ticks(row["close"])


def run_crash(path: Path, *, accounts: int, every: int = 1, most: int = 0) -> dict[str, Any]:
    """Drive a recording's prices (each `every`th, at most `most`) through the accounts.

    Raises `AssertionError` when money is missing or an account is below zero.
    """
    prices = list(prices_of(path))[::every]
    prices = prices[-most:] if most else prices
    crash = Crash()
    crash.apply(configuration(DEFAULT_ASSETS, [MARKET]))
    crash.now_ns, first = prices[0]
    crash.deposit(MAKER, 10**17)
    crash.price(first, crash.now_ns)
    half = max(1, len(prices) // 2)
    came = 0
    began = time.process_time()
    for number, (time_ns, ticks) in enumerate(prices):
        crash.price(ticks, time_ns)
        while came < min(accounts, (number + 1) * accounts // half):
            crash.take_position(FIRST + came, ticks)
            came += 1
        if number % max(1, len(prices) // 20) == 0:
            crash.exchange.check_invariants()
    seconds = time.process_time() - began
    exchange = crash.exchange
    exchange.check_invariants()
    balances = [exchange.account(account_id)[USDC] for account_id in exchange.accounts()]
    assert all(b.free_units >= 0 and b.held_units >= 0 for b in balances)
    total = sum(b.free_units + b.held_units for b in balances)
    rest = exchange.fees()[USDC] + exchange.house().get(USDC, 0) + exchange.clearing()[USDC]
    assert total + rest == exchange.external()[USDC], "money is missing"
    fund = exchange.account(FUND).get(USDC)
    amount = MARKET.quote.format
    return {
        "accounts": accounts,
        "prices": len(prices),
        "fall_bps": 10_000 - min(ticks for _, ticks in prices) * 10_000 // first,
        "opened": crash.counts["opened"],
        "liquidated": crash.counts["liquidated"],
        "left_to_the_fund": crash.counts["by_fund"],
        "auto_deleveraged": crash.counts["deleveraged"],
        "still_open": exchange.open_position_count(),
        "trades": crash.counts["trades"],
        "fund": amount(fund.free_units if fund else 0),
        "fees": amount(exchange.fees()[USDC]),
        "below_zero": 0,
        "missing": amount(exchange.external()[USDC] - total - rest),
        "cpu_seconds": round(seconds, 1),
    }


def _ticks(price: str) -> int:
    """The nearest tick below a recorded price."""
    units = int(Decimal(price) * 10**MARKET.quote.decimals)
    return units // MARKET.tick_size_units
