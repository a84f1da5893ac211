"""Random contracts and prices against a naive house and an auditor that sees events alone."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

from hypothesis import given, settings
from hypothesis import strategies as st

from services.engine.domain import commands as c
from services.engine.domain import events as e
from services.engine.domain import position_commands as pc
from services.engine.domain import position_events as pe
from tests.engine_core.cfd_world import CfdWorld, open_cfd
from tests.engine_core.world import ALICE, BOB, CAROL, USD
from tests.support.event_audit import INSURANCE, EventAuditor

FEE = Fraction(7, 10_000)
LIQUIDATION_FEE = Fraction(50, 10_000)
LIQUIDATED, STOPPED, GAINED, CLOSED = 4, 2, 3, 1


@dataclass
class NaiveCfd:
    """A contract as the trading rules have it, in exact fractions."""

    cfd_id: int
    owner: int
    sign: int
    margin: int
    leverage: int
    entry: int
    stop_loss: int
    take_profit: int

    @property
    def notional(self) -> int:
        return self.margin * self.leverage

    def equity(self, price: int) -> Fraction:
        return self.margin + self.sign * Fraction(self.notional, self.entry) * (price - self.entry)

    def maintenance(self, price: int) -> Fraction:
        rate = Fraction(40 if self.notional < 1_000_000 else 100, 10_000) + FEE
        return price * Fraction(self.notional, self.entry) * rate

    def why(self, price: int) -> int:
        """Why it closes at a price; 0 if it stays open."""
        if self.equity(price) < self.maintenance(price):
            return LIQUIDATED
        if self.stop_loss and self.sign * (price - self.stop_loss) <= 0:
            return STOPPED
        if self.take_profit and self.sign * (price - self.take_profit) >= 0:
            return GAINED
        return 0

    def settled(self, price: int) -> tuple[int, int, int]:
        """(profit, fee, returned) of closing at a price."""
        pnl = floor(self.sign * Fraction(self.notional, self.entry) * (price - self.entry))
        pnl = max(pnl, -self.margin)
        worth = self.margin + pnl
        fee = min(ceil(Fraction(self.notional, self.entry) * price * FEE), worth)
        return pnl, fee, worth - fee


def cost_of_liquidation(cfd: NaiveCfd, returned: int) -> int:
    return min(returned, ceil(cfd.notional * LIQUIDATION_FEE))


ACTIONS = st.one_of(
    st.tuples(
        st.just("open"),
        st.sampled_from([ALICE, BOB, CAROL]),
        st.sampled_from(["long", "short"]),
        st.integers(1, 60_000),
        st.integers(1, 60),
        # How far away stop loss and take profit are; 0 for none.
        st.integers(0, 120),
        st.integers(0, 120),
    ),
    st.tuples(st.just("price"), st.integers(-150, 150), st.integers(0, 5)),
    st.tuples(st.just("price"), st.integers(-8, 8), st.integers(0, 3)),
    st.tuples(st.just("close"), st.integers(0, 30)),
    st.tuples(st.just("move"), st.integers(0, 30), st.integers(0, 120), st.integers(0, 120)),
    st.tuples(st.just("restart")),
)


class Run:
    """The core, the naive house and the auditor, led through the same actions."""

    def __init__(self) -> None:
        self.world = CfdWorld(taker_fee_bps=7, max_exposure_units=0, max_open_orders=1_000)
        self.auditor = EventAuditor()
        for account_id in (ALICE, BOB, CAROL):
            self.auditor.take([e.TransferApplied(0, account_id, USD, 100_000, 1)])
        self.open: dict[int, NaiveCfd] = {}
        self.bid, self.ask = 999, 1000

    def watched(self, sign: int) -> int:
        return self.bid if sign > 0 else self.ask

    def triggers(self, sign: int, stop: int, gain: int) -> tuple[int, int]:
        price = self.watched(sign)
        stop_loss = price - sign * stop if stop else 0
        take_profit = price + sign * gain if gain else 0
        return max(stop_loss, 0), max(take_profit, 0)

    def do_open(
        self, owner: int, side: str, margin: int, leverage: int, stop: int, gain: int
    ) -> None:
        sign = 1 if side == "long" else -1
        stop_loss, take_profit = self.triggers(sign, stop, gain)
        command = open_cfd(
            owner,
            side,
            margin,
            leverage,
            stop_loss_ticks=stop_loss,
            take_profit_ticks=take_profit,
        )
        events = self.world.do(command)
        if isinstance(events[0], e.CommandRefused):
            return
        (opened,) = events
        assert isinstance(opened, pe.CfdOpened)
        cfd = NaiveCfd(
            opened.cfd_id,
            owner,
            sign,
            margin,
            leverage,
            self.watched(-sign),
            stop_loss,
            take_profit,
        )
        assert opened.entry_ticks == cfd.entry
        assert opened.fee_units == ceil(cfd.notional * FEE)
        first = opened.liquidation_ticks
        assert not first or cfd.why(first) == LIQUIDATED
        assert cfd.equity(first + sign) >= cfd.maintenance(first + sign)
        self.open[cfd.cfd_id] = cfd
        self.auditor.take(events)

    def do_price(self, move: int, spread: int) -> None:
        self.bid = min(max(self.bid + move, 1), 5_000)
        self.ask = self.bid + spread
        events = self.world.prices(self.bid, self.ask)
        expected: list[tuple[int, int, int, int, int, int]] = []
        costs: list[int] = []
        for sign in (1, -1):
            price = self.watched(sign)
            for reason in (LIQUIDATED, STOPPED, GAINED):
                due = [
                    cfd
                    for cfd in self.open.values()
                    if cfd.sign == sign and cfd.why(price) == reason
                ]
                due.sort(key=lambda cfd: (self._reached_first(cfd, reason), cfd.cfd_id))
                for cfd in due:
                    pnl, fee, returned = cfd.settled(price)
                    expected.append((cfd.cfd_id, price, reason, pnl, fee, returned))
                    if reason == LIQUIDATED:
                        costs.append(cost_of_liquidation(cfd, returned))
                    del self.open[cfd.cfd_id]
        closed = [event for event in events if isinstance(event, pe.CfdClosed)]
        assert expected == [
            (x.cfd_id, x.close_ticks, x.reason, x.pnl_units, x.fee_units, x.returned_units)
            for x in closed
        ]
        receipts = [event for event in events if isinstance(event, pe.Liquidated)]
        assert costs == [receipt.fund_delta_units for receipt in receipts]
        self.auditor.take(events)

    def _reached_first(self, cfd: NaiveCfd, reason: int) -> int:
        """A trigger's place on the way of a price against, or for, its contract."""
        if reason == STOPPED:
            return -cfd.sign * cfd.stop_loss
        if reason == GAINED:
            return cfd.sign * cfd.take_profit
        # Walk from the entry until it is gone.
        price = cfd.entry
        while cfd.equity(price) >= cfd.maintenance(price):
            price -= cfd.sign
        return -cfd.sign * price

    def _chosen(self, number: int) -> NaiveCfd | None:
        contracts = list(self.open.values())
        return contracts[number % len(contracts)] if contracts else None

    def do_close(self, number: int) -> None:
        cfd = self._chosen(number)
        if cfd is None:
            return
        price = self.watched(cfd.sign)
        events = self.world.do(pc.CloseCfd(cfd.owner, cfd.cfd_id))
        (closed,) = events
        assert isinstance(closed, pe.CfdClosed) and closed.reason == CLOSED
        assert cfd.settled(price) == (closed.pnl_units, closed.fee_units, closed.returned_units)
        del self.open[cfd.cfd_id]
        self.auditor.take(events)

    def do_move(self, number: int, stop: int, gain: int) -> None:
        cfd = self._chosen(number)
        if cfd is None:
            return
        stop_loss, take_profit = self.triggers(cfd.sign, stop, gain)
        command = pc.UpdateCfdTriggers(cfd.owner, cfd.cfd_id, stop_loss, take_profit)
        if isinstance(self.world.do(command)[0], pe.CfdTriggersChanged):
            cfd.stop_loss, cfd.take_profit = stop_loss, take_profit

    def do_restart(self) -> None:
        self.world.restart()

    def check(self) -> None:
        for account_id in (ALICE, BOB, CAROL, INSURANCE):
            money = self.world.money(account_id, USD)
            assert money == (self.auditor.free[account_id], self.auditor.held[account_id])
        assert self.world.house() == self.auditor.house
        assert self.world.exchange.fees()[USD] == self.auditor.fees
        nets = sum(cfd.sign * cfd.notional for cfd in self.open.values())
        assert self.world.exchange.exposure(1) == nets
        for account_id in (ALICE, BOB, CAROL):
            shown = [view.opened.cfd_id for view in self.world.exchange.cfds(account_id)]
            assert shown == [cfd.cfd_id for cfd in self.open.values() if cfd.owner == account_id]


