"""Trace contexts and the built-in span store."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from redis.asyncio import Redis

from kernel.reasons import Reason, Refused
from mesh import telemetry
from mesh.config import Settings, load_settings
from mesh.redis import open_redis
from mesh.telemetry import (
    SpanRecorder,
    Stage,
    TraceContext,
    format_traceparent,
    new_trace,
    parse_traceparent,
    read_order_trace,
)
from tests.support import eventually

HEADER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_traceparent_survives_parsing() -> None:
    context = parse_traceparent(HEADER)
    assert context is not None
    assert context.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert format_traceparent(context) == HEADER


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "nonsense",
        HEADER.upper(),
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01",
        "ff" + HEADER[2:],
        HEADER[:-4],
    ],
)
def test_a_broken_traceparent_is_no_trace(header: str | None) -> None:
    assert parse_traceparent(header) is None


def test_a_derived_span_is_the_same_again_and_others_are_not() -> None:
    trace = new_trace()
    assert trace.derived("apply", 4) == trace.derived("apply", 4)
    others = {trace.derived("apply", 5), trace.derived("append", 4), trace.child(), trace.child()}
    assert len({context.span_id for context in others} | {trace.span_id}) == 5
    assert {context.trace_id for context in others} == {trace.trace_id}


async def test_the_stages_of_a_span_are_spans_below_it(redis: Redis, settings: Settings) -> None:
    root = new_trace()
    recorder = SpanRecorder("engine", redis, settings)
    stages = (Stage("wait", 100, 150), Stage("work", 150, 190, {"seq": "7"}))
    for _ in range(2):
        recorder.record("place", root, None, 100, 200, stages, market="BTC_USDC")
    recorder.link_order(12, 7, root.trace_id)
    await recorder.close()
    _, (place, wait, work) = await read_order_trace(redis, 12)
    assert (place.span_id, place.attributes) == (root.span_id, {"market": "BTC_USDC"})
    for span, stage in zip((wait, work), stages, strict=True):
        assert (span.name, span.start_ns, span.end_ns, span.attributes) == stage
        assert (span.trace_id, span.parent_span_id) == (root.trace_id, root.span_id)
    assert len({place.span_id, wait.span_id, work.span_id}) == 3


async def test_the_spans_of_an_order_are_found_by_its_id(redis: Redis, settings: Settings) -> None:
    root = new_trace()
    gateway = SpanRecorder("gateway", redis, settings)
    engine = SpanRecorder("engine", redis, settings)
    match = root.derived("match")
    gateway.record("http", root, None, 100, 900, path="/v1/orders", status=200)
    engine.record("engine.match", match, root.span_id, 200, 300)
    # A consumer that reads the same entry twice makes the same span twice.
    engine.record("engine.match", match, root.span_id, 200, 300)
    engine.link_order(12, 7, root.trace_id)
    await asyncio.gather(gateway.close(), engine.close())
    account_id, spans = await read_order_trace(redis, 12)
    assert account_id == 7
    assert [(span.service, span.name) for span in spans] == [
        ("gateway", "http"),
        ("engine", "engine.match"),
    ]
    assert spans[0].attributes == {"path": "/v1/orders", "status": "200"}
    assert (spans[0].parent_span_id, spans[1].parent_span_id) == (b"", root.span_id)
    assert 0 < await redis.ttl(f"trace:{root.trace_id.hex()}") <= settings.trace_keep_seconds


async def test_spans_are_written_without_being_asked(redis: Redis, settings: Settings) -> None:
    recorder = SpanRecorder("engine", redis, settings)
    context = new_trace()
    recorder.record("work", context, None, 1, 2)

    async def written() -> None:
        assert await redis.llen(f"trace:{context.trace_id.hex()}") == 1

    await eventually(written)
    await recorder.close()


async def test_an_unknown_order_has_no_trace(redis: Redis) -> None:
    with pytest.raises(Refused) as caught:
        await read_order_trace(redis, 404)
    assert caught.value.reason is Reason.ORDER_NOT_FOUND


async def test_a_full_queue_drops_and_counts(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "QUEUE_MAX", 3)
    recorder = SpanRecorder("engine", redis, settings)
    context = new_trace()
    for _ in range(5):
        recorder.record("work", context.child(), None, 1, 2)
    assert recorder.dropped == 2
    await recorder.close()
    assert await redis.llen(f"trace:{context.trace_id.hex()}") == 3


async def test_a_store_that_is_away_costs_spans_and_nothing_else(settings: Settings) -> None:
    nowhere = open_redis(load_settings(redis_url="unix:///nonexistent/socket"))
    recorder = SpanRecorder("engine", nowhere, settings)
    recorder.record("work", new_trace(), None, 1, 2)
    await recorder.close()
    assert recorder.dropped == 1
    await nowhere.aclose()


async def test_a_long_trace_keeps_its_newest_spans(redis: Redis, settings: Settings) -> None:
    recorder = SpanRecorder("engine", redis, settings)
    context = new_trace()
    for number in range(telemetry.SPANS_PER_TRACE_MAX + 5):
        recorder.record("work", context.child(), None, number, number + 1)
    recorder.link_order(1, 1, context.trace_id)
    await recorder.close()
    _, spans = await read_order_trace(redis, 1)
    assert len(spans) == telemetry.SPANS_PER_TRACE_MAX
    assert spans[0].start_ns == 5


async def test_a_collector_gets_every_span(redis: Redis, settings: Settings) -> None:
    received: list[trace_service_pb2.ExportTraceServiceRequest] = []

    class Collector(trace_service_pb2_grpc.TraceServiceServicer):
        async def Export(
            self, request: trace_service_pb2.ExportTraceServiceRequest, context: object
        ) -> trace_service_pb2.ExportTraceServiceResponse:
            received.append(request)
            return trace_service_pb2.ExportTraceServiceResponse()

    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Collector(), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    with_collector = settings.model_copy(update={"otlp_endpoint": f"http://127.0.0.1:{port}"})
    recorder = SpanRecorder("engine", redis, with_collector)
    root = TraceContext(b"t" * 16, b"r" * 8)
    child = root.child()
    stages = (Stage("first", 1_000, 2_000), Stage("second", 2_000, 2_500, {"seq": "7"}))
    recorder.record("engine.match", child, root.span_id, 1_000, 2_500, stages, market="BTC_USDC")
    await recorder.close()
    await server.stop(0)
    (resource_spans,) = received[0].resource_spans
    (span, *parts) = resource_spans.scope_spans[0].spans
    assert [(part.name, part.start_time_unix_nano) for part in parts] == [
        ("first", 1_000),
        ("second", 2_000),
    ]
    assert all(part.parent_span_id == child.span_id for part in parts)
    assert (span.trace_id, span.span_id, span.parent_span_id) == (
        root.trace_id,
        child.span_id,
        root.span_id,
    )
    assert (span.name, span.start_time_unix_nano, span.end_time_unix_nano) == (
        "engine.match",
        1_000,
        2_500,
    )
    attributes = {pair.key: pair.value.string_value for pair in resource_spans.resource.attributes}
    assert attributes["service.name"] == "engine"
