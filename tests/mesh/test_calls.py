"""What a call meets on its way through a listener."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tidebook.engine.v1 import (
    market_pb2,
    market_pb2_grpc,
    order_pb2,
    order_pb2_grpc,
    position_pb2,
    position_pb2_grpc,
)

from kernel.reasons import Reason, Refused
from mesh.calls import CallContext, current_call, reset_call, set_call
from mesh.config import Settings
from mesh.identity import CertificateAuthority
from mesh.server import ServiceHost
from mesh.status import refused_from, rpc_status_from
from mesh.telemetry import current_trace
from tests.mesh.conftest import VALID_ORDER, Mesh, new_servicer, refusal, start_host


async def test_a_refusal_arrives_with_field_and_details(mesh: Mesh) -> None:
    stub = order_pb2_grpc.OrderServiceStub(await mesh.public())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.PlaceOrder(VALID_ORDER, metadata=mesh.bearer())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    refused = refused_from(caught.value)
    assert refused.reason is Reason.PRICE_NOT_ON_TICK
    assert refused.field == "price"
    assert refused.details == {"tick_size": "0.01"}


async def test_every_broken_rule_of_a_message_is_named(mesh: Mesh) -> None:
    stub = order_pb2_grpc.OrderServiceStub(await mesh.public())
    with pytest.raises(grpc.RpcError) as caught:
        await stub.PlaceOrder(order_pb2.PlaceOrderRequest(), metadata=mesh.bearer())
    assert refused_from(caught.value).reason is Reason.INVALID_ARGUMENT
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in rpc_status_from(caught.value).details)
    assert {"market", "side", "type"} <= {violation.field for violation in bad.field_violations}


async def test_messages_of_a_stream_are_validated_too(mesh: Mesh) -> None:
    stub = order_pb2_grpc.OrderServiceStub(await mesh.public())
    stream = stub.TradeStream(metadata=mesh.bearer())
    broken = order_pb2.TradeStreamRequest()
    broken.commands.add()
    broken.commands[0].place.market = "not a market"
    await stream.write(broken)
    refused = await refusal(stream.read())
    assert refused.reason is Reason.INVALID_ARGUMENT
    assert refused.field.startswith("commands[0]")


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05ab", b"\x00\x00", b"\x0b" * 200])
async def test_bytes_that_are_no_message_are_refused_like_any_bad_request(
    mesh: Mesh, data: bytes
) -> None:
    channel = await mesh.public()
    service = "/tidebook.engine.v1.OrderService"
    place: Any = channel.unary_unary(f"{service}/PlaceOrder")
    assert (await refusal(place(data, metadata=mesh.bearer()))).reason is Reason.INVALID_ARGUMENT
    watch: Any = channel.unary_stream(f"{service}/WatchAccount")
    answers = watch(data, metadata=mesh.bearer())
    assert (await refusal(answers.read())).reason is Reason.INVALID_ARGUMENT
    trade: Any = channel.stream_stream(f"{service}/TradeStream")
    stream = trade(metadata=mesh.bearer())
    await stream.write(b"")
    assert await stream.read() == b""
    await stream.write(data)
    assert (await refusal(stream.read())).reason is Reason.INVALID_ARGUMENT
    # Who asks is looked at before what is asked.
    assert (await refusal(place(data))).reason is Reason.UNAUTHENTICATED


async def test_a_crash_shows_nothing_internal(mesh: Mesh) -> None:
    stub = order_pb2_grpc.OrderServiceStub(await mesh.public())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CancelOrder(order_pb2.CancelOrderRequest(order_id=1), metadata=mesh.bearer())
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(caught.value)


async def test_a_method_the_servicer_lacks_is_not_implemented(mesh: Mesh) -> None:
    stub = market_pb2_grpc.MarketServiceStub(await mesh.public())
    refused = await refusal(stub.ListMarkets(market_pb2.ListMarketsRequest()))
    assert refused.reason is Reason.NOT_IMPLEMENTED


async def test_a_service_that_is_not_there_is_not_implemented(mesh: Mesh) -> None:
    stub = position_pb2_grpc.PositionServiceStub(await mesh.public())
    refused = await refusal(stub.ListPositions(position_pb2.ListPositionsRequest()))
    assert refused.reason is Reason.NOT_IMPLEMENTED


async def test_a_hop_keeps_some_of_the_deadline_for_itself(mesh: Mesh) -> None:
    seen: list[float] = []

    async def note(context: Any) -> None:
        seen.append(context.time_remaining())

    mesh.servicer.on_get = note
    stub = market_pb2_grpc.MarketServiceStub(await mesh.internal())
    await stub.GetServerTime(market_pb2.GetServerTimeRequest())
    # gRPC rounds deadlines up on the wire, by up to 3 %.
    assert 4.0 < seen[-1] <= 5.15, "the default deadline of a call that names none"
    token = set_call(CallContext(deadline=current_deadline(in_seconds=1.0)))
    try:
        await stub.GetServerTime(market_pb2.GetServerTimeRequest())
    finally:
        reset_call(token)
    assert 0 < seen[-1] <= 0.98, "50 ms less than what the current call has left"


def current_deadline(*, in_seconds: float) -> float:
    return asyncio.get_running_loop().time() + in_seconds


async def test_a_call_after_its_deadline_is_not_even_sent(mesh: Mesh) -> None:
    stub = market_pb2_grpc.MarketServiceStub(await mesh.internal())
    token = set_call(CallContext(deadline=current_deadline(in_seconds=-1.0)))
    try:
        with pytest.raises(Refused) as caught:
            await stub.GetServerTime(market_pb2.GetServerTimeRequest())
    finally:
        reset_call(token)
    assert caught.value.reason is Reason.DEADLINE_PASSED


async def test_a_handler_is_cancelled_when_the_callers_deadline_passes(mesh: Mesh) -> None:
    cancelled = asyncio.Event()

    async def hang(_: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    mesh.servicer.on_get = hang
    stub = market_pb2_grpc.MarketServiceStub(await mesh.internal())
    refused = await refusal(stub.GetServerTime(market_pb2.GetServerTimeRequest(), timeout=0.2))
    assert refused.reason is Reason.DEADLINE_PASSED
    await asyncio.wait_for(cancelled.wait(), 5)


async def test_trace_request_id_and_token_go_on_to_the_next_service(mesh: Mesh) -> None:
    seen: list[tuple[Any, CallContext]] = []
    trace_id = "0af7651916cd43dd8448eb211c80319c"

    async def note(_: Any) -> None:
        seen.append((current_trace(), current_call()))
        if len(seen) == 1:
            await stub.GetServerTime(market_pb2.GetServerTimeRequest())

    mesh.servicer.on_get = note
    stub = market_pb2_grpc.MarketServiceStub(await mesh.internal())
    await stub.GetServerTime(
        market_pb2.GetServerTimeRequest(),
        # gRPC sends deadlines up to 3 % longer than they are: 50 ms show in a short one only.
        timeout=1.0,
        metadata=(
            ("traceparent", f"00-{trace_id}-b7ad6b7169203331-01"),
            ("x-request-id", "r-1"),
            ("authorization", "Bearer t"),
        ),
    )
    (first_trace, first), (second_trace, second) = seen
    assert first_trace == second_trace
    assert first_trace.trace_id.hex() == trace_id
    assert (second.request_id, second.authorization) == ("r-1", "Bearer t")
    assert first.deadline and second.deadline and second.deadline < first.deadline


async def test_a_call_without_a_trace_gets_one(mesh: Mesh) -> None:
    seen: list[Any] = []

    async def note(_: Any) -> None:
        seen.append(current_trace())

    mesh.servicer.on_get = note
    stub = market_pb2_grpc.MarketServiceStub(await mesh.public())
    await stub.GetServerTime(market_pb2.GetServerTimeRequest())
    await stub.GetServerTime(market_pb2.GetServerTimeRequest())
    assert None not in seen and seen[0] != seen[1]


async def test_health_and_reflection_answer_on_the_public_listener(mesh: Mesh) -> None:
    channel = await mesh.public()
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    info = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
    await info.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    listed = await info.read()
    names = {service.name for service in listed.list_services_response.service}
    await info.done_writing()
    assert {"tidebook.engine.v1.OrderService", "grpc.health.v1.Health"} <= names


async def test_a_port_in_use_is_one_clear_line(mesh: Mesh) -> None:
    with pytest.raises(SystemExit, match=r"^engine: cannot listen on .*: is the port in use\?$"):
        await start_host(mesh.settings, new_servicer())


async def test_generic_handlers_pass_the_same_checks(settings: Settings) -> None:
    class Echo(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            async def echo(request: bytes, context: Any) -> bytes:
                return request

            return grpc.unary_unary_rpc_method_handler(echo)

    host = await ServiceHost.start(
        settings.model_copy(update={"grpc_port": 0}), service="gateway", generic=[Echo()]
    )
    assert host.internal_port == 0
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{host.public_port}") as channel:
            opened: Any = channel.unary_unary("/tidebook.engine.v1.MarketService/GetMarket")
            assert await opened(b"raw") == b"raw"
            closed: Any = channel.unary_unary("/tidebook.engine.v1.OrderService/PlaceOrder")
            assert (await refusal(closed(b"raw"))).reason is Reason.UNAUTHENTICATED
    finally:
        await host.drain()


async def test_public_listeners_speak_tls_when_they_have_a_certificate(settings: Settings) -> None:
    files = CertificateAuthority(settings.certificates_dir).issue("engine")
    with_tls = settings.model_copy(
        update={"public_tls_cert": files.certificate, "public_tls_key": files.key}
    )
    host = await start_host(with_tls, new_servicer())
    try:
        credentials = grpc.ssl_channel_credentials(files.authority.read_bytes())
        target = f"localhost:{host.public_port}"
        async with grpc.aio.secure_channel(target, credentials) as channel:
            stub = market_pb2_grpc.MarketServiceStub(channel)
            await stub.GetServerTime(market_pb2.GetServerTimeRequest())
    finally:
        await host.drain()


@pytest.mark.parametrize(
    ("proxies", "https_only", "taken"),
    [("127.0.0.0/8", True, True), ("10.0.0.1", True, False), ("10.0.0.1", False, True)],
)
async def test_public_listeners_without_a_certificate_take_calls_from_here_and_from_proxies(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    proxies: str,
    https_only: bool,
    taken: bool,
) -> None:
    # The client of this test is a machine elsewhere, unless it is a proxy.
    monkeypatch.setattr("mesh.server.LOOPBACK", ())
    host = await start_host(
        settings.model_copy(update={"https_only": https_only, "trusted_proxies": proxies}),
        new_servicer(),
    )
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{host.public_port}") as channel:
            call = market_pb2_grpc.MarketServiceStub(channel).GetServerTime(
                market_pb2.GetServerTimeRequest()
            )
            if taken:
                await call
                return
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert refused_from(caught.value).reason is Reason.HTTPS_REQUIRED
    finally:
        await host.drain()


async def test_a_handler_may_check_its_requests_itself(settings: Settings) -> None:
    class Lenient(market_pb2_grpc.MarketServiceServicer):
        async def GetMarket(
            self, request: market_pb2.GetMarketRequest, context: Any
        ) -> market_pb2.GetMarketResponse:
            return market_pb2.GetMarketResponse()

    name = "/tidebook.engine.v1.MarketService/GetMarket"
    for checked, reason in ((frozenset({name}), None), (frozenset[str](), Reason.INVALID_ARGUMENT)):
        host = await ServiceHost.start(
            settings,
            service="engine",
            public=[(market_pb2_grpc.add_MarketServiceServicer_to_server, Lenient())],  # type: ignore[abstract]
            checked_by_handler=checked,
        )
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{host.public_port}") as channel:
                call = market_pb2_grpc.MarketServiceStub(channel).GetMarket(
                    market_pb2.GetMarketRequest(market="not a market")
                )
                if reason is None:
                    await call
                else:
                    assert (await refusal(call)).reason is reason
        finally:
            await host.drain()
