"""Margin positions over the wire: opened, watched, closed, liquidated, kept over a restart."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from tidebook.common.v1 import reason_pb2
from tidebook.engine.v1 import order_pb2, position_pb2, types_pb2
from tidebook.engine.v1 import position_pb2_grpc as rpc

from kernel.reasons import Reason
from mesh.channel import open_channel
from mesh.status import refused_from
from tests.engine.test_cfds import Feed
from tests.support.engine import EngineRig, Trader, limit
from tests.support.waiting import eventually

MARKET = "BTC_USDC_MARGIN"


class Client:
    """One account's margin positions."""

    def __init__(self, rig: EngineRig, trader: Trader) -> None:
        self.trader = trader
        self.stub = rpc.PositionServiceStub(rig.public)
        self.how: dict[str, Any] = {"metadata": trader.metadata, "timeout": 20}

    async def leverage(self, leverage: int, market: str = MARKET) -> int:
        call = self.stub.SetLeverage(
            position_pb2.SetLeverageRequest(market=market, leverage=leverage), **self.how
        )
        return (await call).leverage

    async def place(self, side: str, quantity: str, price: str, **fields: Any) -> order_pb2.Order:
        answer = await self.trader.place(
            market=MARKET, side=side, quantity=quantity, price=price, **fields
        )
        return answer.order

    async def close(self, quantity: str = "", **fields: str) -> position_pb2.ClosePositionResponse:
        return await self.stub.ClosePosition(
            position_pb2.ClosePositionRequest(market=MARKET, quantity=quantity, **fields),
            **self.how,
        )

    async def add_margin(self, amount: str, request_id: str = "") -> position_pb2.Position:
        call = self.stub.AddMargin(
            position_pb2.AddMarginRequest(market=MARKET, amount=amount, request_id=request_id),
            **self.how,
        )
        return (await call).position

    async def positions(self) -> list[position_pb2.Position]:
        call = self.stub.ListPositions(position_pb2.ListPositionsRequest(), **self.how)
        return list((await call).positions)

    async def risk(self, **assumed: str) -> position_pb2.GetRiskResponse:
        return await self.stub.GetRisk(position_pb2.GetRiskRequest(**assumed), **self.how)

    async def preview(self, side: str, quantity: str, price: str) -> order_pb2.PreviewOrderResponse:
        order = limit(market=MARKET, side=side, quantity=quantity, price=price)
        request = order_pb2.PreviewOrderRequest(order=order)
        return await self.trader.stub.PreviewOrder(request, **self.how)

    async def receipts(self) -> list[position_pb2.Liquidation]:
        call = self.stub.ListLiquidations(position_pb2.ListLiquidationsRequest(), **self.how)
        return list((await call).liquidations)

    async def money(self) -> tuple[str, str]:
        """USDC free and held."""
        return (await self.trader.balances())["USDC"]


async def refused(call: Any) -> Reason:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refused_from(caught.value).reason


@contextlib.asynccontextmanager
async def feed_of(rig: EngineRig) -> AsyncIterator[Feed]:
    async with open_channel(rig.settings, "engine", caller="marketdata") as channel:
        yield Feed(channel)


@pytest_asyncio.fixture
async def feed(engine: EngineRig) -> AsyncIterator[Feed]:
    async with feed_of(engine) as feed:
        yield feed


async def client(engine: EngineRig, account_id: int, usdc: str = "100000") -> Client:
    await engine.deposit(account_id, "USDC", usdc)
    return Client(engine, engine.trader(account_id))


@pytest_asyncio.fixture
async def ann(engine: EngineRig) -> Client:
    return await client(engine, 1001)


@pytest_asyncio.fixture
async def bob(engine: EngineRig) -> Client:
    return await client(engine, 1002)


async def trade(buyer: Client, seller: Client, quantity: str, price: str) -> None:
    """The seller rests, the buyer takes."""
    await seller.place("sell", quantity, price)
    await buyer.place("buy", quantity, price)


