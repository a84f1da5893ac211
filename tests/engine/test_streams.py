"""TradeStream, SubmitCommands and WatchAccount."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from tidebook.common.v1 import reason_pb2
from tidebook.engine.v1 import internal_pb2, internal_pb2_grpc, order_pb2
from tidebook.engine.v1 import types_pb2 as t

from kernel.markets import default_markets
from kernel.reasons import Reason, Refused
from mesh.channel import open_channel
from mesh.status import refused_from
from mesh.telemetry import format_traceparent, new_trace
from services.engine import watch
from services.engine.codec import MarketTexts
from services.engine.encode import Encoder
from services.engine.projection import Change, Projection
from services.engine.watch import AccountFeeds
from tests.support import eventually
from tests.support.engine import EngineRig, Trader, limit


def place(request_id: int, **fields: Any) -> order_pb2.TradeCommand:
    return order_pb2.TradeCommand(request_id=request_id, place=limit(**fields))


async def test_many_messages_in_flight_are_answered_in_order(engine: EngineRig) -> None:
    alice = await engine.funded(1)
    call = alice.stream()
    for message in range(30):
        commands = [place(message * 5 + n, price=f"{10 + message}", side="buy") for n in range(5)]
        await call.write(order_pb2.TradeStreamRequest(commands=commands))
    await call.done_writing()
    seen = [result.request_id async for response in call for result in response.results]
    assert seen == list(range(150))
    state = await engine.state()
    assert state.open_orders == 150
    # One entry for the epoch, two deposits; the orders shared entries.
    assert state.log_seq < 3 + 30


async def test_brief_results_say_what_a_bot_needs(engine: EngineRig) -> None:
    alice, bob = await engine.funded(1), await engine.funded(2)
    await alice.place(side="sell", price="100", quantity="0.3")
    call = bob.stream()
    await call.write(
        order_pb2.TradeStreamRequest(
            brief_results=True,
            commands=[
                place(1, price="100", quantity="0.5", client_order_id="x"),
                place(2, price="100", quantity="0.000001"),
                order_pb2.TradeCommand(
                    request_id=3, cancel=order_pb2.CancelOrderRequest(client_order_id="x")
                ),
                place(4, price="100", quantity="0.5", client_order_id="x"),
                order_pb2.TradeCommand(request_id=5, cancel_all=order_pb2.CancelAllOrdersRequest()),
            ],
        )
    )
    results = (await call.read()).results
    call.cancel()
    assert results[0].brief.status == t.ORDER_STATUS_PARTIALLY_FILLED
    assert results[0].brief.filled_quantity == "0.3"
    assert results[0].brief.filled_notional == "30"
    assert results[1].error.reason == reason_pb2.REASON_QUANTITY_NOT_ON_LOT
    assert results[2].brief.status == t.ORDER_STATUS_CANCELLED
    assert results[2].brief.order_id == results[0].brief.order_id
    assert results[3].brief.order_id == results[0].brief.order_id, "a repetition"
    assert results[5 - 1].all_cancelled.cancelled == 0


async def test_a_stream_that_breaks_cancels_its_orders_and_no_others(engine: EngineRig) -> None:
    alice = await engine.funded(1)
    kept = (await alice.place(price="50")).order
    call = alice.stream()
    request = order_pb2.TradeStreamRequest(
        cancel_on_disconnect=True, commands=[place(1, price="60"), place(2, price="61")]
    )
    await call.write(request)
    ids = [result.placed.order.order_id for result in (await call.read()).results]
    assert len(await alice.open_orders()) == 3
    call.cancel()

    async def only_the_other_is_left() -> None:
        assert [order.order_id for order in await alice.open_orders()] == [kept.order_id]

    await eventually(only_the_other_is_left)
    gone = await alice.order(ids[0])
    assert gone.close_reason == reason_pb2.REASON_CANCELLED_ON_DISCONNECT
    assert (await alice.balances())["USDC"][1] == "5.01"


async def test_orders_of_a_stream_are_cancelled_when_the_engine_restarts(rig: EngineRig) -> None:
    await rig.spawn()
    alice = await rig.funded(1)
    call = alice.stream()
    request = order_pb2.TradeStreamRequest(cancel_on_disconnect=True, commands=[place(1)])
    await call.write(request)
    order_id = (await call.read()).results[0].placed.order.order_id
    await rig.kill()
    call.cancel()
    await rig.spawn()
    order = await alice.order(order_id)
    assert order.close_reason == reason_pb2.REASON_CANCELLED_ON_DISCONNECT
    assert (await alice.balances())["USDC"] == ("10000000", "0")


async def test_a_message_that_is_too_large_ends_the_stream_after_its_answers(
    engine: EngineRig,
) -> None:
    alice = await engine.funded(1)
    call = alice.stream()
    await call.write(order_pb2.TradeStreamRequest(commands=[place(1)]))
    await call.write(order_pb2.TradeStreamRequest(commands=[order_pb2.TradeCommand()] * 1001))
    assert len((await call.read()).results) == 1
    with pytest.raises(grpc.RpcError) as caught:
        await call.read()
    assert refused_from(caught.value).reason is Reason.INVALID_ARGUMENT


async def test_the_gateways_stream_acts_for_each_token(engine: EngineRig) -> None:
    alice, bob = await engine.funded(1), await engine.funded(2)
    reader = engine.trader(3, scopes="read")
    async with open_channel(engine.settings, "engine", caller="gateway") as channel:
        call: Any = internal_pb2_grpc.EngineInternalServiceStub(channel).SubmitCommands()
        trace = new_trace()
        tokens = [alice.token, bob.token, reader.token, "nonsense"]
        request = internal_pb2.SubmitCommandsRequest(
            commands=[
                internal_pb2.SubmittedCommand(
                    access_token=token,
                    traceparent=format_traceparent(trace),
                    command=place(number),
                )
                for number, token in enumerate(tokens)
            ]
        )
        await call.write(request)
        results = {r.request_id: r for r in (await call.read()).results}
        call.cancel()
    assert results[0].placed.order.order_id != results[1].placed.order.order_id
    assert results[2].error.reason == reason_pb2.REASON_SCOPE_MISSING
    assert results[3].error.reason == reason_pb2.REASON_TOKEN_INVALID
    assert len(await alice.open_orders()) == len(await bob.open_orders()) == 1


async def messages(call: Any, count: int) -> list[order_pb2.WatchAccountResponse]:
    async with asyncio.timeout(60):
        return [await call.read() for _ in range(count)]


async def test_an_account_is_watched_from_a_snapshot_on(engine: EngineRig) -> None:
    alice, bob = await engine.funded(1), await engine.funded(2)
    order = (await alice.place(side="sell", price="100", quantity="1")).order
    call = alice.watch()
    [snapshot] = await messages(call, 1)
    assert snapshot.snapshot and snapshot.prev_seq == 0 and snapshot.seq == order.log_seq
    assert list(snapshot.orders) == [order]
    assert {b.asset: b.held for b in snapshot.balances} == {"USDC": "0", "BTC": "1"}
    await bob.place(side="buy", price="100", quantity="0.4")
    [delta] = await messages(call, 1)
    assert delta.prev_seq == snapshot.seq and not delta.snapshot
    assert [(o.order_id, o.filled_quantity) for o in delta.orders] == [(order.order_id, "0.4")]
    assert [(f.quantity, f.maker) for f in delta.fills] == [("0.4", True)]
    assert {b.asset: (b.free, b.held) for b in delta.balances} == {
        "USDC": ("10000039.96", "0"),
        "BTC": ("999", "0.6"),
    }
    call.cancel()


async def follow(trader: Trader, seq: int) -> list[order_pb2.WatchAccountResponse]:
    """The messages after `seq` up to the account's last one."""
    last = (await trader.place(price="50")).order.log_seq
    call = trader.watch(seq)
    seen: list[order_pb2.WatchAccountResponse] = []
    while not seen or seen[-1].seq < last:
        seen += await messages(call, 1)
    call.cancel()
    return seen