@settings(max_examples=60, deadline=None)
@given(st.lists(ACTIONS, max_size=40))
def test_random_contracts_and_prices_end_as_a_naive_house_and_the_events_say(
    actions: list[tuple[object, ...]],
) -> None:
    run = Run()
    for name, *arguments in actions:
        getattr(run, f"do_{name}")(*arguments)
        run.check()


@settings(max_examples=15, deadline=None)
@given(st.lists(ACTIONS, min_size=10, max_size=30), st.integers(0, 29))
def test_replaying_from_any_snapshot_gives_the_same_state(
    actions: list[tuple[object, ...]], cut: int
) -> None:
    run = Run()
    log: list[tuple[c.Command, int, list[e.Event]]] = []
    exchange = run.world.exchange
    apply = exchange.apply
    taken: list[tuple[bytes, int]] = []

    def noted(command: c.Command, now_ns: int) -> list[e.Event]:
        events = apply(command, now_ns)
        log.append((command, now_ns, events))
        return events

    run.world.do = lambda command: noted(command, run.world.now_ns)  # type: ignore[method-assign]
    for number, (name, *arguments) in enumerate(actions):
        if number == min(cut, len(actions) - 1):
            taken.append((exchange.snapshot(), len(log)))
        if name != "restart":
            getattr(run, f"do_{name}")(*arguments)
    ((data, position),) = taken
    again = type(exchange).restore(data)
    for command, now_ns, events in log[position:]:
        assert again.apply(command, now_ns) == events
    assert again.state_hash() == exchange.state_hash()