async def test_a_position_opens_shows_its_risk_and_closes_at_the_market(
    ann: Client, bob: Client
) -> None:
    assert (await ann.leverage(10), await bob.leverage(5)) == (10, 5)
    await bob.place("sell", "1", "50000")
    preview = await ann.preview("buy", "1", "50000")
    assert (preview.margin, preview.fees, preview.hold) == ("5000", "25", "0")
    assert preview.position_quantity == "1"
    opened = await ann.place("buy", "1", "50000")
    assert opened.status == types_pb2.ORDER_STATUS_FILLED
    (position,) = await ann.positions()
    assert (position.quantity, position.entry_notional, position.margin) == ("1", "50000", "5000")
    assert (position.leverage, position.fees, position.mark_price) == (10, "25", "50000")
    # (50000 - 5000) / (1 - 0.0045), the next tick below.
    assert position.liquidation_price == preview.liquidation_price == "45203.41"
    assert position.maintenance_margin == "225"
    assert await ann.money() == ("94975", "5000")
    (short,) = await bob.positions()
    assert (short.quantity, short.margin, short.fees) == ("-1", "10000", "10")
    await bob.place("buy", "0.4", "50500")
    closed = await ann.close("0.4", client_order_id="out")
    assert closed.position.quantity == "0.6"
    assert (closed.position.margin, closed.position.realised_pnl) == ("3000", "200")
    again = await ann.close("0.4", client_order_id="out")
    assert again.order_id == closed.order_id
    await bob.place("buy", "0.6", "50500")
    rest = await ann.close()
    assert rest.position.quantity == "0" and await ann.positions() == []
    assert await refused(ann.close()) is Reason.POSITION_NOT_FOUND
    # 500 of profit, 25 + 10.1 + 15.15 of fees.
    assert await ann.money() == ("100449.75", "0")


async def test_the_account_stream_carries_positions(ann: Client, bob: Client) -> None:
    stream = ann.trader.watch()
    first = await stream.read()
    assert first.snapshot and not first.positions
    await bob.place("sell", "0.5", "50000")
    await ann.place("buy", "0.5", "50000")
    told = await stream.read()
    assert [(p.quantity, p.margin) for p in told.positions] == [("0.5", "25000")]
    assert [(f.quantity, f.fee) for f in told.fills] == [("0.5", "12.5")]
    assert [(b.asset, b.held) for b in told.balances] == [("USDC", "25000")]
    again = ann.trader.watch()
    assert [p.quantity for p in (await again.read()).positions] == ["0.5"]
    again.cancel()
    await bob.place("buy", "0.5", "50000")
    await ann.close()
    async with asyncio.timeout(60):
        told = await stream.read()
    assert [(p.quantity, p.fees) for p in told.positions] == [("0", "25")]
    stream.cancel()


async def test_margin_is_added_once_and_risk_tells_what_a_price_would_do(
    ann: Client, bob: Client
) -> None:
    await ann.leverage(20)
    await trade(ann, bob, "1", "50000")
    added = await ann.add_margin("500", "more")
    again = await ann.add_margin("500", "more")
    assert (added.margin, again.margin) == ("3000", "3000")
    assert await refused(ann.add_margin("600", "more")) is Reason.IDEMPOTENCY_CONFLICT
    assert await refused(ann.add_margin("0")) is Reason.AMOUNT_INVALID
    risk = await ann.risk()
    assert (risk.equity, risk.margin, risk.unrealised_pnl) == ("99975", "3000", "0")
    assert (risk.maintenance_margin, risk.margin_ratio_bps) == ("225", 750)
    assert not risk.liquidated_markets
    worse = await ann.risk(market=MARKET, price="47000")
    assert (worse.unrealised_pnl, worse.equity) == ("-3000", "96975")
    assert list(worse.liquidated_markets) == [MARKET] and worse.margin_ratio_bps == 1_000_000
    assert [p.mark_price for p in worse.positions] == ["47000"]
    edge = worse.positions[0].liquidation_price
    assert list((await ann.risk(market=MARKET, price=edge)).liquidated_markets) == [MARKET]
    assert await refused(ann.risk(market=MARKET)) is Reason.INVALID_ARGUMENT


