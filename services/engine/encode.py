"""What the engine knows -> public messages: orders, fills, balances, markets and answers.

An answer is made from a command's events and the read model right after it, as
`submission.Submission` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tidebook.common.v1.reason_pb2 import Reason as ReasonValue
from tidebook.engine.v1 import market_pb2, order_pb2, types_pb2

from kernel.markets import Asset, Market
from kernel.reasons import Reason, Refused
from services.engine import compiled
from services.engine.codec import MarketTexts, set_time, write_error
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain import events as e
from services.engine.domain import position_commands as pc
from services.engine.domain import position_events as pe
from services.engine.domain.bands import price_band
from services.engine.projection import Balance, OrderState, Projection
from services.engine.submission import Outcome
from services.engine.texts import MarketText

_KINDS = {
    "SPOT": types_pb2.MARKET_KIND_SPOT,
    "MARGIN": types_pb2.MARKET_KIND_MARGIN,
    "CFD": types_pb2.MARKET_KIND_CFD,
}
# Fields of the log's commands -> those of the requests they came from.
_PUBLIC_FIELDS = {
    "amount_units": "amount",
    "deadline_ns": "deadline",
    "display_quantity_lots": "display_quantity",
    "expire_ns": "expire_time",
    "margin_units": "margin",
    "market_id": "market",
    "price_ticks": "price",
    "quantity_lots": "quantity",
    "quote_amount_units": "quote_amount",
    "stop_loss_ticks": "stop_loss",
    "take_profit_ticks": "take_profit",
    "trigger_price_ticks": "trigger_price",
}
# What to tell with a refusal, so that the next order can be right.
_LIMITS: dict[Reason, tuple[str, Callable[[Market], str]]] = {
    Reason.PRICE_OUT_OF_RANGE: ("max_price", lambda m: m.format_price(m.max_price_ticks)),
    Reason.QUANTITY_TOO_SMALL: ("min_quantity", lambda m: m.format_quantity(m.min_quantity_lots)),
    Reason.QUANTITY_TOO_LARGE: ("max_quantity", lambda m: m.format_quantity(m.max_quantity_lots)),
    Reason.NOTIONAL_TOO_SMALL: ("min_notional", lambda m: m.quote.format(m.min_notional_units)),
    Reason.NOTIONAL_TOO_LARGE: ("max_notional", lambda m: m.quote.format(m.max_notional_units)),
    Reason.LEVERAGE_OUT_OF_RANGE: ("max_leverage", lambda m: str(m.max_leverage)),
    Reason.TOO_MANY_OPEN_ORDERS: ("max_open_orders", lambda m: str(m.max_open_orders)),
}


class Encoder:
    """Encodes against one read model."""

    def __init__(self, projection: Projection, texts: MarketTexts) -> None:
        self._projection = projection
        self._texts = texts
        self._result_bytes: Callable[..., bytes | None] | None = None
        if compiled.is_compiled():
            from services.engine.wire_answers import result_bytes

            self._result_bytes = result_bytes

    @property
    def projection(self) -> Projection:
        """The read model."""
        return self._projection

    @property
    def texts(self) -> MarketTexts:
        """The markets' decimal strings."""
        return self._texts

    def order(self, order: OrderState) -> order_pb2.Order:
        """An order as it is now."""
        text = self._texts.by_id[order.market_id]
        request = order.request
        quote_amount = request.quote_amount_units
        # Without a limit of its own, the protection price is nobody's business.
        has_price = request.price_ticks > 0
        message = order_pb2.Order(
            order_id=order.order_id,
            client_order_id=request.client_order_id,
            market=text.market.name,
            side=types_pb2.Side.ValueType(request.side),
            type=types_pb2.OrderType.ValueType(request.type),
            time_in_force=_time_in_force(request),
            status=types_pb2.OrderStatus.ValueType(order.status),
            price=text.price(order.price_ticks) if has_price else "",
            quantity="" if quote_amount else text.quantity(order.quantity_lots),
            quote_amount=text.amount(quote_amount) if quote_amount else "",
            filled_quantity=text.quantity(order.filled_lots),
            filled_notional=text.amount(order.filled_notional_units),
            fees=text.amount(order.fees_units),
            post_only=request.post_only,
            reduce_only=request.reduce_only,
            trigger_price=text.price(order.trigger_price_ticks),
            trigger_source=_trigger_source(request),
            trailing_bps=request.trailing_bps,
            oco_order_id=order.oco_order_id,
            close_reason=ReasonValue.ValueType(order.close_reason),
            log_seq=order.log_seq,
            self_trade_prevention=types_pb2.SelfTradePrevention.ValueType(
                request.self_trade_prevention or k.SELF_TRADE_PREVENTION_CANCEL_TAKER
            ),
        )
        if request.display_quantity_lots:
            message.display_quantity = text.quantity(request.display_quantity_lots)
        set_time(message.create_time, order.created_ns)
        set_time(message.update_time, order.updated_ns)
        if request.expire_ns:
            set_time(message.expire_time, request.expire_ns)
        return message

    def orders(self, orders: Iterable[OrderState]) -> list[order_pb2.Order]:
        """Several orders."""
        return [self.order(order) for order in orders]

    def fill(self, trade: e.Trade, account_id: int, seq: int, time_ns: int) -> order_pb2.Fill:
        """A trade as one of its two accounts sees it."""
        text = self._texts.by_id[trade.market_id]
        maker = trade.maker_account_id == account_id
        side = trade.taker_side
        if maker:
            side = k.SIDE_SELL if side == k.SIDE_BUY else k.SIDE_BUY
        message = order_pb2.Fill(
            trade_id=trade.trade_id,
            order_id=trade.maker_order_id if maker else trade.taker_order_id,
            market=text.market.name,
            side=types_pb2.Side.ValueType(side),
            price=text.price(trade.price_ticks),
            quantity=text.quantity(trade.quantity_lots),
            notional=text.amount(trade.notional_units),
            fee=text.amount(trade.maker_fee_units if maker else trade.taker_fee_units),
            maker=maker,
            log_seq=seq,
        )
        set_time(message.time, time_ns)
        return message

    def balances(
        self, balances: dict[int, Balance], asset_ids: Iterable[int]
    ) -> list[order_pb2.Balance]:
        """The balances of some assets, by asset id."""
        assets = self._projection.assets
        return [
            order_pb2.Balance(
                asset=assets[asset_id].code,
                free=assets[asset_id].format(balances[asset_id].free_units),
                held=assets[asset_id].format(balances[asset_id].held_units),
            )
            for asset_id in sorted(asset_ids)
        ]

    def market(self, market: Market) -> market_pb2.Market:
        """A market's rules and status."""
        base, quote = market.base, market.quote
        status = self._projection.market_status[market.market_id]
        return market_pb2.Market(
            market=market.name,
            kind=_KINDS[market.kind],
            status=types_pb2.MarketStatus.ValueType(status),
            base_asset=base.code,
            quote_asset=quote.code,
            tick_size=market.tick_size,
            lot_size=market.lot_size,
            min_quantity=market.format_quantity(market.min_quantity_lots),
            max_quantity=market.format_quantity(market.max_quantity_lots),
            min_notional=quote.format(market.min_notional_units),
            max_notional=quote.format(market.max_notional_units),
            max_price=market.format_price(market.max_price_ticks),
            maker_fee_bps=market.maker_fee_bps,
            taker_fee_bps=market.taker_fee_bps,
            max_open_orders=market.max_open_orders,
            max_leverage=market.max_leverage,
            margin_tiers=[
                market_pb2.MarginTier(
                    from_notional=quote.format(tier.from_notional_units),
                    maintenance_bps=tier.maintenance_bps,
                    max_leverage=tier.max_leverage,
                )
                for tier in market.margin_tiers
            ],
            liquidation_fee_bps=market.liquidation_fee_bps,
            price_stale_ms=market.price_stale_ns // 1_000_000,
            price_band_bps=market.price_band_bps,
            max_exposure=quote.format(market.max_exposure_units)
            if market.max_exposure_units
            else "",
            market_id=market.market_id,
            shard=self._texts.shard,
            endpoints=self._texts.shards.endpoints.get(self._texts.shard, ()),
        )

    @staticmethod
    def asset(asset: Asset) -> market_pb2.Asset:
        """An asset."""
        return market_pb2.Asset(
            code=asset.code, decimals=asset.decimals, transfer_decimals=asset.transfer_decimals
        )

    # ------------------------------------------------------------ answers

    def refusal(self, command: c.Command | None, outcome: Outcome) -> Refused | None:
        """Why a command was refused, with the limit it broke; None if it was not."""
        if isinstance(outcome, Refused):
            return outcome
        first = outcome[0]
        if not isinstance(first, e.CommandRefused):
            return None
        refused = _refusal(first)
        if refused.reason is Reason.ORDER_NOT_FOUND and isinstance(
            command, c.CancelOrder | c.AmendOrder
        ):
            return self._texts.not_found(command.order_id) if command.order_id else refused
        market_id = self._market_of(command)
        limits = self._limits(refused.reason, market_id) if market_id in self._texts.by_id else {}
        refused.details.update(limits)
        if limits:
            said = ", ".join(f"{name} is {text}" for name, text in limits.items())
            refused.message += f": {said}"
        return refused

    def _market_of(self, command: c.Command | None) -> int:
        """The market whose rules a command was held to; 0 if that is not known."""
        if isinstance(command, c.PlaceOco):
            return command.first.market_id
        if isinstance(command, c.AmendOrder):
            order = self._projection.order_of(command.account_id, command.order_id)
            return 0 if order is None else order.market_id
        named = (c.PlaceOrder, pc.OpenCfd, pc.SetLeverage)
        return command.market_id if isinstance(command, named) else 0

    def _limits(self, reason: Reason, market_id: int) -> dict[str, str]:
        """What the next order has to keep to."""
        market = self._texts.by_id[market_id].market
        limit = _LIMITS.get(reason)
        if limit is not None:
            name, value = limit
            return {name: value(market)}
        price = self._projection.cfds.prices.get(market_id)
        if reason is not Reason.PRICE_OUTSIDE_BAND or price is None:
            return {}
        lowest, highest = price_band(
            price.index_ticks, market.price_band_bps, market.max_price_ticks
        )
        return {
            "min_price": market.format_price(lowest),
            "max_price": market.format_price(highest),
        }

    def placed(self, events: Sequence[e.Event]) -> order_pb2.PlaceOrderResponse:
        """Answer of an accepted, or repeated, `PlaceOrder`."""
        first = events[0]
        if isinstance(first, e.CommandRepeated):
            order = self._projection.orders.get(first.order_id)
            return order_pb2.PlaceOrderResponse(
                # A very old one is only known by its number here; history has the rest.
                order=self.order(order) if order else order_pb2.Order(order_id=first.order_id),
                repeated=True,
            )
        order = self._order_of(events)
        return order_pb2.PlaceOrderResponse(
            order=self.order(order), fills=self._taker_fills(order, events)
        )

    def pair_placed(self, events: Sequence[e.Event]) -> order_pb2.PlaceOcoResponse:
        """Answer of an accepted, or repeated, `PlaceOco`."""
        first = events[0]
        repeated = isinstance(first, e.CommandRepeated)
        assert isinstance(first, e.OrderPlaced | e.CommandRepeated)
        orders = self._projection.orders
        one = orders.get(first.order_id)
        if one is None:
            # A very old one is only known by its number here; history has the rest.
            return order_pb2.PlaceOcoResponse(
                first=order_pb2.Order(order_id=first.order_id), repeated=True
            )
        two = orders.get(one.oco_order_id)
        return order_pb2.PlaceOcoResponse(
            first=self.order(one),
            second=self.order(two) if two else order_pb2.Order(order_id=one.oco_order_id),
            fills=[] if repeated else self._taker_fills(one, events),
            repeated=repeated,
        )

    def amended(self, events: Sequence[e.Event]) -> order_pb2.AmendOrderResponse:
        """Answer of `AmendOrder`."""
        order = self._order_of(events)
        return order_pb2.AmendOrderResponse(
            order=self.order(order), fills=self._taker_fills(order, events)
        )

    def cancelled(self, events: Sequence[e.Event]) -> order_pb2.CancelOrderResponse:
        """Answer of `CancelOrder`."""
        return order_pb2.CancelOrderResponse(order=self.order(self._order_of(events)))

    @staticmethod
    def all_cancelled(events: Sequence[e.Event]) -> order_pb2.CancelAllOrdersResponse:
        """Answer of `CancelAllOrders`."""
        last = events[-1]
        assert isinstance(last, e.OrdersCancelled)
        return order_pb2.CancelAllOrdersResponse(cancelled=last.count)

    @staticmethod
    def cancel_all_after_set(events: Sequence[e.Event]) -> order_pb2.CancelAllAfterResponse:
        """Answer of `CancelAllAfter`."""
        event = events[-1]
        assert isinstance(event, e.CancelAllAfterSet)
        response = order_pb2.CancelAllAfterResponse()
        if event.at_ns:
            response.cancel_time.FromNanoseconds(event.at_ns)
        return response

    def write_result(
        self,
        result: order_pb2.TradeResult,
        request_id: int,
        command: c.Command | None,
        outcome: Outcome,
    ) -> None:
        """Write the result of one command of a batch or stream, in full."""
        if self._result_bytes is not None and not isinstance(outcome, Refused):
            written = self._result_bytes(
                request_id, command, outcome, self._projection, self._texts.by_id
            )
            if written is not None:
                result.MergeFromString(written)
                return
        result.request_id = request_id
        refused = self.refusal(command, outcome)
        if refused is not None:
            write_error(result.error, refused)
            return
        assert not isinstance(outcome, Refused)
        if isinstance(command, c.PlaceOrder):
            result.placed.CopyFrom(self.placed(outcome))
        elif isinstance(command, c.CancelOrder):
            result.cancelled.CopyFrom(self.cancelled(outcome))
        elif isinstance(command, c.AmendOrder):
            result.amended.CopyFrom(self.amended(outcome))
        else:
            result.all_cancelled.CopyFrom(self.all_cancelled(outcome))

    def write_brief(
        self,
        result: order_pb2.TradeResult,
        request_id: int,
        command: c.Command | None,
        outcome: Outcome,
    ) -> None:
        """Write the result of one command of a stream, in brief.

        Field by field into the message that is sent: constructors and copies cost three times that.
        """
        if isinstance(outcome, Refused) or isinstance(command, c.CancelAll):
            self.write_result(result, request_id, command, outcome)
            return
        first = outcome[0]
        if isinstance(first, e.CommandRefused):
            self.write_result(result, request_id, command, outcome)
            return
        result.request_id = request_id
        brief = result.brief
        if isinstance(first, e.CommandRepeated):
            brief.order_id = first.order_id
            known = self._projection.orders.get(first.order_id)
            if known is not None:
                brief.status = types_pb2.OrderStatus.ValueType(known.status)
            return
        order = self._order_of(outcome)
        brief.order_id = order.order_id
        brief.status = types_pb2.OrderStatus.ValueType(order.status)
        if len(outcome) > 1:
            lots, units = _taken(order.order_id, outcome)
            if lots:
                text = self._texts.by_id[order.market_id]
                brief.filled_quantity = text.quantity(lots)
                brief.filled_notional = text.amount(units)

    def _order_of(self, events: Sequence[e.Event]) -> OrderState:
        """The order that a command was about: the first one its events name."""
        first = events[0]
        assert isinstance(first, e.OrderPlaced | e.OrderAmended | e.OrderClosed)
        return self._projection.orders[first.order_id]

    def _taker_fills(self, order: OrderState, events: Sequence[e.Event]) -> list[order_pb2.Fill]:
        projection = self._projection
        return [
            self.fill(event, order.account_id, projection.seq, projection.time_ns)
            for event in events
            if isinstance(event, e.Trade) and event.taker_order_id == order.order_id
        ]