async def test_a_watch_resumes_without_a_gap(engine: EngineRig) -> None:
    alice, bob = await engine.funded(1), await engine.funded(2)
    call = alice.watch()
    [snapshot] = await messages(call, 1)
    call.cancel()
    await alice.place(side="sell", price="100", quantity="1")
    for _ in range(5):
        await bob.place(side="buy", price="100", quantity="0.2")
    seen = await follow(alice, snapshot.seq)
    assert not seen[0].snapshot
    assert [m.prev_seq for m in seen] == [snapshot.seq, *(m.seq for m in seen[:-1])]
    fills = [fill.trade_id for message in seen for fill in message.fills]
    assert fills == [1, 2, 3, 4, 5]


async def test_a_watch_resumes_over_a_restart_of_the_engine(rig: EngineRig) -> None:
    await rig.spawn()
    alice, bob = await rig.funded(1), await rig.funded(2)
    order = (await alice.place(side="sell", price="100", quantity="1")).order
    await bob.place(side="buy", price="100", quantity="0.2")
    await rig.kill()
    await rig.spawn()
    seen = await follow(alice, order.log_seq)
    assert seen[0].prev_seq == order.log_seq and not seen[0].snapshot
    assert [fill.quantity for message in seen for fill in message.fills] == ["0.2"]


async def test_a_position_that_is_too_old_gets_a_snapshot(engine: EngineRig) -> None:
    alice = await engine.funded(1)
    await alice.place()
    call = alice.watch(1)
    [message] = await messages(call, 1)
    assert message.snapshot and len(message.orders) == 1
    call.cancel()


async def test_a_reader_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "READER_QUEUE", 3)
    projection = Projection()
    texts = MarketTexts()
    texts.replace({market.market_id: market for market in default_markets()})
    feeds = AccountFeeds(projection, Encoder(projection, texts))
    reader = feeds.watch(1, 0)
    assert (await anext(reader)).snapshot
    for seq in range(1, 10):
        feeds.publish(seq, seq, {1: Change()})
    assert [(await anext(reader)).seq for _ in range(3)] == [1, 2, 3]
    with pytest.raises(Refused) as caught:
        await anext(reader)
    assert caught.value.reason is Reason.SLOW_READER


async def test_what_is_remembered_for_resuming_is_bounded() -> None:
    projection = Projection()
    feeds = AccountFeeds(projection, Encoder(projection, MarketTexts()), remembered_items=10)
    for seq in range(1, 100):
        feeds.publish(seq, seq, {1: Change(), 2: Change()})
    old, recent = feeds.watch(1, 50), feeds.watch(1, 97)
    assert (await anext(old)).snapshot
    message = await anext(recent)
    assert not message.snapshot and message.prev_seq == 97
    await old.aclose()
    await recent.aclose()
