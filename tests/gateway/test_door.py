"""The one gRPC door: bytes through, in all four kinds, with everything around them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from tidebook.engine.v1 import internal_pb2 as engine_internal_pb2
from tidebook.engine.v1 import (
    internal_pb2_grpc,
    market_pb2,
    market_pb2_grpc,
    order_pb2,
    order_pb2_grpc,
    types_pb2,
)
from tidebook.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from tidebook.marketdata.v1 import marketdata_pb2, marketdata_pb2_grpc
from tidebook.settlement.v1 import history_pb2, history_pb2_grpc

from tests.gateway.conftest import Start, World
from tests.support import eventually

ORDER = order_pb2.PlaceOrderRequest(
    market="BTC_USDC",
    side=types_pb2.SIDE_BUY,
    type=types_pb2.ORDER_TYPE_LIMIT,
    price="1",
    quantity="1",
)


def auth(world: World, account_id: int = 7) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {world.auth.token(account_id)}"),)


async def test_a_unary_call_keeps_metadata_and_trailers(
    world: World, door: grpc.aio.Channel
) -> None:
    orders = order_pb2_grpc.OrderServiceStub(door)
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    answer = await orders.PlaceOrder(
        ORDER,
        metadata=(
            *auth(world),
            ("note", "hello"),
            ("x-forwarded-for", "1.2.3.4"),
            ("traceparent", f"00-{trace_id}-b7ad6b7169203331-01"),
        ),
    )
    assert answer.order.order_id == 1
    metadata = world.engine.metadata
    assert metadata["note"] == "hello"
    assert metadata["x-forwarded-for"] == "127.0.0.1"
    assert metadata["traceparent"].split("-")[1] == trace_id
    call: Any = market_pb2_grpc.MarketServiceStub(door).GetServerTime(
        market_pb2.GetServerTimeRequest()
    )
    await call
    assert dict(await call.trailing_metadata())["x-trailer"] == "end"
    listed: Any = market_pb2_grpc.MarketServiceStub(door).ListMarkets(
        market_pb2.ListMarketsRequest()
    )
    assert dict(await listed.initial_metadata())["x-shard"] == "0"
    await listed


async def test_a_refusal_arrives_whole(world: World, door: grpc.aio.Channel) -> None:
    wrong = order_pb2.PlaceOrderRequest()
    wrong.CopyFrom(ORDER)
    wrong.price = "0.001"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await order_pb2_grpc.OrderServiceStub(door).PlaceOrder(wrong, metadata=auth(world))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    status: Any = rpc_status.from_call(caught.value)
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(bad)
    assert info.reason == "PRICE_NOT_ON_TICK"
    assert info.metadata["tick_size"] == "0.01"
    assert bad.field_violations[0].field == "price"


async def test_the_deadline_goes_along(world: World, door: grpc.aio.Channel) -> None:
    world.engine.delay_seconds = 5
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await market_pb2_grpc.MarketServiceStub(door).GetServerTime(
            market_pb2.GetServerTimeRequest(), timeout=0.3
        )
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_server_stream_ends_as_it_ended_behind(
    world: World, door: grpc.aio.Channel
) -> None:
    history = history_pb2_grpc.HistoryServiceStub(door)
    request = history_pb2.ExportHistoryRequest(kind=history_pb2.HISTORY_KIND_ORDERS)
    pieces = [piece.csv async for piece in history.ExportHistory(request, metadata=auth(world))]
    assert pieces == ["line 0\n", "line 1\n", "line 2\n"]
    world.history.breaks = True
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in history.ExportHistory(request, metadata=auth(world)):
            pass
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_bidirectional_stream_goes_both_ways(world: World, door: grpc.aio.Channel) -> None:
    call: Any = order_pb2_grpc.OrderServiceStub(door).TradeStream(metadata=auth(world))
    for number in range(1, 4):
        request = order_pb2.TradeStreamRequest()
        request.commands.add(request_id=number).place.CopyFrom(ORDER)
        await call.write(request)
        answer = await call.read()
        assert answer.results[0].request_id == number
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK
    await eventually(lambda: world.engine.ended == ["trade stream of 7, cancel False"])


async def test_a_half_closed_stream_is_answered_to_its_end(
    world: World, door: grpc.aio.Channel
) -> None:
    async def requests() -> AsyncIterator[marketdata_pb2.SubscribeRequest]:
        for number in range(1, 20):
            request = marketdata_pb2.SubscribeRequest(request_id=number)
            request.prices.SetInParent()
            yield request

    stub = marketdata_pb2_grpc.MarketDataServiceStub(door)
    seen = [answer.acknowledged async for answer in stub.Subscribe(requests())]
    assert seen == list(range(1, 20))


async def test_cancelling_reaches_the_service_and_leaves_no_call(
    world: World, door: grpc.aio.Channel
) -> None:
    orders = order_pb2_grpc.OrderServiceStub(door)
    trading: Any = orders.TradeStream(metadata=auth(world, 8))
    await trading.write(order_pb2.TradeStreamRequest())
    watching: Any = orders.WatchAccount(order_pb2.WatchAccountRequest(), metadata=auth(world, 9))
    await watching.read()
    trading.cancel()
    watching.cancel()
    await eventually(
        lambda: (
            sorted(world.engine.ended) == ["account stream of 9", "trade stream of 8, cancel False"]
        )
    )
    await no_calls_left(world)


async def no_calls_left(world: World) -> None:
    async with aiohttp.ClientSession(world.url) as http:

        async def none() -> None:
            async with http.get("/metrics") as answer:
                assert "tidebook_door_calls_open 0\n" in await answer.text()

        await eventually(none)


async def test_a_service_that_stops_ends_the_stream_with_its_reason(
    world: World, door: grpc.aio.Channel
) -> None:
    orders = order_pb2_grpc.OrderServiceStub(door)
    call: Any = orders.WatchAccount(order_pb2.WatchAccountRequest(), metadata=auth(world))
    await call.read()
    await world.stop_service("engine")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while await asyncio.wait_for(call.read(), 10) is not grpc.aio.EOF:
            pass
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await no_calls_left(world)


async def test_internal_services_are_not_there(world: World, door: grpc.aio.Channel) -> None:
    internal = internal_pb2_grpc.EngineInternalServiceStub(door)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await internal.GetEngineState(
            engine_internal_pb2.GetEngineStateRequest(), metadata=auth(world)
        )
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_without_a_token_private_methods_are_refused_at_the_door(
    world: World, door: grpc.aio.Channel
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await order_pb2_grpc.OrderServiceStub(door).PlaceOrder(ORDER)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway_pb2_grpc.TraceServiceStub(door).GetOrderTrace(
            gateway_pb2.GetOrderTraceRequest(order_id=1)
        )
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_tool_that_knows_nothing_calls_by_reflection(
    world: World, door: grpc.aio.Channel
) -> None:
    """As grpcurl does: from a service's name to its answer, with no generated code."""
    stub = reflection_pb2_grpc.ServerReflectionStub(door)
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    call: Any = stub.ServerReflectionInfo()

    async def fetch(**question: str) -> None:
        await call.write(reflection_pb2.ServerReflectionRequest(**question))
        answer = await call.read()
        for raw in answer.file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(raw)
            if file.name not in files:
                files[file.name] = file
                for needed in file.dependency:
                    await fetch(file_by_filename=needed)

    await fetch(file_containing_symbol="tidebook.engine.v1.OrderService")
    call.cancel()
    pool = descriptor_pool.DescriptorPool()

    def add(name: str) -> None:
        file = files.pop(name, None)
        if file is not None:
            for needed in file.dependency:
                add(needed)
            pool.Add(file)

    for name in list(files):
        add(name)
    method = pool.FindServiceByName("tidebook.engine.v1.OrderService").methods_by_name["PlaceOrder"]
    request = message_factory.GetMessageClass(method.input_type)()
    json_format.ParseDict(
        {
            "market": "BTC_USDC",
            "side": "SIDE_BUY",
            "type": "ORDER_TYPE_LIMIT",
            "price": "1",
            "quantity": "1",
        },
        request,
    )
    place: Any = door.unary_unary(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    answer: Any = await place(request, metadata=auth(world))
    assert answer.order.order_id == 1
    assert world.engine.placed[0].market == "BTC_USDC"


async def test_connections_of_the_door_are_limited(start_world: Start) -> None:
    world = await start_world(grpc_max_connections=2)
    async with contextlib.AsyncExitStack() as stack:
        for number in range(2):
            # Else channels to one address share a connection.
            options = [("grpc.use_local_subchannel_pool", 1), ("test.number", number)]
            channel = await stack.enter_async_context(
                grpc.aio.insecure_channel(world.door, options=options)
            )
            await market_pb2_grpc.MarketServiceStub(channel).ListMarkets(
                market_pb2.ListMarketsRequest()
            )
        reader, writer = await asyncio.open_connection("127.0.0.1", world.settings.grpc_port)
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()


async def test_reflection_and_health_cover_everything(world: World, door: grpc.aio.Channel) -> None:
    health = health_pb2_grpc.HealthStub(door)
    answer = await health.Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    stub = reflection_pb2_grpc.ServerReflectionStub(door)
    call: Any = stub.ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    response = await call.read()
    names = {service.name for service in response.list_services_response.service}
    await call.write(
        reflection_pb2.ServerReflectionRequest(
            file_containing_symbol="tidebook.engine.v1.OrderService"
        )
    )
    assert (await call.read()).file_descriptor_response.file_descriptor_proto
    call.cancel()
    assert {
        "tidebook.auth.v1.AuthService",
        "tidebook.engine.v1.OrderService",
        "tidebook.gateway.v1.TraceService",
        "tidebook.marketdata.v1.MarketDataService",
        "tidebook.settlement.v1.HistoryService",
    } <= names
    assert not any("Internal" in name for name in names)
