"""Prices over many open margin positions: `python -m bench.positions`.

In the core alone: a price that reaches none of a million open positions, prices that liquidate a
thousand, and prices a second over a hundred thousand. The reference of the ratio is the obvious way
in the same process: look at every position with every price. Seconds are of CPU. Then the recorded
crashes beside the repository, where they are there, through ten thousand accounts
(`bench.support.crash`).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from bench.support.crash import RECORDINGS, run_crash
from bench.support.report import emit, say
from kernel.markets import DEFAULT_ASSETS, default_markets
from services.engine.compiled import is_compiled, use_if_told
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain import events as e
from services.engine.domain import position_commands as pc
from services.engine.domain import position_events as pe
from services.engine.domain.configuration import configuration
from services.engine.domain.exchange import Exchange

START_NS = 1_700_000_000_000_000_000
USDC = 1
MARKET = next(m for m in default_markets() if m.name == "BTC_USDC_MARGIN")
PRICE_TICKS = 6_000_000
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


class Run:
    """An exchange with this many long positions, each of an account of its own; one is short."""

    def __init__(self, positions: int, near: int = 0) -> None:
        """`near` of them have a leverage of 50, all others of 5."""
        self.exchange = Exchange()
        self.now_ns = START_NS
        self.apply(configuration(DEFAULT_ASSETS, [MARKET]))
        self.apply(c.Transfer(2, 1, USDC, 10**18, k.TRANSFER_KIND_DEPOSIT))
        self.tick(PRICE_TICKS)
        for number in range(positions):
            account_id = 1001 + number
            self.apply(c.Transfer(account_id, number + 2, USDC, 10**11, k.TRANSFER_KIND_DEPOSIT))
            self.apply(pc.SetLeverage(account_id, MARKET.market_id, 50 if number < near else 5))
            self.order(2, k.SIDE_SELL)
            self.order(account_id, k.SIDE_BUY)

    def apply(self, command: c.Command) -> list[e.Event]:
        events = self.exchange.apply(command, self.now_ns)
        assert not isinstance(events[0], e.CommandRefused), events
        return events

    def order(self, account_id: int, side: int) -> None:
        """A hundred lots at the price that everybody trades at."""
        order = c.PlaceOrder(account_id, MARKET.market_id, "", side, k.ORDER_TYPE_LIMIT)
        order.price_ticks, order.quantity_lots = PRICE_TICKS, 100
        self.apply(order)

    def tick(self, ticks: int) -> list[e.Event]:
        """An index price, a microsecond later."""
        self.now_ns += 1_000
        price = c.PriceUpdate(MARKET.market_id, 0, 0, ticks, self.now_ns)
        return self.apply(c.SetPrices(prices=(price,)))

    def quiet_ticks(self, count: int) -> float:
        """Seconds of each price that reaches nothing."""
        began = time.process_time()
        for number in range(count):
            events = self.tick(PRICE_TICKS + number % 7)
            assert len(events) == 1
        return (time.process_time() - began) / count

    def liquidations(self) -> tuple[int, float]:
        """How many a fall of six percent liquidates, sold to a bid, and seconds of each."""
        self.apply(c.Transfer(3, 2**62, USDC, 10**17, k.TRANSFER_KIND_DEPOSIT))
        bid = c.PlaceOrder(3, MARKET.market_id, "", k.SIDE_BUY, k.ORDER_TYPE_LIMIT)
        bid.price_ticks, bid.quantity_lots = PRICE_TICKS * 985 // 1000, 100 * 1_000
        self.apply(bid)
        began = time.process_time()
        # The mark is the mean of this and the last trade.
        events = self.tick(PRICE_TICKS * 88 // 100)
        seconds = time.process_time() - began
        count = sum(isinstance(event, pe.Liquidated) for event in events)
        return count, seconds / max(count, 1)

    def obvious_tick(self, positions: int) -> float:
        """Seconds of one price that looks at every position."""
        prices = [
            view.liquidation_ticks
            for account_id in range(1001, 1001 + positions)
            for view in self.exchange.positions(account_id)
        ]
        began = time.process_time()
        reached = [ticks for ticks in prices if ticks >= PRICE_TICKS]
        seconds = time.process_time() - began
        assert not reached
        return seconds


def main() -> None:
    """Parse arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--positions", type=int, default=1_000_000)
    parser.add_argument("--ticks", type=int, default=20_000)
    parser.add_argument("--accounts", type=int, default=10_000, help="of the crashes")
    options = parser.parse_args()
    compiled = is_compiled()
    for positions in (options.positions, options.positions // 10):
        say(f"opening {positions:,} positions")
        run = Run(positions, near=min(1_000, positions // 2))
        quiet = run.quiet_ticks(options.ticks)
        obvious = run.obvious_tick(positions)
        count, seconds = run.liquidations()
        emit(
            bench="positions",
            compiled=compiled,
            positions=positions,
            quiet_tick_us=round(quiet * 1e6, 2),
            ticks_per_cpu_second=round(1 / quiet),
            obvious_over_quiet=round(obvious / quiet, 1),
            liquidated_by_one_tick=count,
            us_per_liquidation=round(seconds * 1e6, 1),
        )
        run.exchange.check_invariants()
    for name in RECORDINGS:
        if not (DATA / name).exists():
            emit(
                bench="crash", name=name, not_available="the recording is not beside the repository"
            )
            continue
        say(f"{name} through {options.accounts:,} accounts")
        emit(bench="crash", name=name, **run_crash(DATA / name, accounts=options.accounts))


if __name__ == "__main__":
    use_if_told()
    main()
