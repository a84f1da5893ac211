"""What is wrong with a request is said with a reason, and leaves no trace in the state."""

from __future__ import annotations

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tidebook.common.v1 import reason_pb2
from tidebook.engine.v1 import internal_pb2, order_pb2
from tidebook.engine.v1 import types_pb2 as t

from kernel.markets import default_markets
from kernel.reasons import Reason, Refused
from mesh.validation import MessageRules
from services.engine.codec import MarketTexts, place_command, trade_items
from tests.engine.test_orders import refusal
from tests.support.engine import EngineRig, limit

WRONG: list[tuple[dict[str, Any], Reason, str]] = [
    ({"market": "NO_SUCH"}, Reason.MARKET_NOT_FOUND, "market"),
    ({"market": ""}, Reason.MARKET_NOT_FOUND, "market"),
    ({"side": 0}, Reason.INVALID_ARGUMENT, "side"),
    ({"side": 99}, Reason.INVALID_ARGUMENT, "side"),
    ({"type": 0}, Reason.INVALID_ARGUMENT, "type"),
    ({"type": -5}, Reason.INVALID_ARGUMENT, "type"),
    ({"time_in_force": 5}, Reason.INVALID_ARGUMENT, "time_in_force"),
    ({"price": ""}, Reason.PRICE_REQUIRED, "price"),
    ({"price": "0"}, Reason.PRICE_OUT_OF_RANGE, "price"),
    ({"price": "0.00"}, Reason.PRICE_OUT_OF_RANGE, "price"),
    ({"price": "-1"}, Reason.INVALID_ARGUMENT, "price"),
    ({"price": "1e3"}, Reason.INVALID_ARGUMENT, "price"),
    ({"price": " 1"}, Reason.INVALID_ARGUMENT, "price"),
    ({"price": "NaN"}, Reason.INVALID_ARGUMENT, "price"),
    ({"price": "\u0661"}, Reason.INVALID_ARGUMENT, "price"),
    ({"price": "1.234"}, Reason.PRICE_NOT_ON_TICK, "price"),
    ({"price": "1.0000000001"}, Reason.PRICE_NOT_ON_TICK, "price"),
    ({"price": "9" * 20}, Reason.INVALID_ARGUMENT, "price"),
    ({"price": "90000000000"}, Reason.PRICE_OUT_OF_RANGE, "price"),
    ({"quantity": ""}, Reason.QUANTITY_REQUIRED, "quantity"),
    ({"quantity": "0"}, Reason.QUANTITY_TOO_SMALL, "quantity"),
    ({"quantity": "0.000001"}, Reason.QUANTITY_NOT_ON_LOT, "quantity"),
    ({"quantity": "0.00001"}, Reason.NOTIONAL_TOO_SMALL, "quantity"),
    ({"quantity": "90000000000"}, Reason.QUANTITY_TOO_LARGE, "quantity"),
    ({"quantity": "1000000"}, Reason.NOTIONAL_TOO_LARGE, "quantity"),
    ({"quote_amount": "1"}, Reason.INVALID_ARGUMENT, "quote_amount"),
    ({"client_order_id": "x" * 37}, Reason.INVALID_ARGUMENT, "client_order_id"),
    ({"client_order_id": "no spaces"}, Reason.INVALID_ARGUMENT, "client_order_id"),
    ({"max_slippage_bps": 10_001}, Reason.INVALID_ARGUMENT, "max_slippage_bps"),
    ({"self_trade_prevention": 77}, Reason.INVALID_ARGUMENT, "self_trade_prevention"),
    ({"deadline": Timestamp(seconds=1)}, Reason.DEADLINE_PASSED, "deadline"),
    ({"deadline": Timestamp(seconds=-1)}, Reason.INVALID_ARGUMENT, "deadline"),
    ({"deadline": Timestamp(seconds=1, nanos=-1)}, Reason.INVALID_ARGUMENT, "deadline"),
    ({"expire_time": Timestamp(seconds=1 << 40)}, Reason.INVALID_ARGUMENT, "expire_time"),
    (
        {"display_quantity": "0.05", "time_in_force": t.TIME_IN_FORCE_IOC},
        Reason.INVALID_ARGUMENT,
        "display_quantity",
    ),
    ({"display_quantity": "0.00001"}, Reason.QUANTITY_TOO_SMALL, "display_quantity"),
    ({"reduce_only": True}, Reason.UNSUPPORTED, "reduce_only"),
    ({"trigger_price": "1"}, Reason.INVALID_ARGUMENT, "trigger_price"),
]


