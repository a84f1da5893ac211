"""Trace contexts and the built-in span store."""

from __future__ import annotations

import asyncio
import re
from random import Random

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from redis.asyncio import Redis

from kernel.clock import NS_PER_SECOND
from kernel.reasons import Reason, Refused
from mesh import span_store, telemetry
from mesh.config import Settings, load_settings
from mesh.redis import open_redis
from mesh.span_format import SLOT_NS
from mesh.telemetry import (
    SpanRecorder,
    Stage,
    TraceContext,
    derived_id,
    format_traceparent,
    new_trace,
    parse_traceparent,
    random_id,
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


@given(
    st.lists(st.sampled_from("00ff019aAgG- \n\u0661"), max_size=3).map("".join),
    st.integers(0, 60),
    st.booleans(),
)
def test_a_traceparent_is_taken_as_the_standard_says(part: str, at: int, replaced: bool) -> None:
    header = HEADER[:at] + part + HEADER[at + len(part) * replaced :]
    # As the standard writes it, step by step.
    shape = re.fullmatch("([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?", header)
    good = shape is not None and shape[1] != "ff" and int(shape[2], 16) and int(shape[3], 16)
    context = parse_traceparent(header)
    assert (context is not None) == bool(good)
    if context is not None and shape is not None:
        assert (context.trace_id.hex(), context.span_id.hex()) == (shape[2], shape[3])


def test_a_derived_span_is_the_same_again_and_others_are_not() -> None:
    trace = new_trace()
    assert trace.derived("apply", 4) == trace.derived("apply", 4)
    others = {trace.derived("apply", 5), trace.derived("append", 4), trace.child(), trace.child()}
    assert len({context.span_id for context in others} | {trace.span_id}) == 5
    assert {context.trace_id for context in others} == {trace.trace_id}
    assert trace.derived("a").derived("b") != trace.derived("b").derived("a")


@given(st.binary(min_size=8, max_size=8), st.integers(0, 1 << 60), st.integers(0, 1 << 60))
def test_spans_derived_from_one_are_as_many_as_their_names_and_numbers(
    span_id: bytes, one: int, other: int
) -> None:
    ids = [
        derived_id(span_id, name, number)
        for name in ("apply", "publish")
        for number in (one, other)
    ]
    assert len(set(ids)) == 2 * len({one, other})
    assert all(len(id_) == 8 for id_ in ids)


async def test_the_stages_of_a_span_are_spans_below_it(redis: Redis, settings: Settings) -> None:
    root = new_trace()
    recorder = SpanRecorder("engine", redis, settings)
    stages: tuple[Stage, ...] = (("wait", 100, 150, {}), ("work", 150, 190, {"seq": 7}))
    for _ in range(2):
        recorder.record("place", root, None, 100, 200, stages, market="BTC_USDC")
    recorder.link_order(12, 7, root, 100)
    await recorder.close()
    _, (place, wait, work) = await read_order_trace(redis, 12)
    assert (place.span_id, place.attributes) == (root.span_id, {"market": "BTC_USDC"})
    assert [(span.name, span.start_ns, span.end_ns, span.attributes) for span in (wait, work)] == [
        ("wait", 100, 150, {}),
        ("work", 150, 190, {"seq": "7"}),
    ]
    for span in (wait, work):
        assert (span.trace_id, span.parent_span_id) == (root.trace_id, root.span_id)
    assert len({place.span_id, wait.span_id, work.span_id}) == 3


async def test_the_spans_of_an_order_are_found_by_its_id(redis: Redis, settings: Settings) -> None:
    root = new_trace()
    gateway = SpanRecorder("gateway", redis, settings)
    engine = SpanRecorder("engine", redis, settings)
    match = root.derived("match")
    gateway.record("http", root, None, 100, 900, path="/v1/orders", status=200, cached=None)
    engine.record("engine.match", match, root.span_id, 200, 300)
    # A consumer that reads the same entry twice makes the same span twice.
    engine.record("engine.match", match, root.span_id, 200, 300)
    engine.link_order(12, 7, match, 200)
    await asyncio.gather(gateway.close(), engine.close())
    account_id, spans = await read_order_trace(redis, 12)
    assert account_id == 7
    assert [(span.service, span.name) for span in spans] == [
        ("gateway", "http"),
        ("engine", "engine.match"),
    ]
    assert spans[0].attributes == {"path": "/v1/orders", "status": "200", "cached": "None"}
    assert (spans[0].parent_span_id, spans[1].parent_span_id) == (b"", root.span_id)
    keys = await redis.keys()
    assert keys
    for key in keys:
        assert 0 < await redis.ttl(key) <= settings.trace_keep_seconds


async def test_spans_are_written_without_being_asked(redis: Redis, settings: Settings) -> None:
    recorder = SpanRecorder("engine", redis, settings)
    context = new_trace()
    recorder.record("work", context, None, 1, 2)
    recorder.link_order(1, 7, context, 1)

    async def written() -> None:
        assert [span.name for span in (await read_order_trace(redis, 1))[1]] == ["work"]

    await eventually(written)
    await recorder.close()


async def test_a_consumer_that_lags_writes_where_the_order_is(
    redis: Redis, settings: Settings
) -> None:
    root, hour = new_trace(), 3600 * NS_PER_SECOND
    engine = SpanRecorder("engine", redis, settings)
    settlement = SpanRecorder("settlement", redis, settings)
    gateway = SpanRecorder("gateway", redis, settings)
    at = 5 * SLOT_NS
    # It began a moment before, in the slot before.
    gateway.record("http", root, None, at - 10, at + 500)
    own = root.child()
    engine.record("place", own, root.span_id, at + 1, at + 400, at_ns=at + 2)
    engine.link_order(12, 7, own, at + 2)
    # That it took long is no reason to look for it elsewhere.
    late = (at + hour, at + hour + 2 * SLOT_NS)
    settlement.record("apply", own.derived("apply"), own.span_id, *late, at_ns=at + 2)
    await asyncio.gather(engine.close(), settlement.close(), gateway.close())
    _, spans = await read_order_trace(redis, 12)
    assert [span.name for span in spans] == ["http", "place", "apply"]
    assert (spans[2].start_ns, spans[2].end_ns) == late


async def test_in_a_trace_of_weeks_each_order_has_the_spans_around_it(
    redis: Redis, settings: Settings
) -> None:
    stream = new_trace()
    door, engine = (SpanRecorder(name, redis, settings) for name in ("gateway", "engine"))
    day = 86_400 * NS_PER_SECOND
    placed = {order_id: 1_000 * day + order_id * day for order_id in range(1, 21)}
    for order_id, at in placed.items():
        own = stream.child()
        engine.record("place", own, stream.span_id, at, at + 5, at_ns=at, order_id=order_id)
        engine.link_order(order_id, 7, own, at)
    await engine.flush()
    for order_id in placed:
        _, (place,) = await read_order_trace(redis, order_id)
        assert place.attributes == {"order_id": str(order_id)}
    # When it has ended, they all have the stream itself as well.
    door.record("stream", stream, None, 1_000 * day, 1_030 * day)
    await asyncio.gather(door.close(), engine.close())
    for order_id in placed:
        _, (root, place) = await read_order_trace(redis, order_id)
        assert root.name == "stream" and root.end_ns == 1_030 * day
        assert place.attributes == {"order_id": str(order_id)}


@pytest.mark.parametrize("seed", range(8))
async def test_every_order_has_its_own_spans_whatever_else_is_written(
    redis: Redis, settings: Settings, seed: int
) -> None:
    """Any number of orders, at any times, in flushes as they come: few rows or many in a field."""
    chance = Random(seed)
    recorders = [SpanRecorder(name, redis, settings) for name in ("gateway", "engine", "ledger")]
    now = 1_800_000_000 * NS_PER_SECOND
    expected: dict[int, list[tuple[str, int]]] = {}
    for order_id in range(1, 2 + chance.choice((5, 50, 700))):
        # Of some traces all ids end alike, so that their spans are kept together.
        trace_id = random_id(15) + bytes([chance.choice((0, 1, 64, chance.randrange(256)))])
        root = TraceContext(trace_id, random_id(8))
        at = now + chance.randrange(3 * SLOT_NS)
        gateway, engine, ledger = recorders
        began = at - chance.randrange(SLOT_NS)
        gateway.record("http", root, None, began, at + 5, order_id=order_id)
        own = root.child()
        engine.record("place", own, root.span_id, at, at + 9, at_ns=at, order_id=order_id)
        engine.link_order(order_id, order_id % 7, own, at)
        lag = chance.choice((0, 10**6, 10**12))
        for _ in range(chance.randint(1, 2)):
            ledger.record(
                *("apply", own.derived("apply"), own.span_id, at + lag + 7, at + lag + 8),
                at_ns=at,
                order_id=order_id,
            )
        expected[order_id] = sorted([("http", began), ("place", at), ("apply", at + lag + 7)])
        if not chance.randrange(50):
            await chance.choice(recorders).flush()
    await asyncio.gather(*(recorder.close() for recorder in recorders))
    assert sum(recorder.dropped for recorder in recorders) == 0
    for order_id in chance.sample(sorted(expected), min(len(expected), 60)):
        account_id, spans = await read_order_trace(redis, order_id)
        assert account_id == order_id % 7
        assert sorted((span.name, span.start_ns) for span in spans) == expected[order_id]
        assert {span.attributes["order_id"] for span in spans} == {str(order_id)}
        assert [span.start_ns for span in spans] == sorted(span.start_ns for span in spans)


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
    recorder.link_order(1, 7, context, 1)
    for _ in range(5):
        recorder.record("work", context.child(), None, 1, 2)
    assert recorder.dropped == 2
    await recorder.close()
    _, spans = await read_order_trace(redis, 1)
    assert len(spans) == 3


async def test_a_store_that_is_away_costs_spans_and_nothing_else(settings: Settings) -> None:
    nowhere = open_redis(load_settings(redis_url="unix:///nonexistent/socket"))
    recorder = SpanRecorder("engine", nowhere, settings)
    recorder.record("work", new_trace(), None, 1, 2)
    await recorder.close()
    assert recorder.dropped == 1
    await nowhere.aclose()


async def test_what_cannot_be_written_costs_spans_and_nothing_else(
    redis: Redis, settings: Settings
) -> None:
    recorder = SpanRecorder("engine", redis, settings)
    context = new_trace()
    recorder.link_order(1, 7, context, 1)
    await recorder.flush()
    recorder.record("work", context, None, 1, 2, number=1 << 70)
    await recorder.flush()
    assert recorder.dropped == 1
    recorder.record("work", context, None, 1, 2, number=1 << 62, error=ValueError("it"))
    await recorder.close()
    _, (span,) = await read_order_trace(redis, 1)
    assert span.attributes == {"number": str(1 << 62), "error": "it"}


async def test_what_is_being_written_is_written_to_its_end(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "FLUSH_SECONDS", 0)
    for steps in range(12):
        recorder = SpanRecorder("engine", redis, settings)
        context, order_ids = new_trace(), range(1000 * steps + 1, 1000 * steps + 900)
        for order_id in order_ids:
            recorder.record("work", context.child(), None, order_id, order_id + 1)
        recorder.link_order(order_ids[0], 7, context, order_ids[0])
        # So far its flusher gets.
        for _ in range(steps):
            await asyncio.sleep(0)
        await recorder.close()
        assert recorder.dropped == 900 - 1 - len((await read_order_trace(redis, order_ids[0]))[1])


async def test_a_trace_of_too_many_spans_is_bounded_and_shows_the_order(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As many as the queue takes, and none of another trace with the same bucket is lost.
    most, written = span_store.SPANS_PER_TRACE_MAX, 3_000
    recorders = [SpanRecorder(f"gateway{number}", redis, settings) for number in range(3)]
    root, at = new_trace(), 7 * SLOT_NS
    own = root.child()
    for number, recorder in enumerate(recorders):
        for part in range(written):
            recorder.record("http", root.child(), None, at + part, at + part + 1, number=number)
            if part % 1000 == 999:
                await recorder.flush()
    engine = SpanRecorder("engine", redis, settings)
    # Its time is far from those of the others, but for its own.
    engine.record("place", own, root.span_id, at + SLOT_NS - 1, at + SLOT_NS, at_ns=at + written)
    engine.record("apply", own.derived("apply"), own.span_id, at + 1, at + 2, at_ns=1 + at)
    engine.record("http", root, None, at - SLOT_NS, at)
    engine.link_order(5, 7, own, at + written)
    for order_id in range(100, 1100):
        other = TraceContext(random_id(15) + root.trace_id[-1:], random_id(8))
        engine.record("place", other, None, at, at + 1)
        engine.link_order(order_id, 7, other, at)
    await asyncio.gather(*(recorder.close() for recorder in (engine, *recorders)))
    kept = [written - recorder.dropped for recorder in recorders]
    assert all(most // 2 <= count <= most for count in kept) and engine.dropped == 0
    _, spans = await read_order_trace(redis, 5)
    assert len(spans) == most
    assert {"place", "apply"} < {span.name for span in spans}
    assert root.span_id in {span.span_id for span in spans}
    # Of the rest, the nearest.
    nearest = sorted(span.start_ns for span in spans if "number" in span.attributes)
    assert nearest[0] > at and len(nearest) == most - 3
    for order_id in (100, 600, 1099):
        assert len((await read_order_trace(redis, order_id))[1]) == 1


async def test_the_store_holds_so_much_and_the_newest(redis: Redis, settings: Settings) -> None:
    recorder = SpanRecorder("engine", redis, settings.model_copy(update={"trace_keep_mb": 1}))
    for slot in range(1, 16):
        context = new_trace()
        for number in range(100):
            recorder.record(
                "work",
                context.child(),
                None,
                slot * SLOT_NS,
                slot * SLOT_NS + number,
                text="x" * 2500,
            )
        recorder.link_order(slot, 7, context, slot * SLOT_NS)
        await recorder.flush()
        # One that runs over is seen at the next flush.
        in_use = [await redis.memory_usage(key) or 0 for key in await redis.keys("spans:*")]
        assert sum(in_use) < 1.5 * (1 << 20)
    await recorder.close()
    found = [len((await read_order_trace(redis, slot))[1]) for slot in range(1, 16)]
    assert found[:10] == [0] * 10 and found[-3:] == [100] * 3


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
    stages: tuple[Stage, ...] = (
        ("first", 1_000, 2_000, {}),
        ("second", 2_000, 2_500, {"seq": "7"}),
    )
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
