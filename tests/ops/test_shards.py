"""A whole system with two engine shards: each market is found, and money moves between them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
import pytest_asyncio
from google.protobuf import json_format
from tidebook.engine.v1 import order_pb2, order_pb2_grpc, types_pb2
from tidebook.gateway.v1 import gateway_pb2
from tidebook.marketdata.v1 import marketdata_pb2, marketdata_pb2_grpc

from examples import check_proof
from examples.client import ApiError, Endpoints, HttpApi, Person, bearer, grpc_channel
from kernel.markets import default_markets
from kernel.reasons import Reason
from kernel.shards import shard_of
from mesh.config import load_settings
from mesh.status import refused_from
from ops.plan import make_plan
from tests.ops.test_exchange import tidebook
from tests.support import eventually
from tests.support.exchange import SHARDS, Exchange, two_shards
from tests.support.http_trader import HttpTrader
from tests.support.killing import pid_of

COMPLETED = "TRANSFER_STATUS_COMPLETED"
pytestmark = [pytest.mark.xdist_group("shards"), pytest.mark.timeout(600)]


def test_each_shard_has_its_own_engine_and_market_data(tmp_path: Path) -> None:
    settings = load_settings(
        data_dir=tmp_path, shards=SHARDS, engine_followers=1, bots=False, feed="synthetic:1"
    )
    plan = make_plan(settings)
    specs = {spec.name: spec.environment for wave in plan.waves for spec in wave}
    names = {"engine", "engine-2", "engine-shard1", "engine-shard1-2"}
    assert names | {"marketdata", "marketdata-shard1"} <= specs.keys()
    assert specs["engine-shard1-2"]["TIDEBOOK_SHARD"] == "1"
    assert specs["engine-shard1-2"]["TIDEBOOK_ENGINE_PORT"] == "50262"
    assert plan.settings.engine_address == (
        "0=127.0.0.1:50152,127.0.0.1:50162;1=127.0.0.1:50352,127.0.0.1:50362"
    )
    ports = [listener.port for listener in plan.listeners]
    assert len(ports) == len(set(ports)) and {50262, 50362, 50253, 50353} <= set(ports)


@dataclass
class World(HttpTrader):
    """A running system with two shards, and a trader with money on both."""

    exchange: Exchange
    door: grpc.aio.Channel

    async def transfer(self, amount: str, request_id: str) -> dict[str, Any]:
        body = {
            "asset": "USDC",
            "amount": amount,
            "requestId": request_id,
            "fromShard": 0,
            "toShard": 1,
        }
        transfer: dict[str, Any] = (await self.call("POST", "/v1/transfers", body))["transfer"]
        return transfer

    async def free(self, asset: str, shard: int | None = None) -> str:
        """What is free of an asset: in all, or on a shard."""
        account = await self.call("GET", "/v1/account")
        if shard is not None:
            account = account["shards"][shard]
        return next((b["free"] for b in account["balances"] if b["asset"] == asset), "0")

    def orders(self) -> order_pb2_grpc.OrderServiceAsyncStub:
        return order_pb2_grpc.OrderServiceStub(self.door)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world() -> AsyncIterator[World]:
    async with two_shards(TIDEBOOK_BOTS="false") as exchange:
        endpoints = Endpoints(exchange.http_url, exchange.grpc_address)
        async with HttpApi(endpoints) as http, grpc_channel(endpoints.grpc) as door:
            world = World(http, await Person.sign_up(http, name="shards"), exchange, door)
            for asset, amount, shard in (("USDC", "50000", 0), ("SOL", "100", 1)):
                assert await world.deposit(asset, amount, shard, asset) == COMPLETED
            yield world


def command(request_id: int, market: str, price: str, quantity: str, own_id: str) -> Any:
    return order_pb2.TradeCommand(
        request_id=request_id,
        place=order_pb2.PlaceOrderRequest(
            market=market,
            side=types_pb2.SIDE_BUY,
            type=types_pb2.ORDER_TYPE_LIMIT,
            price=price,
            quantity=quantity,
            client_order_id=own_id,
        ),
    )


@pytest.mark.asyncio(loop_scope="session")
async def test_orders_find_their_shard_over_http(world: World) -> None:
    listed = (await world.call("GET", "/v1/markets"))["markets"]
    shards = {market["market"]: market["shard"] for market in listed}
    # Whichever shard has them, in the order in which one shard would list them.
    assert list(shards) == [market.name for market in default_markets()]
    assert {name for name, shard in shards.items() if shard} == {
        "SOL_USDC",
        "SOL_USDC_MARGIN",
        "SOL_USDC_CFD",
    }
    bought = await world.place("BTC_USDC", "BUY", "100", "0.1", clientOrderId="b1")
    sold = await world.place("SOL_USDC", "SELL", "900", "1", clientOrderId="s1")
    assert (shard_of(bought), shard_of(sold)) == (0, 1) and sold < 1 << 53
    found = await world.call("GET", f"/v1/orders/{sold}")
    assert found["order"]["market"] == "SOL_USDC"
    open_ = (await world.call("GET", "/v1/orders"))["orders"]
    assert [order["orderId"] for order in open_] == [str(bought), str(sold)]
    await eventually(lambda: world.call("GET", f"/v1/history/orders/{sold}"))
    # What the market data of each says, over one path.
    await eventually(lambda: shows(world, "SOL_USDC", "asks", "900"))
    await eventually(lambda: shows(world, "BTC_USDC", "bids", "100"))
    # There is no USDC on the shard of SOL yet, however much there is on the other.
    with pytest.raises(ApiError) as refused:
        await world.place("SOL_USDC", "BUY", "100", "1")
    assert refused.value.reason == "INSUFFICIENT_BALANCE"
    assert (await world.call("DELETE", "/v1/orders"))["cancelled"] == 2


async def shows(world: World, market: str, side: str, price: str) -> bool:
    book = (await world.call("GET", f"/v1/marketdata/{market}/book"))["book"]
    return [level["price"] for level in book[side]] == [price]


@pytest.mark.asyncio(loop_scope="session")
async def test_money_moves_between_shards_once_per_request(world: World) -> None:
    before = await world.free("USDC")
    first = await world.transfer("1000.12345678", "move-1")
    assert first["status"] == COMPLETED, first
    assert await world.transfer("1000.12345678", "move-1") == first
    assert await world.free("USDC", 1) == "1000.12345678"
    assert await world.free("USDC") == before
    with pytest.raises(ApiError) as conflict:
        await world.transfer("7", "move-1")
    assert conflict.value.reason == "IDEMPOTENCY_CONFLICT"
    failed = await world.transfer("99999999", "too-much")
    assert failed["status"] == "TRANSFER_STATUS_FAILED"
    assert failed["failure"] == "INSUFFICIENT_BALANCE"
    assert await world.free("USDC") == before
    books = await world.call("GET", "/v1/reconciliation")
    assert books["balanced"] and [shard["shard"] for shard in books["shards"]] == [0, 1]


@pytest.mark.asyncio(loop_scope="session")
async def test_the_books_of_both_shards_are_compared_proven_and_shown(world: World) -> None:
    async def compared() -> bool:
        books = await world.call("GET", "/v1/reconciliation")
        return books["state"] == "RECONCILIATION_STATE_MATCHED" and all(
            shard.get("wholePassTime") and shard["archivedLogSeq"] != "0"
            for shard in books["shards"]
        )

    await eventually(compared)
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{world.exchange.http_url}/metrics") as answer,
    ):
        found = await answer.text()
    for shard in (0, 1):
        assert f'tidebook_reconciliation_matched{{shard="{shard}"}} 1\n' in found
        assert f'tidebook_ledger_lag_entries{{shard="{shard}"}} ' in found
        seq, _ = await asyncio.to_thread(
            check_proof.check_all, world.exchange.http_url, 0, check_proof.GENESIS, shard
        )
        assert seq > 1
    assert "tidebook_overdue 0\n" in found
    rows = tidebook(world.exchange, "status").stdout.splitlines()
    assert len([row for row in rows if row.startswith("shard ") and "matched" in row]) == 2


@pytest.mark.asyncio(loop_scope="session")
async def test_one_stream_trades_on_both_shards_in_order(world: World) -> None:
    await world.transfer("1000", "for-streams")
    metadata = await bearer(world.person)
    watch: Any = world.orders().WatchAccount(order_pb2.WatchAccountRequest(), metadata=metadata)
    snapshots = [await watch.read(), await watch.read()]
    assert {snapshot.shard for snapshot in snapshots} == {0, 1}
    stream: Any = world.orders().TradeStream(metadata=metadata)
    await stream.write(
        order_pb2.TradeStreamRequest(
            cancel_on_disconnect=True,
            commands=[
                command(1, "SOL_USDC", "1.01", "1", "g1"),
                command(2, "BTC_USDC", "100", "0.1", "g2"),
                command(3, "SOL_USDC", "1.02", "1", "g3"),
                order_pb2.TradeCommand(
                    request_id=4, cancel=order_pb2.CancelOrderRequest(client_order_id="g1")
                ),
                command(5, "XRP_USDC", "1", "1", "g4"),
            ],
        )
    )
    answer = await stream.read()
    assert [result.request_id for result in answer.results] == [1, 2, 3, 4, 5]
    kinds = [result.WhichOneof("result") for result in answer.results]
    assert kinds == ["placed", "placed", "placed", "cancelled", "error"]
    assert answer.results[4].error.reason == Reason.MARKET_NOT_FOUND
    shards = [shard_of(result.placed.order.order_id) for result in answer.results[:3]]
    assert shards == [1, 0, 1]
    seen: set[int] = set()
    while seen != {0, 1}:
        update = await watch.read()
        seen |= {update.shard} if update.orders else set()
    batch = await world.orders().BatchOrders(
        order_pb2.BatchOrdersRequest(
            commands=[
                order_pb2.TradeCommand(cancel_all=order_pb2.CancelAllOrdersRequest(market="")),
                command(7, "BTC_USDC", "100", "0.1", "g5"),
            ]
        ),
        metadata=metadata,
    )
    assert batch.results[0].all_cancelled.cancelled == 2
    await world.orders().CancelOrder(
        order_pb2.CancelOrderRequest(client_order_id="g5"), metadata=metadata
    )
    stream.cancel()
    watch.cancel()
    books = marketdata_pb2_grpc.MarketDataServiceStub(world.door)
    both: Any = books.WatchBook(marketdata_pb2.WatchBookRequest(markets=["BTC_USDC", "SOL_USDC"]))
    assert {(await both.read()).books[0].market for _ in range(2)} == {"BTC_USDC", "SOL_USDC"}
    both.cancel()


@pytest.mark.asyncio(loop_scope="session")
async def test_a_websocket_trades_on_both_shards(world: World) -> None:
    async with world.http.websocket() as socket:

        async def send(number: int, **operation: Any) -> None:
            frame = gateway_pb2.ClientFrame(id=number, **operation)
            await socket.send_str(json_format.MessageToJson(frame, indent=None))

        async def frame(wanted: Any) -> gateway_pb2.ServerFrame:
            while True:
                message = await socket.receive(timeout=60)
                found = json_format.Parse(message.data, gateway_pb2.ServerFrame())
                if wanted(found):
                    return found

        await send(1, auth=gateway_pb2.Auth(access_token=await world.person.token()))
        await frame(lambda f: f.id == 1)
        account = gateway_pb2.Subscription(channel=gateway_pb2.CHANNEL_ACCOUNT)
        await send(2, subscribe=account)
        shards = {
            (await frame(lambda f: f.HasField("account"))).account.shard,
            (await frame(lambda f: f.HasField("account"))).account.shard,
        }
        assert shards == {0, 1}
        await send(3, place=command(0, "BTC_USDC", "100", "0.1", "w1").place)
        placed = await frame(lambda f: f.id == 3)
        assert shard_of(placed.placed.order.order_id) == 0
        sell = command(0, "SOL_USDC", "800", "1", "w2").place
        sell.side = types_pb2.SIDE_SELL
        await send(4, place=sell)
        placed = await frame(lambda f: f.id == 4)
        assert shard_of(placed.placed.order.order_id) == 1
    assert (await world.call("DELETE", "/v1/orders"))["cancelled"] == 2


@pytest.mark.asyncio(loop_scope="session")
async def test_a_bot_at_the_wrong_engine_is_told_the_right_one(world: World) -> None:
    metadata = await bearer(world.person)
    async with grpc.aio.insecure_channel(world.exchange.service_address("engine")) as wrong:
        stub = order_pb2_grpc.OrderServiceStub(wrong)
        sell = command(0, "SOL_USDC", "900", "1", "d1").place
        sell.side = types_pb2.SIDE_SELL
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.PlaceOrder(sell, metadata=metadata)
        told = refused_from(refused.value)
        assert told.reason is Reason.WRONG_SHARD and told.details["shard"] == "1"
    markets = await world.call("GET", "/v1/markets/SOL_USDC")
    assert markets["market"]["endpoints"] == [told.details["endpoints"]]
    async with grpc.aio.insecure_channel(told.details["endpoints"]) as right:
        stub = order_pb2_grpc.OrderServiceStub(right)
        order = (await stub.PlaceOrder(sell, metadata=metadata)).order
    async with grpc.aio.insecure_channel(world.exchange.service_address("engine")) as wrong:
        stub = order_pb2_grpc.OrderServiceStub(wrong)
        asked: list[tuple[Any, Any]] = [
            (stub.GetOrder, order_pb2.GetOrderRequest(order_id=order.order_id)),
            (stub.CancelOrder, order_pb2.CancelOrderRequest(order_id=order.order_id)),
        ]
        for call, request in asked:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(request, metadata=metadata)
            assert refused_from(refused.value).reason is Reason.WRONG_SHARD
    await world.call("DELETE", f"/v1/orders/{order.order_id}")


@pytest.mark.asyncio(loop_scope="session")
async def test_the_other_shard_trades_on_when_one_is_killed(world: World) -> None:
    kept = await world.place("SOL_USDC", "SELL", "900", "2")
    killed = pid_of(world.exchange, "engine-shard1")
    assert killed is not None
    metadata = await bearer(world.person)
    stream: Any = world.orders().TradeStream(metadata=metadata)
    os.kill(killed, signal.SIGKILL)
    for number in range(20):
        await stream.write(
            order_pb2.TradeStreamRequest(
                commands=[command(number, "BTC_USDC", "100", "0.02", f"k{number}")]
            )
        )
        [result] = (await stream.read()).results
        assert result.HasField("placed"), result
        assert await world.place("BTC_USDC", "BUY", "99", "0.1")
    # A transfer meanwhile: debited at once, credited when the shard is back.
    moved = await world.transfer("5", "while-it-is-down")
    assert moved["status"] in {f"TRANSFER_STATUS_{name}" for name in ("HELD", "COMPLETED")}
    await eventually(lambda: world.place("SOL_USDC", "SELL", "901", "1"), timeout_s=60)
    listed = (await world.call("GET", "/v1/orders"))["orders"]
    assert str(kept) in {order["orderId"] for order in listed}

    async def completed() -> bool:
        found = await world.transfer("5", "while-it-is-down")
        return bool(found["status"] == COMPLETED)

    await eventually(completed, timeout_s=60)
    stream.cancel()
    await eventually(lambda: tidebook(world.exchange, "status").returncode == 0, timeout_s=60)
    told = tidebook(world.exchange, "verify")
    assert told.returncode == 0 and "zero differences" in told.stdout, told.stdout
    assert "shard 1" in told.stdout