async def test_each_wrong_field_has_its_reason_on_a_stream_and_changes_nothing(
    engine: EngineRig,
) -> None:
    alice = await engine.funded(1)
    before = await engine.state()
    call = alice.stream()
    commands = [order_pb2.TradeCommand(place=limit(**fields)) for fields, _, _ in WRONG]
    await call.write(order_pb2.TradeStreamRequest(commands=commands))
    results = (await call.read()).results
    call.cancel()
    seen = [(Reason(r.error.reason), r.error.field) for r in results]
    assert seen == [(reason, field) for _, reason, field in WRONG]
    after = await engine.state()
    assert after.state_hash == before.state_hash


async def test_each_wrong_field_is_a_typed_refusal_of_a_call(engine: EngineRig) -> None:
    alice = await engine.funded(1)
    for fields, reason, _ in WRONG:
        refused = await refusal(alice.place(**fields))
        # The validation at the edge may speak first; it only knows one reason.
        assert refused.reason in (reason, Reason.INVALID_ARGUMENT), fields


async def test_orders_are_named_by_one_id(engine: EngineRig) -> None:
    alice = await engine.funded(1)
    requests = [
        order_pb2.CancelOrderRequest(),
        order_pb2.CancelOrderRequest(order_id=1, client_order_id="a"),
        order_pb2.CancelOrderRequest(order_id=(1 << 64) - 1),
        order_pb2.CancelOrderRequest(client_order_id="?"),
        order_pb2.CancelOrderRequest(order_id=12345),
    ]
    batch = order_pb2.BatchOrdersRequest(
        commands=[order_pb2.TradeCommand(cancel=request) for request in requests]
    )
    answer = await alice.stub.BatchOrders(batch, metadata=alice.metadata)
    assert [result.error.reason for result in answer.results] == [
        reason_pb2.REASON_INVALID_ARGUMENT,
        reason_pb2.REASON_INVALID_ARGUMENT,
        reason_pb2.REASON_ORDER_NOT_FOUND,
        reason_pb2.REASON_INVALID_ARGUMENT,
        reason_pb2.REASON_ORDER_NOT_FOUND,
    ]


async def test_numbers_beyond_the_log_are_refused(engine: EngineRig) -> None:
    transfer = internal_pb2.ApplyTransferRequest(
        transfer_id=1, account_id=1 << 63, asset="USDC", amount_units=1
    )
    assert (await refusal(engine.internal.ApplyTransfer(transfer))).field == "account_id"
    transfer.account_id = 1
    transfer.amount_units = (1 << 63) - 1
    await engine.internal.ApplyTransfer(transfer)
    transfer.transfer_id = 2
    refused = await refusal(engine.internal.ApplyTransfer(transfer))
    assert refused.reason is Reason.BALANCE_OVERFLOW
    transfer.asset = "XXX"
    assert (await refusal(engine.internal.ApplyTransfer(transfer))).reason is Reason.ASSET_NOT_FOUND


def texts() -> MarketTexts:
    known = MarketTexts()
    known.replace({market.market_id: market for market in default_markets()})
    return known


