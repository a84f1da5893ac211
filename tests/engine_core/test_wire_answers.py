"""Answers written as bytes are those that their messages give."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tidebook.engine.v1 import order_pb2, types_pb2

from kernel.markets import default_markets
from kernel.reasons import Reason
from services.engine.codec import MarketTexts
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain import events as e
from services.engine.domain.record import field_names
from services.engine.encode import Encoder
from services.engine.projection import OrderState, Projection
from services.engine.wire_answers import result_bytes

MARKET = default_markets()[0]
AMOUNTS = st.one_of(st.just(0), st.integers(0, 10**6), st.integers(0, 2**63 - 1))
TIMES = st.integers(0, 2**62)
IDS = st.one_of(st.integers(1, 10**6), st.integers(1, 2**64 - 1))


def numbers(enum: object) -> st.SearchStrategy[int]:
    return st.sampled_from([value.number for value in enum.DESCRIPTOR.values])  # type: ignore[attr-defined]


REQUESTS = st.builds(
    c.PlaceOrder,
    account_id=st.just(1),
    market_id=st.just(MARKET.market_id),
    client_order_id=st.sampled_from(["", "a", "x" * 36]),
    side=st.sampled_from([k.SIDE_BUY, k.SIDE_SELL]),
    type=st.sampled_from([v.number for v in types_pb2.OrderType.DESCRIPTOR.values][1:]),
    time_in_force=numbers(types_pb2.TimeInForce),
    price_ticks=AMOUNTS,
    quantity_lots=AMOUNTS,
    quote_amount_units=AMOUNTS,
    post_only=st.booleans(),
    reduce_only=st.booleans(),
    display_quantity_lots=AMOUNTS,
    self_trade_prevention=numbers(types_pb2.SelfTradePrevention),
    expire_ns=TIMES,
    trigger_source=numbers(types_pb2.TriggerSource),
    trailing_bps=st.integers(0, 10_000),
)
ORDERS = st.builds(
    OrderState,
    account_id=st.just(1),
    close_reason=st.sampled_from(list(map(int, Reason))),
    created_ns=TIMES,
    fees_units=st.one_of(AMOUNTS, st.integers(-(2**63), 0)),
    filled_lots=AMOUNTS,
    filled_notional_units=AMOUNTS,
    log_seq=AMOUNTS,
    market_id=st.just(MARKET.market_id),
    oco_order_id=st.one_of(st.just(0), IDS),
    order_id=IDS,
    price_ticks=AMOUNTS,
    quantity_lots=AMOUNTS,
    status=numbers(types_pb2.OrderStatus),
    trigger_price_ticks=AMOUNTS,
    updated_ns=TIMES,
    request=REQUESTS,
)


def trade(taker_order_id: int, side: int, units: int) -> e.Trade:
    return e.Trade(
        trade_id=units + 1,
        market_id=MARKET.market_id,
        price_ticks=units,
        quantity_lots=units,
        taker_side=side,
        maker_order_id=7,
        maker_account_id=2,
        taker_order_id=taker_order_id,
        taker_account_id=1,
        maker_fee_units=-units,
        taker_fee_units=units,
        quote_hold_taken=units,
        notional_units=units,
        base_units=units,
    )


def event_of(kind: type[e.Event], order_id: int) -> e.Event:
    """An event about an order, otherwise of zeros."""
    others = {"order_id": order_id, "field": "", "lost_priority": False}
    return kind(**{name: others.get(name, 0) for name in field_names(kind)})


@settings(max_examples=150, deadline=None)
@given(ORDERS, IDS, st.lists(AMOUNTS.filter(lambda units: units < 2**63 - 1), max_size=3), TIMES)
def test_an_answer_in_bytes_is_the_message(
    order: OrderState, request_id: int, fills: list[int], time_ns: int
) -> None:
    projection, texts = Projection(), MarketTexts()
    projection.seq, projection.time_ns = 12, time_ns
    projection.orders[order.order_id] = order
    texts.replace({MARKET.market_id: MARKET})
    encoder = Encoder(projection, texts)
    # Another's trade in the same entry is not this order's fill.
    traded = [trade(order.order_id, order.request.side, units) for units in fills]
    placed = [event_of(e.OrderPlaced, order.order_id), *traded, trade(3, 1, 5)]
    closed = [event_of(e.OrderClosed, order.order_id)]
    cancel = c.CancelOrder(1, order.order_id)
    expected = [
        order_pb2.TradeResult(request_id=request_id, placed=encoder.placed(placed)),
        order_pb2.TradeResult(request_id=request_id, cancelled=encoder.cancelled(closed)),
    ]
    written = [
        result_bytes(request_id, order.request, placed, projection, texts.by_id),
        result_bytes(request_id, cancel, closed, projection, texts.by_id),
    ]
    ids = (request_id, order.order_id, order.oco_order_id)
    for message, data in zip(expected, written, strict=True):
        # An id with the highest of 64 bits may be left to the messages.
        if data is not None or max(ids) < 1 << 63:
            assert data == message.SerializeToString(deterministic=True)


def test_all_other_answers_are_left_to_their_messages() -> None:
    projection, texts = Projection(), MarketTexts()
    place = c.PlaceOrder(1, MARKET.market_id)
    others: list[tuple[c.Command, type[e.Event]]] = [
        (place, e.CommandRefused),
        (place, e.CommandRepeated),
        (c.PlaceOco(1, place, place), e.OrderPlaced),
        (c.AmendOrder(1, 1), e.OrderAmended),
        (c.CancelAll(1), e.OrderClosed),
    ]
    for command, kind in others:
        assert result_bytes(1, command, [event_of(kind, 1)], projection, texts.by_id) is None
