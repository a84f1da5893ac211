"""The exchange beside a naive second one: the same commands, compared after every step."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kernel.reasons import Reason
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain import events as e
from services.engine.domain.exchange import Exchange
from tests.engine_core.naive import BUY, SELL, NaiveExchange, NaiveOrder, NaiveTrade, hold
from tests.engine_core.world import BTC, MARKET, SECOND, START_NS, USD, configure, place

ACCOUNTS = (11, 12, 13)
accounts = st.sampled_from(ACCOUNTS)
sides = st.sampled_from(("buy", "sell"))
prices = st.integers(996, 1_004)
lots = st.integers(1, 12)
modes = st.sampled_from((0, 1, 2, 3, 4))
times_in_force = st.sampled_from(
    (
        k.TIME_IN_FORCE_GTC,
        k.TIME_IN_FORCE_GTC,
        k.TIME_IN_FORCE_GTD,
        k.TIME_IN_FORCE_IOC,
        k.TIME_IN_FORCE_FOK,
    )
)


# Taking away is only of interest when there is something to take.
when_deep = precondition(lambda self: len(self.naive.book.orders) >= 4)


class AgainstNaive(RuleBasedStateMachine):
    @initialize()
    def open(self) -> None:
        self.exchange = Exchange(window_entries=5)
        self.naive = self.new_naive()
        self.now_ns = START_NS
        self.log: list[tuple[c.Command, int]] = []
        self.snapshots: list[tuple[int, bytes]] = []
        self.transfers = 0
        self.last_id = 0
        self.client_ids = 0
        self.owners: dict[int, int] = {}
        self.expiries: dict[int, int] = {}
        self.switches: dict[int, int] = {}
        self.apply(configure(max_open_orders=1_000))
        for account_id in ACCOUNTS:
            self.transfer(account_id, USD, 90_000)
            self.transfer(account_id, BTC, 90)

    # ------------------------------------------------------------ helpers

    def new_naive(self) -> NaiveExchange:
        return NaiveExchange()

    def apply(self, command: c.Command) -> list[e.Event]:
        self.log.append((command, self.now_ns))
        before = self.exchange.state_hash()
        events = self.exchange.apply(command, self.now_ns)
        if isinstance(events[0], e.CommandRefused):
            assert len(events) == 1
            assert self.exchange.state_hash() == before
        return events

    def refused(self, events: list[e.Event], reason: Reason | None) -> bool:
        """Whether it was refused, which must be for the expected reason."""
        first = events[0]
        found = Reason(first.reason) if isinstance(first, e.CommandRefused) else None
        assert found == reason
        return found is not None

    def same_trades(self, events: list[e.Event], expected: list[NaiveTrade]) -> None:
        found = [
            NaiveTrade(t.price_ticks, t.quantity_lots, t.maker_order_id, t.taker_order_id)
            for t in events
            if isinstance(t, e.Trade)
        ]
        assert found == expected

    def crosses(self, order: NaiveOrder) -> bool:
        return bool(self.naive.book.crossing(order))

    def some_order(self, pick: int) -> NaiveOrder | None:
        orders = self.naive.book.orders
        return orders[pick % len(orders)] if orders else None

    # ------------------------------------------------------------ rules

    @rule(account_id=accounts, asset_id=st.sampled_from((USD, BTC)), units=st.integers(-30, 9))
    def transfer(self, account_id: int, asset_id: int, units: int) -> None:
        units = units * 1_000 if asset_id == USD else units
        usd, btc = self.naive.free(account_id)
        expected = None
        if units == 0:
            expected = Reason.AMOUNT_INVALID
        elif (usd if asset_id == USD else btc) + units < 0:
            expected = Reason.INSUFFICIENT_BALANCE
        self.transfers += 1
        command = c.Transfer(account_id, self.transfers, asset_id, units, 1)
        if not self.refused(self.apply(command), expected):
            money = self.naive.usd if asset_id == USD else self.naive.btc
            money[account_id] = money.get(account_id, 0) + units
            again = self.apply(command)[0]
            assert isinstance(again, e.CommandRepeated)
            assert again.transfer_id == self.transfers

    @rule(
        account_id=accounts,
        side=sides,
        quantity=lots,
        price=prices,
        time_in_force=times_in_force,
        mode=modes,
        post_only=st.booleans(),
        named=st.booleans(),
        display=st.sampled_from((0, 0, 0, 1, 2, 5)),
    )
    def limit(
        self,
        account_id: int,
        side: str,
        quantity: int,
        price: int,
        time_in_force: int,
        mode: int,
        post_only: bool,
        named: bool,
        display: int,
    ) -> None:
        rests = time_in_force in (k.TIME_IN_FORCE_GTC, k.TIME_IN_FORCE_GTD)
        post_only = post_only and rests
        display = display if rests else 0
        expire_ns = self.now_ns + 60 * SECOND if time_in_force == k.TIME_IN_FORCE_GTD else 0
        self.client_ids += 1
        command = place(
            account_id,
            side,
            quantity,
            price,
            time_in_force=time_in_force,
            self_trade_prevention=mode,
            post_only=post_only,
            display_quantity_lots=display,
            expire_ns=expire_ns,
            client_order_id=f"id-{self.client_ids}" if named else "",
        )
        order = NaiveOrder(
            self.last_id + 1, account_id, command.side, price, quantity, mode=mode or 1
        )
        order.display = display
        usd, btc = self.naive.free(account_id)
        expected = None
        if post_only and self.crosses(order):
            expected = Reason.POST_ONLY_WOULD_TRADE
        elif time_in_force == k.TIME_IN_FORCE_FOK and not self.naive.book.fillable(order):
            expected = Reason.FOK_NOT_FILLABLE
        elif (usd < hold(price, quantity)) if order.side == BUY else (btc < quantity):
            expected = Reason.INSUFFICIENT_BALANCE
        events = self.apply(command)
        if self.refused(events, expected):
            return
        self.take(order, events, rests)
        if rests and expire_ns and self.naive.book.find(order.order_id):
            self.expiries[order.order_id] = expire_ns
        if named:
            repeated = self.apply(command)[0]
            assert isinstance(repeated, e.CommandRepeated)
            assert repeated.order_id == order.order_id

    @rule(
        account_id=accounts,
        rows=st.lists(st.tuples(sides, lots, st.integers(0, 3)), min_size=2, max_size=6),
    )
    def quote(self, account_id: int, rows: list[tuple[str, int, int]]) -> None:
        """Several orders away from the other side, so that levels fill up."""
        for side, quantity, away in rows:
            price = 999 - away if side == "buy" else 1_001 + away
            self.limit(account_id, side, quantity, price, k.TIME_IN_FORCE_GTC, 0, False, False, 0)

    def take(self, order: NaiveOrder, events: list[e.Event], rests: bool) -> None:
        """Match an accepted order on the naive side and compare."""
        self.last_id = order.order_id
        self.owners[order.order_id] = order.account_id
        trades, prevented = self.naive.book.trade(order)
        self.naive.settle(trades, order, self.owners)
        rests = rests and not prevented and order.remaining > 0
        if rests:
            self.naive.book.rest(order)
        shown = order.shown
        self.same_trades(events, trades + self.naive.follow(trades, self.owners))
        placed = events[0]
        assert isinstance(placed, e.OrderPlaced)
        assert placed.order_id == order.order_id
        assert placed.rested_lots == (shown if rests else 0)

    @when_deep
    @rule(
        account_id=accounts,
        side=sides,
        quantity=lots,
        slippage=st.sampled_from((0, 1, 40)),
        mode=modes,
    )
    def market(self, account_id: int, side: str, quantity: int, slippage: int, mode: int) -> None:
        command = place(
            account_id, side, quantity, max_slippage_bps=slippage, self_trade_prevention=mode
        )
        best = self.best_for(command.side)
        price = protection(command.side, best, slippage)
        usd, btc = self.naive.free(account_id)
        expected = None
        if not best:
            expected = Reason.NO_LIQUIDITY
        elif (usd < hold(price, quantity)) if command.side == BUY else (btc < quantity):
            expected = Reason.INSUFFICIENT_BALANCE
        events = self.apply(command)
        if not self.refused(events, expected):
            order = NaiveOrder(
                self.last_id + 1, account_id, command.side, price, quantity, mode=mode or 1
            )
            self.take(order, events, rests=False)

    @when_deep
    @rule(account_id=accounts, side=sides, amount=st.integers(900, 15_000))
    def market_by_amount(self, account_id: int, side: str, amount: int) -> None:
        command = place(account_id, side, 0, quote_amount_units=amount)
        best = self.best_for(command.side)
        price = protection(command.side, best, 0)
        usd, btc = self.naive.free(account_id)
        taker = NaiveOrder(self.last_id + 1, account_id, command.side, price, 0)
        one_lot = best + (-(-best * 20 // 10_000) if side == "buy" else 0)
        expected = None
        if not best:
            expected = Reason.NO_LIQUIDITY
        elif side == "sell" and btc < amount // best:
            expected = Reason.INSUFFICIENT_BALANCE
        elif amount < one_lot:
            expected = Reason.QUANTITY_TOO_SMALL
        elif side == "buy" and usd < amount:
            expected = Reason.INSUFFICIENT_BALANCE
        events = self.apply(command)
        if self.refused(events, expected):
            return
        self.last_id = taker.order_id
        most = btc if side == "sell" else 10**9
        trades = self.naive.trade_amount(taker, amount, most)
        self.naive.settle(trades, taker, self.owners)
        self.same_trades(events, trades + self.naive.follow(trades, self.owners))

    def best_for(self, side: int) -> int:
        other = self.naive.book.side(SELL if side == BUY else BUY)
        return other[0].price if other else 0

    @when_deep
    @rule(pick=st.integers(0, 1_000), by_stranger=st.booleans())
    def cancel(self, pick: int, by_stranger: bool) -> None:
        order = self.some_order(pick)
        if order is None:
            return
        account_id = order.account_id + (1 if by_stranger else 0)
        events = self.apply(c.CancelOrder(account_id, order.order_id))
        if not self.refused(events, Reason.ORDER_NOT_FOUND if by_stranger else None):
            assert self.naive.book.cancel(order.order_id)
            self.naive.end_pairs()
            again = self.apply(c.CancelOrder(account_id, order.order_id))
            assert self.refused(again, Reason.ORDER_ALREADY_CLOSED)

    @when_deep
    @rule(account_id=accounts, side=st.sampled_from((0, BUY, SELL)))
    def cancel_all(self, account_id: int, side: int) -> None:
        mine = [
            order.order_id
            for order in self.naive.live()
            if order.account_id == account_id and side in (0, order.side)
        ]
        events = self.apply(c.CancelAll(account_id, side=side))
        closed = [event.order_id for event in events if isinstance(event, e.OrderClosed)]
        assert closed == sorted(mine)
        for order_id in mine:
            self.naive.cancel(order_id)

    @rule(pick=st.integers(0, 1_000), change=st.integers(-4, 3), price=prices, same=st.booleans())
    def amend(self, pick: int, change: int, price: int, same: bool) -> None:
        order = self.some_order(pick)
        if order is None:
            return
        price = order.price if same else price
        quantity = max(order.filled + order.remaining + change, 0)
        total = quantity or order.filled + order.remaining
        keeps = price == order.price and total < order.filled + order.remaining
        post_only = self.exchange.open_orders(order.account_id)
        request = next(view for view in post_only if view.order_id == order.order_id).request
        moved = NaiveOrder(0, order.account_id, order.side, price, total - order.filled)
        usd, btc = self.naive.free(order.account_id)
        one, other = self.naive.hold_per_lot(order, price)
        needs = moved.remaining * one - order.remaining * (order.per_lot or hold(order.price, 1))
        expected = None
        if price == order.price and total == order.filled + order.remaining:
            expected = Reason.AMEND_CHANGES_NOTHING
        elif total <= order.filled:
            expected = Reason.AMEND_BELOW_FILLED
        elif other and total != order.filled + order.remaining:
            expected = Reason.UNSUPPORTED
        elif not keeps and request.post_only and self.crosses(moved):
            expected = Reason.POST_ONLY_WOULD_TRADE
        elif (usd < needs) if order.side == BUY else (btc < moved.remaining - order.remaining):
            expected = Reason.INSUFFICIENT_BALANCE
        events = self.apply(c.AmendOrder(order.account_id, order.order_id, "", price, quantity))
        if self.refused(events, expected):
            return
        order.price, order.remaining = price, moved.remaining
        order.per_lot = one if other else 0
        if keeps:
            order.shown = min(order.shown, order.remaining)
            return
        self.naive.book.orders.remove(order)
        trades, prevented = self.naive.book.trade(order)
        self.naive.settle(trades, order, self.owners)
        if order.remaining and not prevented:
            self.naive.book.rest(order)
        self.same_trades(events, trades + self.naive.follow(trades, self.owners))

    @rule(account_id=accounts, seconds=st.integers(0, 60))
    def cancel_all_after(self, account_id: int, seconds: int) -> None:
        at_ns = seconds and self.now_ns + seconds * SECOND
        events = self.apply(c.CancelAllAfter(account_id, at_ns))
        assert events == [e.CancelAllAfterSet(account_id, at_ns)]
        self.switches.pop(account_id, None)
        if at_ns:
            self.switches[account_id] = at_ns

    @rule(seconds=st.integers(1, 40))
    def wait(self, seconds: int) -> None:
        self.now_ns += seconds * SECOND
        due = [
            order.order_id
            for order in self.naive.book.orders
            if 0 < self.expiries.get(order.order_id, 0) <= self.now_ns
        ]
        events = self.apply(c.Tick())
        fired = [who for who, at_ns in self.switches.items() if at_ns <= self.now_ns]
        silent = [
            order.order_id
            for order in self.naive.live()
            if order.account_id in fired and order.order_id not in due
        ]
        closed = {o.order_id: o.status for o in events if isinstance(o, e.OrderClosed)}
        assert closed == {
            **dict.fromkeys(due, k.ORDER_STATUS_EXPIRED),
            **dict.fromkeys(silent, k.ORDER_STATUS_CANCELLED),
        }
        assert events[-1] == e.TimePassed(len(due))
        due += silent
        for who in fired:
            assert e.CancelAllAfterSet(who, 0) in events
            del self.switches[who]
        for order_id in due:
            self.naive.cancel(order_id)

    @rule()
    def restart(self) -> None:
        data = self.exchange.snapshot()
        self.snapshots.append((len(self.log), data))
        self.exchange = Exchange.restore(data)
        assert self.exchange.snapshot() == data

    # ------------------------------------------------------------ always

    @invariant()
    def same_books(self) -> None:
        if not hasattr(self, "exchange"):
            return
        self.exchange.check_invariants()
        view = self.exchange.book(MARKET)
        for side, levels in ((BUY, view.bids), (SELL, view.asks)):
            found = [
                (order.order_id, level.price_ticks, order.quantity_lots)
                for level in levels
                for order in level.orders
            ]
            naive = self.naive.book.side(side)
            assert found == [(order.order_id, order.price, order.shown) for order in naive]

    @invariant()
    def same_money(self) -> None:
        if not hasattr(self, "exchange"):
            return
        assert self.exchange.fees()[USD] == self.naive.fees
        for account_id in ACCOUNTS:
            balances = self.exchange.account(account_id)
            free, held = self.naive.free(account_id), self.naive.held(account_id)
            for index, asset_id in enumerate((USD, BTC)):
                balance = balances.get(asset_id)
                found = (balance.free_units, balance.held_units) if balance else (0, 0)
                assert found == (free[index], held[index])

    def teardown(self) -> None:
        """Replaying the log, from its start or from any snapshot, gives the same state."""
        if not hasattr(self, "exchange"):
            return
        for start, data in [(0, Exchange(window_entries=5).snapshot()), *self.snapshots[-3:]]:
            replayed = Exchange.restore(data)
            for command, now_ns in self.log[start:]:
                replayed.apply(command, now_ns)
            assert replayed.snapshot() == self.exchange.snapshot()


def protection(side: int, best: int, slippage: int) -> int:
    bps = slippage or 500
    if side == BUY:
        return best * (10_000 + bps) // 10_000
    return -(-best * (10_000 - bps) // 10_000)


TestAgainstNaive = AgainstNaive.TestCase
TestAgainstNaive.settings = settings(
    max_examples=250,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
