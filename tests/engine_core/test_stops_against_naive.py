"""All order types beside the naive exchange: what waits for a price, pairs, trails and prices."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from kernel.reasons import Reason
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from tests.engine_core.naive import BUY, NaiveExchange, NaiveOrder
from tests.engine_core.naive_stops import (
    NaivePair,
    NaiveStop,
    NaiveWithStops,
    per_lot,
    protection,
    trailed,
)
from tests.engine_core.test_against_naive import (
    AgainstNaive,
    accounts,
    lots,
    modes,
    prices,
    sides,
)
from tests.engine_core.world import MARKET, place

STOPS = (k.ORDER_TYPE_STOP_MARKET, k.ORDER_TYPE_STOP_LIMIT)
TAKES = (k.ORDER_TYPE_TAKE_PROFIT_MARKET, k.ORDER_TYPE_TAKE_PROFIT_LIMIT)
LIMITS = (k.ORDER_TYPE_STOP_LIMIT, k.ORDER_TYPE_TAKE_PROFIT_LIMIT)
when_waiting = precondition(lambda self: bool(self.naive.stops))
times_in_force = st.sampled_from((0, 0, k.TIME_IN_FORCE_IOC, k.TIME_IN_FORCE_FOK))


class StopsAgainstNaive(AgainstNaive):
    naive: NaiveWithStops

    def new_naive(self) -> NaiveExchange:
        return NaiveWithStops()

    # ------------------------------------------------------------ helpers

    def stop_of(
        self, account_id: int, order_id: int, command: c.PlaceOrder
    ) -> tuple[NaiveStop, bool]:
        """The stop that a command would make, and whether its price is reached already."""
        kind, side = command.type, command.side
        mark = command.trigger_source == k.TRIGGER_SOURCE_MARK
        watched = self.naive.watched(mark)
        trailing = command.trailing_bps
        trigger = trailed(side, watched, trailing) if trailing else command.trigger_price_ticks
        order = NaiveOrder(
            order_id,
            account_id,
            side,
            0,
            command.quantity_lots,
            mode=command.self_trade_prevention or 1,
        )
        stop = NaiveStop(
            order=order,
            rises=(kind in TAKES) == (side != BUY),
            trigger=trigger,
            mark=mark,
            limit=command.price_ticks,
            slippage=command.max_slippage_bps,
            trailing=trailing,
            extreme=watched,
            time_in_force=command.time_in_force,
            post_only=command.post_only,
        )
        order.price = stop.protection()
        order.display = command.display_quantity_lots
        reached = watched >= trigger if stop.rises else watched <= trigger
        return stop, bool(watched) and reached

    def cannot_hold(self, order: NaiveOrder, units_per_lot: int) -> bool:
        usd, btc = self.naive.free(order.account_id)
        if order.side == BUY:
            return usd < order.remaining * units_per_lot
        return btc < order.remaining

    # ------------------------------------------------------------ rules

    @rule(
        account_id=accounts,
        side=sides,
        kind=st.sampled_from((*STOPS, *TAKES)),
        quantity=lots,
        trigger=prices,
        price=prices,
        mark=st.booleans(),
        mode=modes,
        time_in_force=times_in_force,
        slippage=st.sampled_from((0, 10, 40)),
        post_only=st.booleans(),
        display=st.sampled_from((0, 0, 2)),
    )
    def stop(
        self,
        account_id: int,
        side: str,
        kind: int,
        quantity: int,
        trigger: int,
        price: int,
        mark: bool,
        mode: int,
        time_in_force: int,
        slippage: int,
        post_only: bool,
        display: int,
    ) -> None:
        fields: dict[str, Any] = {"max_slippage_bps": slippage}
        if kind in LIMITS:
            rests = not time_in_force
            fields = {"price_ticks": price, "post_only": post_only and rests}
            fields["display_quantity_lots"] = display if rests else 0
        command = place(
            account_id,
            side,
            quantity,
            type=kind,
            trigger_price_ticks=trigger,
            trigger_source=k.TRIGGER_SOURCE_MARK if mark else 0,
            self_trade_prevention=mode,
            time_in_force=time_in_force,
            **fields,
        )
        self.wait_for(account_id, command)

    @rule(
        account_id=accounts,
        side=sides,
        quantity=lots,
        bps=st.sampled_from((5, 20, 40)),
        mark=st.booleans(),
    )
    def trail(self, account_id: int, side: str, quantity: int, bps: int, mark: bool) -> None:
        command = place(
            account_id,
            side,
            quantity,
            type=k.ORDER_TYPE_TRAILING_STOP,
            trailing_bps=bps,
            trigger_source=k.TRIGGER_SOURCE_MARK if mark else k.TRIGGER_SOURCE_LAST,
        )
        if self.naive.watched(mark):
            self.wait_for(account_id, command)
        else:
            assert self.refused(self.apply(command), Reason.PRICE_STALE)

    def wait_for(self, account_id: int, command: c.PlaceOrder) -> None:
        stop, reached = self.stop_of(account_id, self.last_id + 1, command)
        expected = None
        if reached:
            expected = Reason.TRIGGER_ON_WRONG_SIDE
        elif self.cannot_hold(stop.order, per_lot(stop.order.price)):
            expected = Reason.INSUFFICIENT_BALANCE
        events = self.apply(command)
        if not self.refused(events, expected):
            self.last_id += 1
            self.owners[self.last_id] = account_id
            self.naive.stops.append(stop)
            self.same_trades(events, [])

    @rule(
        account_id=accounts,
        side=sides,
        quantity=lots,
        price=prices,
        take=st.booleans(),
        away=st.integers(1, 6),
        limit=st.booleans(),
        mark=st.booleans(),
    )
    def pair(
        self,
        account_id: int,
        side: str,
        quantity: int,
        price: int,
        take: bool,
        away: int,
        limit: bool,
        mark: bool,
    ) -> None:
        trigger = price + away if side == "buy" else price - away
        first = place(0, side, quantity, price)
        if take:
            first.type, first.trigger_price_ticks = k.ORDER_TYPE_TAKE_PROFIT_LIMIT, price
        second = place(
            0,
            side,
            quantity,
            type=k.ORDER_TYPE_STOP_LIMIT if limit else k.ORDER_TYPE_STOP_MARKET,
            price_ticks=trigger if limit else 0,
            trigger_price_ticks=trigger,
            trigger_source=k.TRIGGER_SOURCE_MARK if mark else 0,
        )
        stop, reached = self.stop_of(account_id, self.last_id + 2, second)
        if take:
            waiting, first_reached = self.stop_of(account_id, self.last_id + 1, first)
            order, reached = waiting.order, reached or first_reached
        else:
            order = NaiveOrder(self.last_id + 1, account_id, first.side, price, quantity)
        dearer = max(per_lot(order.price), per_lot(stop.order.price))
        expected = None
        if reached:
            expected = Reason.TRIGGER_ON_WRONG_SIDE
        elif self.cannot_hold(order, dearer):
            expected = Reason.INSUFFICIENT_BALANCE
        events = self.apply(c.PlaceOco(account_id, first, second))
        if self.refused(events, expected):
            return
        order.per_lot = dearer
        naive = self.naive
        naive.pairs.append(NaivePair(order, quantity, stop))
        naive.stops.append(stop)
        self.owners[order.order_id] = self.owners[stop.order.order_id] = account_id
        self.last_id += 2
        if take:
            naive.stops.append(waiting)
            self.same_trades(events, [])
            return
        trades, prevented = naive.book.trade(order)
        naive.settle(trades, order, self.owners)
        if order.remaining and not prevented:
            naive.book.rest(order)
        self.same_trades(events, trades + naive.follow(trades, self.owners))

    @rule(index=prices)
    def set_index(self, index: int) -> None:
        self.naive.index = index
        price = c.PriceUpdate(MARKET, 0, 0, index, self.now_ns)
        events = self.apply(c.SetPrices(prices=(price,)))
        self.same_trades(events, self.naive.follow([], self.owners, priced=True))

    @when_waiting
    @rule(pick=st.integers(0, 1_000))
    def cancel_stop(self, pick: int) -> None:
        order = self.naive.stops[pick % len(self.naive.stops)].order
        events = self.apply(c.CancelOrder(order.account_id, order.order_id))
        assert not self.refused(events, None)
        self.naive.cancel(order.order_id)

    @when_waiting
    @rule(pick=st.integers(0, 1_000), quantity=lots, trigger=prices)
    def amend_stop(self, pick: int, quantity: int, trigger: int) -> None:
        stop = self.naive.stops[pick % len(self.naive.stops)]
        if stop.trailing:
            return
        order, naive = stop.order, self.naive
        pairs = [pair for pair in naive.pairs if order in (pair.first, pair.second.order)]
        quantity = order.remaining if pairs else quantity
        watched = naive.watched(stop.mark)
        reached = bool(watched) and (watched >= trigger if stop.rises else watched <= trigger)
        price = stop.limit or protection(order.side, trigger, stop.slippage)
        one = per_lot(price)
        holder = order
        if pairs:
            holder = pairs[0].first
            other = pairs[0].second.order if holder is order else holder
            one = max(one, per_lot(other.price))
        usd, btc = naive.free(order.account_id)
        before = order.remaining * (holder.per_lot or per_lot(holder.price))
        expected = None
        if trigger == stop.trigger and quantity == order.remaining:
            expected = Reason.AMEND_CHANGES_NOTHING
        elif trigger != stop.trigger and reached:
            expected = Reason.TRIGGER_ON_WRONG_SIDE
        elif order.side == BUY:
            if usd < quantity * one - before:
                expected = Reason.INSUFFICIENT_BALANCE
        elif btc < quantity - order.remaining:
            expected = Reason.INSUFFICIENT_BALANCE
        command = c.AmendOrder(order.account_id, order.order_id, "", 0, quantity, trigger)
        events = self.apply(command)
        if self.refused(events, expected):
            return
        stop.trigger, order.price, order.remaining = trigger, price, quantity
        if pairs:
            holder.per_lot = one
            pairs[0].quantity = quantity

    # ------------------------------------------------------------ always

    @invariant()
    def same_stops(self) -> None:
        if not hasattr(self, "exchange"):
            return
        found = {
            view.order_id: view.trigger_price_ticks
            for account_id in (11, 12, 13)
            for view in self.exchange.open_orders(account_id)
            if view.status == k.ORDER_STATUS_UNTRIGGERED
        }
        assert found == {stop.order.order_id: stop.trigger for stop in self.naive.stops}
        for pair in self.naive.pairs:
            first = self.exchange.order(pair.first.order_id)
            assert first is not None and first.oco_order_id == pair.second.order.order_id


TestStopsAgainstNaive = StopsAgainstNaive.TestCase
TestStopsAgainstNaive.settings = settings(
    max_examples=150,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