def accepted(events: Sequence[e.Event]) -> Sequence[e.Event]:
    """The events of a command that was not refused; raises `Refused` if it was."""
    first = events[0]
    if isinstance(first, e.CommandRefused):
        raise _refusal(first)
    return events


def _refusal(event: e.CommandRefused) -> Refused:
    # Of a pair, a field begins with the order that it is of.
    order, dot, name = event.field.rpartition(".")
    return Refused(Reason(event.reason), field=order + dot + _PUBLIC_FIELDS.get(name, name))


def preview(text: MarketText, events: Sequence[e.Event]) -> order_pb2.PreviewOrderResponse:
    """What the events of a trial run say about an order. Raises `Refused` if it was refused."""
    placed = accepted(events)[0]
    assert isinstance(placed, e.OrderPlaced)
    lots, units = _taken(placed.order_id, events)
    hold = placed.hold_units
    fees = 0
    for event in events:
        if isinstance(event, e.Trade) and event.taker_order_id == placed.order_id:
            fees += event.taker_fee_units
            buys = event.taker_side == k.SIDE_BUY
            hold -= event.quote_hold_taken if buys else event.base_units
        elif (
            isinstance(event, e.OrderClosed | pe.PositionChanged)
            and event.order_id == placed.order_id
        ):
            hold -= event.hold_released
    market = text.market
    held_asset = market.quote if placed.hold_asset_id == market.quote.asset_id else market.base
    return order_pb2.PreviewOrderResponse(
        filled_quantity=text.quantity(lots),
        filled_notional=text.amount(units),
        fees=text.amount(fees),
        rested_quantity=text.quantity(placed.rested_lots),
        hold=held_asset.format(hold),
        hold_asset=held_asset.code,
    )


def _taken(order_id: int, events: Iterable[e.Event]) -> tuple[int, int]:
    """(lots, quote units) that an order traded as taker."""
    lots = units = 0
    for event in events:
        if isinstance(event, e.Trade) and event.taker_order_id == order_id:
            lots += event.quantity_lots
            units += event.notional_units
    return lots, units


def _time_in_force(request: c.PlaceOrder) -> types_pb2.TimeInForce.ValueType:
    if request.time_in_force:
        return types_pb2.TimeInForce.ValueType(request.time_in_force)
    if request.type == k.ORDER_TYPE_MARKET:
        return types_pb2.TIME_IN_FORCE_IOC
    return types_pb2.TIME_IN_FORCE_GTC


def _trigger_source(request: c.PlaceOrder) -> types_pb2.TriggerSource.ValueType:
    if request.type <= k.ORDER_TYPE_MARKET:
        return types_pb2.TRIGGER_SOURCE_UNSPECIFIED
    return types_pb2.TriggerSource.ValueType(request.trigger_source or k.TRIGGER_SOURCE_LAST)