async def test_a_liquidation_is_told_and_leaves_a_receipt(
    engine: EngineRig, feed: Feed, ann: Client, bob: Client
) -> None:
    await feed.say("50000", "50000", market=MARKET)
    await ann.leverage(10)
    await trade(ann, bob, "1", "50000")
    cathy = await client(engine, 1003)
    await cathy.place("buy", "1", "45300")
    resting = await ann.place("buy", "0.01", "45100")
    stream = ann.trader.watch()
    await stream.read()
    # The mark is the median of index, mid and last.
    await feed.say("40000", "40000", market=MARKET)
    async with asyncio.timeout(60):
        told = await stream.read()
    stream.cancel()
    whole = ann.trader.watch()
    assert not (await whole.read()).liquidations, "news, not what is open"
    whole.cancel()
    assert [p.quantity for p in told.positions] == ["0"]
    ended = {o.order_id: (o.status, o.close_reason) for o in told.orders}
    assert ended[resting.order_id] == (
        types_pb2.ORDER_STATUS_CANCELLED,
        reason_pb2.REASON_LIQUIDATION,
    )
    (receipt,) = await ann.receipts()
    assert list(told.liquidations) == [receipt]
    assert (receipt.market, receipt.quantity, receipt.filled_quantity) == (MARKET, "1", "1")
    assert (receipt.entry_notional, receipt.margin, receipt.fees) == ("50000", "5000", "22.65")
    # Sold for 45,300: 277.35 are left, and the liquidation fee may take 226.5 of it.
    assert (receipt.fund_change, receipt.returned) == ("226.5", "50.85")
    order = await ann.trader.order(receipt.order_id)
    assert order.reduce_only and order.status == types_pb2.ORDER_STATUS_FILLED
    assert await ann.money() == ("95025.85", "0")


async def test_refusals_name_the_field_and_the_limit(ann: Client, bob: Client) -> None:
    assert await refused(ann.leverage(1000)) is Reason.LEVERAGE_OUT_OF_RANGE
    assert await refused(ann.leverage(10, "BTC_USDC")) is Reason.UNSUPPORTED
    await ann.place("buy", "0.1", "100")
    assert await refused(ann.leverage(5)) is Reason.LEVERAGE_LOCKED
    assert await refused(ann.add_margin("1")) is Reason.POSITION_NOT_FOUND
    assert (
        await refused(ann.place("sell", "0.1", "50000", reduce_only=True))
        is Reason.REDUCE_ONLY_WOULD_INCREASE
    )
    assert await refused(ann.close()) is Reason.POSITION_NOT_FOUND


async def test_positions_leverage_and_receipts_are_there_after_a_restart(
    engine: EngineRig, ann: Client, bob: Client
) -> None:
    async with feed_of(engine) as feed:
        await feed.say("50000", "50000", market=MARKET)
        await ann.leverage(7)
        await bob.leverage(50)
        await trade(ann, bob, "1", "50000")
        cathy = await client(engine, 1003)
        await cathy.place("sell", "1", "50600")
        await feed.say("60000", "60000", market=MARKET)
    assert len(await bob.receipts()) == 1

    async def seen() -> Any:
        ours = await ann.positions()
        for position in ours:
            position.ClearField("mark_price")
            position.ClearField("unrealised_pnl")
            position.ClearField("maintenance_margin")
        return ours, await bob.receipts(), await ann.money(), await bob.money()

    before = await seen()
    assert [p.leverage for p in before[0]] == [7]
    await engine.stop()
    await engine.start()

    async def same() -> None:
        assert await seen() == before

    await eventually(same)
    assert await bob.positions() == []
    assert (await cathy.positions())[0].quantity == "-1"