TEXT = st.one_of(
    st.text(max_size=8),
    st.decimals(min_value=0, max_value=10**12, allow_nan=False).map(str),
    st.from_regex(r"\A[0-9]{1,22}(\.[0-9]{1,20})?\Z"),
)
NUMBER = st.integers(min_value=-(1 << 31), max_value=(1 << 31) - 1)
TIMES = st.builds(
    Timestamp,
    seconds=st.integers(min_value=-(1 << 63), max_value=(1 << 63) - 1),
    nanos=NUMBER,
)
ORDERS = st.builds(
    order_pb2.PlaceOrderRequest,
    market=st.sampled_from(["BTC_USDC", "DOGE_USDC", "", "btc"]),
    side=NUMBER | st.integers(0, 2),
    type=NUMBER | st.integers(0, 7),
    time_in_force=NUMBER | st.integers(0, 4),
    price=TEXT,
    quantity=TEXT,
    quote_amount=TEXT | st.just(""),
    client_order_id=st.text(max_size=40) | st.just(""),
    max_slippage_bps=st.integers(0, (1 << 32) - 1) | st.just(0),
    expire_time=st.none() | TIMES,
    deadline=st.none() | TIMES,
)


@given(ORDERS)
@settings(max_examples=300, deadline=None)
def test_any_order_is_either_a_command_in_range_or_a_refusal(
    request: order_pb2.PlaceOrderRequest,
) -> None:
    try:
        command = place_command(request, texts(), 1)
    except Refused as refused:
        assert refused.reason is not Reason.INTERNAL
        return
    for number in (command.price_ticks, command.quantity_lots, command.quote_amount_units):
        assert 0 <= number < 1 << 63
    assert 0 <= command.expire_ns < 1 << 63 and 0 <= command.deadline_ns < 1 << 63


RULES = MessageRules()
ODD_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "market": st.text(max_size=40) | st.just("ETH_USDC"),
    "side": st.integers(-1, 4),
    "type": st.integers(-1, 9),
    "time_in_force": st.integers(-1, 6),
    "self_trade_prevention": st.integers(-1, 6),
    "trigger_source": st.integers(-1, 4),
    "client_order_id": st.text(max_size=40) | st.from_regex(r"\A[A-Za-z0-9_.:-]{1,40}\Z"),
    "max_slippage_bps": st.integers(0, 20_000),
    "trailing_bps": st.integers(0, 20_000),
    **dict.fromkeys(
        ("price", "quantity", "quote_amount", "display_quantity", "trigger_price"), TEXT
    ),
}


@given(st.fixed_dictionaries({}, optional=ODD_FIELDS))
@settings(max_examples=300, deadline=None)
def test_no_order_that_breaks_the_rules_of_its_proto_is_taken(odd: dict[str, Any]) -> None:
    plain = {"market": "BTC_USDC", "side": t.SIDE_BUY, "type": t.ORDER_TYPE_LIMIT}
    request = order_pb2.PlaceOrderRequest(**{**plain, "price": "1", "quantity": "1", **odd})
    try:
        place_command(request, texts(), 1)
    except Refused:
        return
    # Streams and batches are not held to the rules before they come here.
    RULES.check(request)


@given(st.lists(ORDERS, max_size=5))
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_batch_has_one_item_per_command(requests: list[order_pb2.PlaceOrderRequest]) -> None:
    commands = [order_pb2.TradeCommand(place=request) for request in requests]
    assert len(trade_items(commands, texts(), 1)) == len(requests)


async def test_a_gtd_order_expires_by_itself(engine: EngineRig) -> None:
    alice = await engine.funded(1)
    call = alice.watch()
    await call.read()
    soon = Timestamp()
    soon.GetCurrentTime()
    soon.seconds += 1
    answer = await alice.place(time_in_force=t.TIME_IN_FORCE_GTD, expire_time=soon)
    assert (await call.read()).orders[0].status == t.ORDER_STATUS_OPEN
    expired = (await call.read()).orders[0]
    call.cancel()
    assert expired.order_id == answer.order.order_id
    assert expired.status == t.ORDER_STATUS_EXPIRED
    assert (await alice.balances())["USDC"] == ("10000000", "0")


async def test_nothing_is_logged_when_nothing_is_due(engine: EngineRig) -> None:
    first = await engine.state()
    await test_a_gtd_order_expires_by_itself(engine)
    # Two deposits, the order and one tick; the seconds before it left no entry.
    assert (await engine.state()).log_seq == first.log_seq + 4
