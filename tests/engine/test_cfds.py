"""Contracts for difference over the wire: opened, fired by prices, told, kept over a restart."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from tidebook.common.v1 import reason_pb2
from tidebook.engine.v1 import internal_pb2, internal_pb2_grpc, position_pb2, types_pb2
from tidebook.engine.v1 import position_pb2_grpc as rpc

from kernel.markets import default_markets
from kernel.reasons import Reason
from mesh.channel import open_channel
from mesh.status import refused_from
from tests.support.engine import EngineRig, Trader
from tests.support.waiting import eventually

MARKET = "SOL_USDC_CFD"
_MARKETS = {market.name: market for market in default_markets()}


class Feed:
    """Says prices, as market data would."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = internal_pb2_grpc.EngineInternalServiceStub(channel)

    async def say(self, bid: str, ask: str, *, market: str = MARKET) -> None:
        """A price; returns when it is in the log and everything it fired."""
        rules = _MARKETS[market]
        bid_ticks, ask_ticks = rules.parse_price(bid), rules.parse_price(ask)
        price = internal_pb2.ExternalPrice(
            market=market,
            bid_ticks=bid_ticks,
            ask_ticks=ask_ticks,
            index_ticks=(bid_ticks + ask_ticks) // 2,
            time_ns=time.time_ns(),
        )

        async def requests() -> AsyncIterator[internal_pb2.SetPricesRequest]:
            yield internal_pb2.SetPricesRequest(prices=[price])

        await self._stub.SetPrices(requests(), timeout=60)


class Client:
    """One account's CFDs."""

    def __init__(self, rig: EngineRig, trader: Trader) -> None:
        self.trader = trader
        self.stub = rpc.PositionServiceStub(rig.public)
        self.how: dict[str, Any] = {"metadata": trader.metadata, "timeout": 20}

    async def open(self, side: str, margin: str, leverage: int, **fields: str) -> position_pb2.Cfd:
        return (await self.stub.OpenCfd(request(side, margin, leverage, **fields), **self.how)).cfd

    async def close(self, cfd_id: int) -> position_pb2.Cfd:
        call = self.stub.CloseCfd(position_pb2.CloseCfdRequest(cfd_id=cfd_id), **self.how)
        return (await call).cfd

    async def cfds(self, market: str = "") -> list[position_pb2.Cfd]:
        call = self.stub.ListCfds(position_pb2.ListCfdsRequest(market=market), **self.how)
        return list((await call).cfds)

    async def liquidations(self, **page: Any) -> position_pb2.ListLiquidationsResponse:
        call = self.stub.ListLiquidations(position_pb2.ListLiquidationsRequest(**page), **self.how)
        return await call

    async def money(self) -> tuple[str, str]:
        """USDC free and held."""
        return (await self.trader.balances())["USDC"]


def request(side: str, margin: str, leverage: int, **fields: str) -> position_pb2.OpenCfdRequest:
    return position_pb2.OpenCfdRequest(
        market=fields.pop("market", MARKET),
        side=types_pb2.SIDE_BUY if side == "long" else types_pb2.SIDE_SELL,
        margin=margin,
        leverage=leverage,
        **fields,
    )


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


@pytest_asyncio.fixture
async def ann(engine: EngineRig) -> Client:
    await engine.deposit(1001, "USDC", "10000")
    return Client(engine, engine.trader(1001))


async def test_the_vector_of_the_trading_rules_over_the_wire(
    engine: EngineRig, feed: Feed, ann: Client
) -> None:
    await feed.say("235.95", "235.97")
    preview = await ann.stub.PreviewCfd(
        position_pb2.PreviewCfdRequest(cfd=request("short", "2000", 100)), **ann.how
    )
    opened = await ann.open("short", "2000", 100, take_profit="200")
    assert (opened.entry_price, opened.notional) == ("235.95", "200000")
    # 235.95 x 1.01 / 1.004: the first tier's maintenance counts.
    assert opened.liquidation_price == "237.36005976"
    assert preview.cfd.liquidation_price == opened.liquidation_price
    assert await ann.money() == ("8000", "2000")
    await feed.say("235.73", "235.74")
    (shown,) = await ann.cfds()
    assert shown.unrealised_pnl == "178.00381436"
    closed = await ann.close(opened.cfd_id)
    assert closed.realised_pnl == "178.00381436"
    assert closed.close_reason == types_pb2.CFD_CLOSE_REASON_USER
    assert await ann.money() == ("10178.00381436", "0")
    assert await ann.cfds() == []


