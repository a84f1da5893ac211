"""Orders over unary calls: what a trader sees is what the log has."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import grpc
import pytest
from tidebook.common.v1 import reason_pb2
from tidebook.engine.v1 import internal_pb2, market_pb2, order_pb2
from tidebook.engine.v1 import types_pb2 as t

from kernel.reasons import Reason, Refused
from mesh.status import refused_from
from tests.support.engine import EngineRig, limit
from tests.support.waiting import eventually


async def refusal(call: Awaitable[Any]) -> Refused:
    """The refusal that a call ends with."""
    with pytest.raises(grpc.RpcError) as caught:
        await call
    return refused_from(caught.value)


async def test_an_order_rests_holds_its_funds_and_is_in_the_log(engine: EngineRig) -> None:
    alice = await engine.funded(1)
    answer = await alice.place(price="100.50", quantity="0.25", client_order_id="first")
    order = answer.order
    assert order.status == t.ORDER_STATUS_OPEN
    assert (order.price, order.quantity, order.filled_quantity) == ("100.5", "0.25", "0")
    assert not answer.fills and not answer.repeated
    # 25.125 and the worst fee of each lot, 20 basis points, rounded up.
    free, held = (await alice.balances())["USDC"]
    assert (free, held) == ("9999974.82475", "25.17525")
    assert await alice.open_orders() == [order]
    assert await alice.order(order.order_id) == order
    state = await engine.state()
    assert state.log_seq == order.log_seq and state.open_orders == 1


async def test_a_trade_moves_coins_and_fees_and_both_see_it(engine: EngineRig) -> None:
    alice, bob = await engine.funded(1), await engine.funded(2)
    resting = (await alice.place(side="sell", price="100", quantity="1")).order
    answer = await bob.place(side="buy", price="101", quantity="0.4")
    assert answer.order.status == t.ORDER_STATUS_FILLED
    assert answer.order.filled_notional == "40" and answer.order.fees == "0.08"
    [fill] = answer.fills
    assert (fill.price, fill.quantity, fill.fee, fill.maker) == ("100", "0.4", "0.08", False)
    assert fill.trade_id == 1 and fill.side == t.SIDE_BUY
    maker = await alice.order(resting.order_id)
    assert maker.status == t.ORDER_STATUS_PARTIALLY_FILLED
    assert (maker.filled_quantity, maker.fees) == ("0.4", "0.04")
    assert (await bob.balances())["BTC"] == ("1000.4", "0")
    assert (await bob.balances())["USDC"] == ("9999959.92", "0")
    assert (await alice.balances())["BTC"] == ("999", "0.6")
    assert (await alice.balances())["USDC"] == ("10000039.96", "0")
    fees = {total.asset_id: total.units for total in (await engine.state()).fees}
    assert fees[1] == 12_000_000


async def test_a_filled_order_is_still_known(engine: EngineRig) -> None:
    alice, bob = await engine.funded(1), await engine.funded(2)
    resting = (await alice.place(side="sell", price="100", quantity="1")).order
    await bob.place(side="buy", price="100", quantity="1")
    assert (await alice.order(resting.order_id)).status == t.ORDER_STATUS_FILLED
    assert await alice.open_orders() == []


async def test_the_same_client_order_id_gives_the_first_answer(engine: EngineRig) -> None:
    alice = await engine.funded(1)
    first = await alice.place(client_order_id="a")
    again = await alice.place(client_order_id="a")
    assert again.repeated and again.order == first.order
    other = await refusal(alice.place(client_order_id="a", price="99"))
    assert other.reason is Reason.DUPLICATE_CLIENT_ORDER_ID
    assert (await engine.state()).open_orders == 1


async def test_amend_keeps_the_order_and_cancel_gives_everything_back(engine: EngineRig) -> None:
    alice = await engine.funded(1)
    order = (await alice.place(client_order_id="a", price="100", quantity="1")).order
    answer = await alice.stub.AmendOrder(
        order_pb2.AmendOrderRequest(client_order_id="a", price="99", quantity="0.5"),
        metadata=alice.metadata,
    )
    assert answer.order.order_id == order.order_id
    assert (answer.order.price, answer.order.quantity) == ("99", "0.5")
    assert (await alice.balances())["USDC"][1] == "49.599"
    gone = await alice.cancel(order.order_id)
    assert gone.status == t.ORDER_STATUS_CANCELLED
    assert gone.close_reason == reason_pb2.REASON_CANCELLED_BY_USER
    assert (await alice.balances())["USDC"] == ("10000000", "0")
    again = await refusal(alice.cancel(order.order_id))
    assert again.reason is Reason.ORDER_ALREADY_CLOSED


async def test_cancel_all_takes_the_side_and_market_it_names(engine: EngineRig) -> None:
    alice = await engine.funded(1)
    for price in ("90", "91", "92"):
        await alice.place(price=price)
    await alice.place(side="sell", price="110")
    answer = await alice.stub.CancelAllOrders(
        order_pb2.CancelAllOrdersRequest(market="BTC_USDC", side=t.SIDE_BUY),
        metadata=alice.metadata,
    )
    assert answer.cancelled == 3
    assert [order.side for order in await alice.open_orders()] == [t.SIDE_SELL]


async def test_a_client_that_goes_silent_loses_its_orders(engine: EngineRig) -> None:
    alice, bob = await engine.funded(1), await engine.funded(2)
    for trader, price in ((alice, "90"), (alice, "91"), (bob, "92")):
        await trader.place(price=price)

    async def switch(timeout_ms: int) -> order_pb2.CancelAllAfterResponse:
        request = order_pb2.CancelAllAfterRequest(timeout_ms=timeout_ms)
        return await alice.stub.CancelAllAfter(request, metadata=alice.metadata)

    assert (await switch(3_600_000)).HasField("cancel_time")
    assert not (await switch(0)).HasField("cancel_time")
    assert len(await alice.open_orders()) == 2
    assert (await switch(1)).HasField("cancel_time")

    async def silent() -> None:
        assert not await alice.open_orders()

    await eventually(silent)
    assert len(await bob.open_orders()) == 1


async def test_another_accounts_order_does_not_exist(engine: EngineRig) -> None:
    alice, bob = await engine.funded(1), await engine.funded(2)
    order = (await alice.place(client_order_id="a")).order
    assert (await refusal(bob.order(order.order_id))).reason is Reason.ORDER_NOT_FOUND
    assert (await refusal(bob.cancel(order.order_id))).reason is Reason.ORDER_NOT_FOUND
    amend = order_pb2.AmendOrderRequest(order_id=order.order_id, price="1")
    call = bob.stub.AmendOrder(amend, metadata=bob.metadata)
    assert (await refusal(call)).reason is Reason.ORDER_NOT_FOUND
    assert len(await alice.open_orders()) == 1


async def test_a_batch_gives_one_result_each_and_one_failure_stops_nobody(
    engine: EngineRig,
) -> None:
    alice = await engine.funded(1)
    request = order_pb2.BatchOrdersRequest(
        commands=[
            order_pb2.TradeCommand(request_id=1, place=limit(client_order_id="a")),
            order_pb2.TradeCommand(request_id=2, place=limit(price="100.001")),
            # The order is in the same batch, so its market is only known once it was applied.
            order_pb2.TradeCommand(
                request_id=3,
                amend=order_pb2.AmendOrderRequest(client_order_id="a", price="98"),
            ),
            order_pb2.TradeCommand(request_id=4),
            order_pb2.TradeCommand(
                request_id=5, cancel=order_pb2.CancelOrderRequest(client_order_id="a")
            ),
        ]
    )
    answer = await alice.stub.BatchOrders(request, metadata=alice.metadata)
    assert [result.request_id for result in answer.results] == [1, 2, 3, 4, 5]
    placed, off_tick, amended, empty, cancelled = answer.results
    assert placed.placed.order.status == t.ORDER_STATUS_OPEN
    assert off_tick.error.reason == reason_pb2.REASON_PRICE_NOT_ON_TICK
    assert off_tick.error.details["tick_size"] == "0.01"
    assert amended.amended.order.price == "98"
    assert empty.error.reason == reason_pb2.REASON_INVALID_ARGUMENT
    assert cancelled.cancelled.order.status == t.ORDER_STATUS_CANCELLED


async def test_a_preview_says_what_would_happen_and_changes_nothing(engine: EngineRig) -> None:
    alice, bob = await engine.funded(1), await engine.funded(2)
    await alice.place(side="sell", price="100", quantity="0.4")
    before = await engine.state()
    preview = await bob.stub.PreviewOrder(
        order_pb2.PreviewOrderRequest(order=limit(price="101", quantity="1")),
        metadata=bob.metadata,
    )
    assert (preview.filled_quantity, preview.filled_notional) == ("0.4", "40")
    assert (preview.fees, preview.rested_quantity) == ("0.08", "0.6")
    assert (preview.hold, preview.hold_asset) == ("60.7212", "USDC")
    refused = await bob.stub.PreviewOrder(
        order_pb2.PreviewOrderRequest(order=limit(price="100", quantity="200000")),
        metadata=bob.metadata,
    )
    assert refused.error.reason == reason_pb2.REASON_NOTIONAL_TOO_LARGE
    after = await engine.state()
    assert (before.log_seq, before.state_hash) == (after.log_seq, after.state_hash)


async def test_scopes_are_required(engine: EngineRig) -> None:
    await engine.funded(1)
    reader = engine.trader(1, scopes="read")
    assert (await refusal(reader.place())).reason is Reason.SCOPE_MISSING
    assert await reader.open_orders() == []


async def test_a_refusal_names_the_limit_it_is_about(engine: EngineRig) -> None:
    alice = await engine.funded(1)
    refused = await refusal(alice.place(price="1", quantity="0.5"))
    assert refused.reason is Reason.NOTIONAL_TOO_SMALL
    assert refused.details == {"min_notional": "1"}
    refused = await refusal(alice.place(price="1.001"))
    assert refused.details == {"tick_size": "0.01"}


async def test_a_stop_waits_in_the_open_orders_and_fires(engine: EngineRig) -> None:
    alice, bob = await engine.funded(1), await engine.funded(2)
    await alice.place(side="sell", price="100")
    await bob.place(side="buy", price="100")
    await bob.place(side="buy", price="95")
    stop = (
        await alice.place(
            side="sell",
            type=t.ORDER_TYPE_STOP_MARKET,
            price="",
            trigger_price="95",
            quantity="0.05",
        )
    ).order
    assert (stop.status, stop.trigger_price) == (t.ORDER_STATUS_UNTRIGGERED, "95")
    assert stop.trigger_source == t.TRIGGER_SOURCE_LAST
    listed = await alice.stub.ListOpenOrders(
        order_pb2.ListOpenOrdersRequest(), metadata=alice.metadata
    )
    assert [order.order_id for order in listed.orders] == [stop.order_id]
    await alice.place(side="sell", price="95", quantity="0.05")
    fired = await alice.stub.GetOrder(
        order_pb2.GetOrderRequest(order_id=stop.order_id), metadata=alice.metadata
    )
    assert (fired.order.status, fired.order.filled_quantity) == (t.ORDER_STATUS_FILLED, "0.05")


async def test_one_of_a_pair_cancels_the_other(engine: EngineRig) -> None:
    alice, bob = await engine.funded(1), await engine.funded(2)
    first = limit("sell", price="110", client_order_id="profit")
    second = limit("sell", price="", type=t.ORDER_TYPE_STOP_MARKET, trigger_price="90")
    pair = order_pb2.PlaceOcoRequest(first=first, second=second)
    placed = await alice.stub.PlaceOco(pair, metadata=alice.metadata)
    assert placed.first.status == t.ORDER_STATUS_OPEN
    assert placed.second.status == t.ORDER_STATUS_UNTRIGGERED
    assert placed.first.oco_order_id == placed.second.order_id
    assert placed.second.oco_order_id == placed.first.order_id
    again = await alice.stub.PlaceOco(pair, metadata=alice.metadata)
    assert again.repeated and again.second == placed.second
    await bob.place(side="buy", price="110", quantity="0.01")
    other = await alice.stub.GetOrder(
        order_pb2.GetOrderRequest(order_id=placed.second.order_id), metadata=alice.metadata
    )
    assert other.order.close_reason == reason_pb2.REASON_OCO_CANCELLED
    pair.second.trigger_price = "120"
    pair.first.client_order_id = ""
    refused = await refusal(alice.stub.PlaceOco(pair, metadata=alice.metadata))
    assert (refused.reason, refused.field) == (
        Reason.TRIGGER_ON_WRONG_SIDE,
        "second.trigger_price",
    )


async def test_markets_say_their_rules_and_follow_a_halt(engine: EngineRig) -> None:
    answer = await engine.markets.ListMarkets(market_pb2.ListMarketsRequest())
    assert [m.market for m in answer.markets][:2] == ["BTC_USDC", "ETH_USDC"]
    assert answer.markets[0].tick_size == "0.01" and answer.markets[0].lot_size == "0.00001"
    alice = await engine.funded(1)
    await engine.internal.SetMarketStatus(
        internal_pb2.SetMarketStatusRequest(market="BTC_USDC", status=t.MARKET_STATUS_HALTED)
    )
    assert (await refusal(alice.place())).reason is Reason.MARKET_HALTED
    one = await engine.markets.GetMarket(market_pb2.GetMarketRequest(market="BTC_USDC"))
    assert one.market.status == t.MARKET_STATUS_HALTED


async def test_a_transfer_is_applied_once_and_never_below_zero(engine: EngineRig) -> None:
    deposit = internal_pb2.ApplyTransferRequest(
        transfer_id=7,
        account_id=5,
        asset="USDC",
        amount_units=500,
        kind=t.TRANSFER_KIND_DEPOSIT,
    )
    first = await engine.internal.ApplyTransfer(deposit)
    again = await engine.internal.ApplyTransfer(deposit)
    assert not first.repeated and again.repeated
    withdrawal = internal_pb2.ApplyTransferRequest(
        transfer_id=8, account_id=5, asset="USDC", amount_units=-501
    )
    refused = await refusal(engine.internal.ApplyTransfer(withdrawal))
    assert refused.reason is Reason.INSUFFICIENT_BALANCE
    assert (await engine.trader(5).balances())["USDC"] == ("0.000005", "0")
