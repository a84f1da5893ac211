"""Ticks over many open contracts for difference: `python -m bench.cfds`.

In the core alone: a tick that reaches none of a million open contracts, ticks that liquidate a
thousand each, and ticks a second with a hundred thousand open. The reference of the ratio is the
obvious way in the same process: look at every contract's trigger with every tick. Seconds are of
CPU, so that a busy machine changes less.
"""

from __future__ import annotations

import argparse
import gc
import resource
import statistics
import time
from pathlib import Path

from bench.support.report import emit, say
from kernel.markets import DEFAULT_ASSETS, default_markets
from services.engine.compiled import is_compiled
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain import events as e
from services.engine.domain import position_commands as pc
from services.engine.domain import position_events as pe
from services.engine.domain.configuration import configuration
from services.engine.domain.exchange import Exchange

START_NS = 1_700_000_000_000_000_000
USDC = 1
MARKET = next(m for m in default_markets() if m.name == "BTC_USDC_CFD")
ACCOUNTS = 10_000
# Contracts opened at one price, and so liquidated by one tick.
GROUP = 1_000
FIRST_TICKS = 1_000_000
STEP_TICKS = 100


class Run:
    """An exchange whose contracts were opened in groups, each at a price of its own."""

    def __init__(self, contracts: int) -> None:
        self.exchange = Exchange()
        self.now_ns = START_NS
        markets = [m for m in default_markets() if m.market_id == MARKET.market_id]
        configure = configuration(DEFAULT_ASSETS, markets)
        # The groups stand on one side, and there are more of them than the house would carry.
        configure.markets[0].max_exposure_units = 0
        configure.markets[0].max_open_orders = contracts
        self.apply(configure)
        for number in range(ACCOUNTS):
            transfer = c.Transfer(1001 + number, number + 1, USDC, 10**14, 1)
            self.apply(transfer)
        for number in range(contracts):
            if number % GROUP == 0:
                self.tick(FIRST_TICKS + number // GROUP * STEP_TICKS)
            account_id = 1001 + number % ACCOUNTS
            command = pc.OpenCfd(
                account_id, MARKET.market_id, "", k.SIDE_BUY, 10**9, 10, 1_000, 10_000_000
            )
            (opened,) = self.apply(command)
            assert isinstance(opened, pe.CfdOpened), opened
        self.top = FIRST_TICKS + (contracts - 1) // GROUP * STEP_TICKS

    def apply(self, command: c.Command) -> list[e.Event]:
        return self.exchange.apply(command, self.now_ns)

    def tick(self, ticks: int) -> list[e.Event]:
        """A price of the market, a microsecond later."""
        self.now_ns += 1_000
        price = c.PriceUpdate(MARKET.market_id, ticks, ticks + 1, ticks, self.now_ns)
        return self.apply(c.SetPrices(prices=(price,)))

    def quiet_ticks(self, count: int) -> float:
        """Seconds of each tick that reaches nothing."""
        began = time.process_time()
        for number in range(count):
            events = self.tick(self.top + number % 7)
            assert len(events) == 1
        return (time.process_time() - began) / count

    def liquidating_ticks(self, count: int) -> list[float]:
        """Seconds per liquidation of ticks that each reach one group, the newest first."""
        found = []
        entry = self.top
        for _ in range(count):
            # 9 / 10 of the entry, less the first tier's maintenance.
            ticks = entry * 9_000 // 9_960
            began = time.process_time()
            events = self.tick(ticks)
            seconds = time.process_time() - began
            closed = sum(isinstance(event, pe.Liquidated) for event in events)
            assert closed == GROUP, closed
            found.append(seconds / closed)
            entry -= STEP_TICKS
        return found

    def obvious_tick(self) -> float:
        """Seconds of one tick that looks at every contract."""
        triggers = [
            (view.opened.liquidation_ticks, view.opened.stop_loss_ticks)
            for view in self.exchange.open_cfds()
        ]
        began = time.process_time()
        reached = [pair for pair in triggers if self.top <= pair[0] or self.top <= pair[1]]
        seconds = time.process_time() - began
        assert not reached
        return seconds


def memory_bytes() -> int:
    """What this process has in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contracts", type=int, default=1_000_000)
    parser.add_argument("--ticks", type=int, default=20_000)
    parser.add_argument("--groups", type=int, default=20, help="ticks that liquidate a thousand")
    arguments = parser.parse_args()
    gc.disable()
    for contracts in (arguments.contracts // 10, arguments.contracts):
        say(f"cfds: opening {contracts} contracts")
        before = memory_bytes()
        began = time.process_time()
        run = Run(contracts)
        opening = (time.process_time() - began) / contracts
        held = memory_bytes() - before
        quiet = run.quiet_ticks(arguments.ticks)
        obvious = run.obvious_tick()
        each = run.liquidating_ticks(arguments.groups)
        emit(
            name="cfds",
            compiled=is_compiled(),
            open_contracts=contracts,
            open_us=round(opening * 1e6, 2),
            memory_bytes_per_contract=held // contracts,
            quiet_tick_us=round(quiet * 1e6, 2),
            ticks_per_second=round(1 / quiet),
            liquidation_us=round(statistics.median(each) * 1e6, 2),
            tick_of_1000_liquidations_ms=round(statistics.median(each) * GROUP * 1e3, 2),
            reference="a tick that looks at every contract",
            reference_tick_us=round(obvious * 1e6, 2),
            ratio=round(obvious / quiet, 1),
        )
        del run
        gc.collect()


if __name__ == "__main__":
    main()