async def test_a_stop_fires_at_the_ticks_price_and_the_account_stream_says_so(
    engine: EngineRig, feed: Feed, ann: Client
) -> None:
    await feed.say("149.99", "150")
    stream = ann.trader.watch()
    first = await stream.read()
    assert first.snapshot and not first.cfds
    opened = await ann.open("long", "1000", 5, stop_loss="145", client_cfd_id="c1")
    told = await stream.read()
    assert [(c.cfd_id, c.stop_loss) for c in told.cfds] == [(opened.cfd_id, "145")]
    assert [(b.asset, b.held) for b in told.balances] == [("USDC", "1000")]
    await feed.say("145.01", "145.02")
    await feed.say("140", "140.01")
    async with asyncio.timeout(60):
        told = await stream.read()
    (fired,) = told.cfds
    assert fired.close_reason == types_pb2.CFD_CLOSE_REASON_STOP_LOSS
    # 5000 x 10 / 150, rounded against the client.
    assert (fired.exit_price, fired.realised_pnl) == ("140", "-333.33333334")
    assert await ann.money() == ("9666.66666666", "0")
    stream.cancel()
    again = await ann.stub.OpenCfd(
        request("long", "1000", 5, stop_loss="145", client_cfd_id="c1"), **ann.how
    )
    assert again.repeated and again.cfd == fired


async def test_a_liquidation_leaves_a_receipt_with_everything_it_followed_from(
    engine: EngineRig, feed: Feed, ann: Client
) -> None:
    await feed.say("100", "100")
    ids = [(await ann.open("long", "100", 10)).cfd_id for _ in range(3)]
    await feed.say("90.37", "90.37")
    assert len(await ann.cfds()) == 3
    await feed.say("90.3", "90.31")
    assert await ann.cfds() == []
    page = await ann.liquidations(page_size=2)
    rest = await ann.liquidations(page_size=2, page_token=page.next_page_token)
    receipts = [*page.liquidations, *rest.liquidations]
    assert [r.cfd_id for r in receipts] == ids[::-1] and not rest.next_page_token
    receipt = receipts[0]
    assert (receipt.entry_price, receipt.mark_price, receipt.bankruptcy_price) == (
        ("100", "90.3", "90")
    )
    assert (receipt.margin, receipt.entry_notional, receipt.side) == ("100", "1000", 1)
    # Of 100 it lost 97; the fee of 50 bps would be 5, and 3 are left.
    assert (receipt.fund_change, receipt.returned, receipt.maintenance_bps) == ("3", "0", 40)
    assert await ann.money() == ("9700", "0")
    state = await engine.state(with_balances=True)
    fund = [b for b in state.balances if b.account_id == 1]
    assert [b.free_units for b in fund] == [9 * 10**8]


async def test_refusals_name_the_field_and_the_limit(
    engine: EngineRig, feed: Feed, ann: Client
) -> None:
    assert await refused(ann.open("long", "100", 5)) is Reason.PRICE_STALE
    await feed.say("99.99", "100")
    assert await refused(ann.open("long", "100", 5, market="SOL_USDC")) is Reason.UNSUPPORTED
    assert await refused(ann.open("long", "100", 5, stop_loss="99.995")) is Reason.PRICE_NOT_ON_TICK
    assert await refused(ann.open("long", "0", 5)) is Reason.AMOUNT_INVALID
    assert await refused(ann.close(77)) is Reason.CFD_NOT_FOUND
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ann.open("long", "100", 5, take_profit="99")
    wrong = refused_from(caught.value)
    assert (wrong.reason, wrong.field) == (Reason.TRIGGER_ON_WRONG_SIDE, "take_profit")
    answer = await ann.stub.PreviewCfd(
        position_pb2.PreviewCfdRequest(cfd=request("long", "0.1", 5)), **ann.how
    )
    assert answer.error.reason == reason_pb2.REASON_NOTIONAL_TOO_SMALL
    assert (answer.error.field, answer.error.details["min_notional"]) == ("margin", "1")
    bob = Client(engine, await engine.funded(1002))
    opened = await ann.open("long", "100", 5)
    assert await refused(bob.close(opened.cfd_id)) is Reason.CFD_NOT_FOUND


async def test_contracts_triggers_and_receipts_are_there_after_a_restart(
    engine: EngineRig, ann: Client
) -> None:
    async with feed_of(engine) as feed:
        await feed.say("100", "100")
        kept = await ann.open("long", "100", 10, stop_loss="95", client_cfd_id="kept")
        gone = await ann.open("long", "100", 10, client_cfd_id="gone")
        lost = await ann.open("short", "100", 100)
        await ann.close(gone.cfd_id)
        await feed.say("102", "102")
        before = await ann.cfds(), (await ann.liquidations()).liquidations, await ann.money()
        assert [c.cfd_id for c in before[0]] == [kept.cfd_id]
        assert [r.cfd_id for r in before[1]] == [lost.cfd_id]
    await engine.stop()
    await engine.start()

    async def same() -> None:
        after = await ann.cfds(), (await ann.liquidations()).liquidations, await ann.money()
        assert after == before

    await eventually(same)
    again = await ann.stub.OpenCfd(request("long", "100", 10, client_cfd_id="gone"), **ann.how)
    assert again.repeated and again.cfd.realised_pnl == "0"
    async with feed_of(engine) as feed:
        await feed.say("94", "94")
        assert await ann.cfds() == []
