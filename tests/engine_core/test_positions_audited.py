"""Random orders, prices and leverage in a MARGIN market, against an auditor that sees events alone.

Every step is followed by the invariants, and every refusal must have changed nothing (`World.do`).
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain import events as e
from services.engine.domain import position_commands as pc
from tests.engine_core.margin_world import FUND, MarginWorld
from tests.engine_core.world import ALICE, BOB, CAROL, MARKET, USD
from tests.support.event_audit import EventAuditor

DAVE = 14
PEOPLE = (ALICE, BOB, CAROL, DAVE)
TYPES = (
    k.ORDER_TYPE_LIMIT,
    k.ORDER_TYPE_LIMIT,
    k.ORDER_TYPE_LIMIT,
    k.ORDER_TYPE_MARKET,
    k.ORDER_TYPE_STOP_MARKET,
    k.ORDER_TYPE_STOP_LIMIT,
    k.ORDER_TYPE_TAKE_PROFIT_MARKET,
    k.ORDER_TYPE_TRAILING_STOP,
)
LIMITED = (k.ORDER_TYPE_LIMIT, k.ORDER_TYPE_STOP_LIMIT)
people = st.sampled_from(PEOPLE)
sides = st.sampled_from([k.SIDE_BUY, k.SIDE_SELL])
ACTIONS = st.one_of(
    st.tuples(
        st.just("place"),
        people,
        sides,
        st.sampled_from(TYPES),
        # How far from the last index, and how much.
        st.integers(-60, 60),
        st.integers(1, 120),
        st.sampled_from(["", "", "", "reduce_only", "post_only", "fok", "ioc", "iceberg"]),
        st.sampled_from([0, 2, 3, 4]),
    ),
    st.tuples(
        st.just("pair"), people, sides, st.integers(1, 60), st.integers(1, 60), st.booleans()
    ),
    st.tuples(st.just("index"), st.integers(-20, 20)),
    st.tuples(st.just("index"), st.integers(-400, 400)),
    st.tuples(st.just("amend"), st.integers(0, 40), st.integers(-60, 60), st.integers(0, 120)),
    st.tuples(st.just("cancel"), st.integers(0, 40)),
    st.tuples(st.just("leverage"), people, st.sampled_from([1, 2, 5, 10, 25, 50, 100])),
    st.tuples(st.just("margin"), people, st.integers(1, 5_000)),
    st.tuples(st.just("fund"), st.integers(1, 20_000)),
    st.tuples(st.just("restart")),
)


class Run:
    """The core and the auditor, led through the same actions."""

    def __init__(self, fees: tuple[int, int]) -> None:
        self.world = MarginWorld(
            maker_fee_bps=fees[0], taker_fee_bps=fees[1], max_open_orders=50, max_price_ticks=9_000
        )
        self.auditor = EventAuditor()
        for account_id in (ALICE, BOB, CAROL):
            self.auditor.take([e.TransferApplied(0, account_id, USD, 100_000, 1)])
        self.price = 1_000
        self.orders: list[tuple[int, int]] = []
        self.transfers = 100
        # Poor, so that what a fill costs cannot always be paid.
        self.do(c.Transfer(DAVE, self.transfers, USD, 3_000, 1))

    def do(self, command: c.Command) -> None:
        events = self.world.do(command)
        self.auditor.take(events)
        self.orders += [(x.account_id, x.order_id) for x in events if isinstance(x, e.OrderPlaced)]
        self.check()

    def check(self) -> None:
        exchange = self.world.exchange
        for account_id in (FUND, *PEOPLE):
            booked = (self.auditor.free[account_id], self.auditor.held[account_id])
            assert self.world.money(account_id, USD) == booked
        assert exchange.fees()[USD] == self.auditor.fees
        assert exchange.clearing()[USD] == self.auditor.clearing
        assert exchange.open_position_count() == len(self.auditor.positions)

    def place(
        self, owner: int, side: int, kind: int, away: int, lots: int, flag: str, prevention: int
    ) -> None:
        fields: dict[str, Any] = {"quantity_lots": lots, "self_trade_prevention": prevention}
        price = max(1, self.price + away)
        if kind in LIMITED:
            fields["price_ticks"] = price
        if kind == k.ORDER_TYPE_TRAILING_STOP:
            fields["trailing_bps"] = 10 * abs(away) + 10
        elif kind > k.ORDER_TYPE_MARKET:
            fields["trigger_price_ticks"] = price
        if kind > k.ORDER_TYPE_MARKET:
            fields["trigger_source"] = 1 + lots % 2
        if flag == "fok":
            fields["time_in_force"] = k.TIME_IN_FORCE_FOK
        elif flag == "ioc":
            fields["time_in_force"] = k.TIME_IN_FORCE_IOC
        elif flag == "iceberg":
            fields["display_quantity_lots"] = max(1, lots // 3)
        elif flag:
            fields[flag] = True
        self.do(c.PlaceOrder(owner, MARKET, side=side, type=kind, **fields))

    def pair(self, owner: int, side: int, good: int, bad: int, reduces: bool) -> None:
        sign = -1 if side == k.SIDE_BUY else 1
        one, two = (
            c.PlaceOrder(
                market_id=MARKET, side=side, type=kind, quantity_lots=20, reduce_only=reduces
            )
            for kind in (k.ORDER_TYPE_LIMIT, k.ORDER_TYPE_STOP_MARKET)
        )
        one.price_ticks = max(1, self.price + sign * good)
        two.trigger_price_ticks = max(1, self.price - sign * bad)
        self.do(c.PlaceOco(owner, one, two))

    def index(self, move: int) -> None:
        self.price = min(max(20, self.price + move), 8_000)
        self.world.now_ns += 1_000_000_000
        update = c.PriceUpdate(MARKET, 0, 0, self.price, self.world.now_ns)
        self.do(c.SetPrices(prices=(update,)))

    def amend(self, which: int, away: int, lots: int) -> None:
        if self.orders:
            owner, order_id = self.orders[-1 - which % len(self.orders)]
            price = max(1, self.price + away)
            self.do(c.AmendOrder(owner, order_id, "", price, lots))

    def cancel(self, which: int) -> None:
        if self.orders:
            self.do(c.CancelOrder(*self.orders[-1 - which % len(self.orders)]))

    def leverage(self, owner: int, leverage: int) -> None:
        self.do(pc.SetLeverage(owner, MARKET, leverage))

    def margin(self, owner: int, units: int) -> None:
        self.do(pc.AddMargin(owner, MARKET, units))

    def fund(self, units: int) -> None:
        self.transfers += 1
        self.do(c.Transfer(FUND, self.transfers, USD, units, 1))

    def restart(self) -> None:
        before = self.world.exchange.state_hash()
        self.world.restart()
        assert self.world.exchange.state_hash() == before


@settings(max_examples=120, deadline=None)
@given(
    fees=st.sampled_from([(0, 0), (2, 5), (-2, 10), (10, 20)]),
    actions=st.lists(ACTIONS, min_size=20, max_size=80),
)
def test_no_money_is_made_or_lost_whatever_happens(
    fees: tuple[int, int], actions: list[tuple[Any, ...]]
) -> None:
    run = Run(fees)
    for name, *arguments in actions:
        getattr(run, name)(*arguments)
