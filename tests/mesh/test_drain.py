"""A service that stops leaves nobody without an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, MutableMapping
from typing import Any

import grpc
import pytest
import structlog
from tidebook.engine.v1 import market_pb2, market_pb2_grpc, order_pb2, order_pb2_grpc

from kernel.reasons import Reason, Refused
from mesh.channel import cancelling, open_channel
from mesh.config import load_settings
from tests.mesh.conftest import Mesh, new_servicer, start_host
from tests.support import eventually, free_ports
from tests.support.streams import reason_of_end


async def test_a_watch_is_told_to_go_elsewhere_and_cleans_up(mesh: Mesh) -> None:
    stub = order_pb2_grpc.OrderServiceStub(await mesh.public())
    call = stub.WatchAccount(order_pb2.WatchAccountRequest(), metadata=mesh.bearer(account_id=5))
    async with cancelling(call):
        await call.read()
        await mesh.host.drain()
        assert await reason_of_end(call) is Reason.DRAINING
    assert mesh.servicer.finished == ["watch of 5"]


async def test_a_watch_that_is_writing_finishes_the_message_and_then_ends(mesh: Mesh) -> None:
    stub = order_pb2_grpc.OrderServiceStub(await mesh.public())
    calls = [
        stub.WatchAccount(order_pb2.WatchAccountRequest(), metadata=mesh.bearer())
        for _ in range(50)
    ]
    try:
        await eventually(lambda: len(mesh.host.streams) == 50)
        # Many are in the middle of their first message now.
        await mesh.host.drain()
        for call in calls:
            assert await reason_of_end(call) is Reason.DRAINING
    finally:
        for call in calls:
            call.cancel()


async def test_a_trade_stream_answers_what_is_in_flight_first(mesh: Mesh) -> None:
    stub = order_pb2_grpc.OrderServiceStub(await mesh.public())
    request = order_pb2.TradeStreamRequest()
    command = request.commands.add()
    command.cancel.order_id = 1
    async with cancelling(stub.TradeStream(metadata=mesh.bearer())) as stream:
        await stream.write(request)
        assert isinstance(await stream.read(), order_pb2.TradeStreamResponse)
        drain = asyncio.create_task(mesh.host.drain())
        assert isinstance(await stream.read(), order_pb2.TradeStreamResponse)
        assert await reason_of_end(stream) is Reason.DRAINING
        await drain
    assert mesh.servicer.finished == ["trade stream"]


async def test_a_unary_call_under_way_is_finished(mesh: Mesh) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: Any) -> None:
        entered.set()
        await go_on.wait()

    mesh.servicer.on_get = slow
    stub = market_pb2_grpc.MarketServiceStub(await mesh.public())
    call = stub.GetServerTime(market_pb2.GetServerTimeRequest())
    await entered.wait()
    drain = asyncio.create_task(mesh.host.drain())
    await asyncio.sleep(0)
    go_on.set()
    assert isinstance(await call, market_pb2.GetServerTimeResponse)
    await drain


async def test_a_call_that_never_ends_does_not_hold_up_the_stop(mesh: Mesh) -> None:
    entered = asyncio.Event()

    async def hang(_: Any) -> None:
        entered.set()
        await asyncio.Event().wait()

    mesh.servicer.on_get = hang
    stub = market_pb2_grpc.MarketServiceStub(await mesh.public())
    async with cancelling(stub.GetServerTime(market_pb2.GetServerTimeRequest())) as call:
        await entered.wait()
        started = time.monotonic()
        await mesh.host.drain()
        assert time.monotonic() - started < mesh.settings.drain_seconds + 1
        with pytest.raises((grpc.RpcError, asyncio.CancelledError)):
            await call


async def test_a_client_that_leaves_ends_its_stream(mesh: Mesh) -> None:
    stub = order_pb2_grpc.OrderServiceStub(await mesh.public())
    call = stub.WatchAccount(order_pb2.WatchAccountRequest(), metadata=mesh.bearer(account_id=6))
    async with cancelling(call):
        await call.read()
        assert len(mesh.host.streams) == 1
    await eventually(lambda: mesh.servicer.finished == ["watch of 6"] and not mesh.host.streams)


def ends_of(logs: Iterable[MutableMapping[str, Any]]) -> list[str]:
    return [line["event"] for line in logs if line["event"].startswith(("call_", "stream_"))]


def account_of(orders: int) -> order_pb2.WatchAccountResponse:
    """A message of about 400 bytes for each order."""
    one = order_pb2.Order(client_order_id="x" * 400)
    return order_pb2.WatchAccountResponse(orders=[one] * orders)


async def test_a_client_that_leaves_in_the_middle_of_a_message_is_no_crash(mesh: Mesh) -> None:
    written = 0

    async def updates() -> AsyncIterator[order_pb2.WatchAccountResponse]:
        nonlocal written
        while True:
            written += 1
            yield account_of(1000)

    mesh.servicer.on_watch = updates
    channel = await mesh.public()
    markets = market_pb2_grpc.MarketServiceStub(channel)
    stub = order_pb2_grpc.OrderServiceStub(channel)
    call = stub.WatchAccount(order_pb2.WatchAccountRequest(), metadata=mesh.bearer(account_id=6))

    async def nothing_more_is_written() -> bool:
        before = written
        await markets.GetServerTime(market_pb2.GetServerTimeRequest())
        return 1 < before == written

    with structlog.testing.capture_logs() as logs:
        async with cancelling(call):
            await call.read()
            await eventually(nothing_more_is_written)
        await eventually(lambda: not mesh.host.streams)
    assert mesh.servicer.finished == ["watch of 6"]
    assert ends_of(logs) == ["stream_opened", "stream_cancelled"]


async def test_a_message_too_large_to_be_sent_is_a_crash(mesh: Mesh) -> None:
    async def updates() -> AsyncIterator[order_pb2.WatchAccountResponse]:
        yield account_of(mesh.settings.grpc_max_message_bytes // 400)

    mesh.servicer.on_watch = updates
    stub = order_pb2_grpc.OrderServiceStub(await mesh.public())
    call = stub.WatchAccount(order_pb2.WatchAccountRequest(), metadata=mesh.bearer())
    with structlog.testing.capture_logs() as logs:
        async with cancelling(call):
            await call.read()
            with pytest.raises(grpc.RpcError) as caught:
                await call.read()
        await eventually(lambda: not mesh.host.streams)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ends_of(logs) == ["stream_opened", "call_crashed"]
    assert "too large" in str(logs[-1]["exc_info"])


async def test_calls_move_to_a_replica_that_is_healthy(mesh: Mesh) -> None:
    second_port = free_ports([0, 100])
    second_settings = mesh.settings.model_copy(update={"engine_port": second_port})
    second_servicer = new_servicer()
    second = await start_host(second_settings, second_servicer)
    both = f"127.0.0.1:{mesh.host.internal_port},127.0.0.1:{second.internal_port}"
    served = {"first": 0, "second": 0}

    def count(name: str) -> Any:
        async def note(_: Any) -> None:
            served[name] += 1

        return note

    mesh.servicer.on_get, second_servicer.on_get = count("first"), count("second")
    settings = load_settings(data_dir=mesh.settings.data_dir, engine_address=both)
    try:
        async with open_channel(settings, "engine", caller="gateway") as channel:
            stub = market_pb2_grpc.MarketServiceStub(channel)

            async def call() -> None:
                await stub.GetServerTime(market_pb2.GetServerTimeRequest(), wait_for_ready=True)

            async def both_serve() -> None:
                await call()
                assert all(served.values())

            await eventually(both_serve)
            await mesh.host.set_serving(False)

            async def only_second_serves() -> None:
                before = served["first"]
                for _ in range(4):
                    await call()
                assert served["first"] == before

            await eventually(only_second_serves)
            await mesh.host.set_serving(True)
            served["first"] = 0
            await eventually(both_serve)
    finally:
        await second.drain()


async def test_a_restarted_peer_is_found_again_and_reads_are_retried(mesh: Mesh) -> None:
    stub = market_pb2_grpc.MarketServiceStub(await mesh.internal())
    await stub.GetServerTime(market_pb2.GetServerTimeRequest())
    await mesh.host.drain()
    again = await start_host(mesh.settings, mesh.servicer)
    try:

        async def call() -> None:
            await stub.GetServerTime(market_pb2.GetServerTimeRequest())

        await eventually(call)
    finally:
        await again.drain()


async def test_a_read_that_fails_as_unavailable_is_tried_again(mesh: Mesh) -> None:
    tries = []

    async def fail_once(_: Any) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise Refused(Reason.UNAVAILABLE)

    mesh.servicer.on_get = fail_once
    stub = market_pb2_grpc.MarketServiceStub(await mesh.internal())
    await stub.GetServerTime(market_pb2.GetServerTimeRequest())
    assert len(tries) == 2
