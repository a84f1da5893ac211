"""Each order's trace: one span per command with its stages below, and a way to find it."""

from __future__ import annotations

from typing import Any

from tidebook.engine.v1 import internal_pb2, log_pb2, order_pb2

from mesh.redis import open_redis
from mesh.telemetry import RecordedSpan, format_traceparent, new_trace, read_order_trace
from tests.support import eventually
from tests.support.engine import EngineRig, limit


async def test_an_order_has_one_trace_from_its_caller_to_the_log(engine: EngineRig) -> None:
    alice = await engine.funded(1)
    trace = new_trace()
    metadata = (*alice.metadata, ("traceparent", format_traceparent(trace)))
    answer = await alice.stub.PlaceOrder(limit(), metadata=metadata)
    redis = open_redis(engine.settings)

    async def found() -> tuple[int, list[RecordedSpan]]:
        account_id, spans = await read_order_trace(redis, answer.order.order_id)
        assert len(spans) == 4
        return account_id, spans

    account_id, spans = await eventually(found)
    await redis.aclose()
    assert account_id == 1
    by_name: dict[str, Any] = {span.name: span for span in spans}
    root = by_name.pop("engine.place_order")
    assert root.trace_id == trace.trace_id and root.parent_span_id == trace.span_id
    assert set(by_name) == {"engine.queue", "engine.match", "log.append"}
    assert all(span.parent_span_id == root.span_id for span in by_name.values())
    queue, match, append = (by_name[n] for n in ("engine.queue", "engine.match", "log.append"))
    assert root.start_ns == queue.start_ns <= queue.end_ns == match.start_ns
    assert match.end_ns == append.start_ns <= append.end_ns <= root.end_ns

    call = engine.internal.ReadLog(internal_pb2.ReadLogRequest(stop_at_end=True))
    entries = [entry async for response in call for entry in response.entries]
    logged = log_pb2.LogEntry.FromString(entries[answer.order.log_seq - 1].payload).commands[0]
    assert (logged.trace_id, logged.span_id) == (root.trace_id, root.span_id)


async def test_a_stream_message_is_one_span_for_all_its_orders(engine: EngineRig) -> None:
    alice = await engine.funded(1)
    call = alice.stream()
    commands = [order_pb2.TradeCommand(place=limit()) for _ in range(3)]
    await call.write(order_pb2.TradeStreamRequest(commands=commands))
    await call.write(order_pb2.TradeStreamRequest(commands=commands))
    answers = [await call.read() for _ in range(2)]
    call.cancel()
    redis = open_redis(engine.settings)
    traces = []
    for answer in answers:
        for result in answer.results:

            async def found(order_id: int = result.placed.order.order_id) -> list[RecordedSpan]:
                return (await read_order_trace(redis, order_id))[1]

            spans = await eventually(found)
            roots = [span for span in spans if span.name == "engine.trade_stream"]
            traces.append({span.span_id for span in roots})
    await redis.aclose()
    assert traces[0] == traces[2] and traces[3] == traces[5]
    assert all(len(root) == 1 for root in traces) and traces[0] != traces[3]


async def test_commands_of_one_message_may_have_traces_of_their_own(engine: EngineRig) -> None:
    alice = await engine.funded(1)
    traces = [new_trace() for _ in range(3)]
    commands = [
        order_pb2.TradeCommand(request_id=n, place=limit(), traceparent=format_traceparent(trace))
        for n, trace in enumerate(traces, 1)
    ]
    # Refused before it is anywhere near the book: its answer keeps its place all the same.
    commands.insert(1, order_pb2.TradeCommand(request_id=9, place=limit(price="x")))
    call = alice.stream()
    await call.write(order_pb2.TradeStreamRequest(cancel_on_disconnect=True, commands=commands))
    results = (await call.read()).results
    assert [result.request_id for result in results] == [1, 9, 2, 3]
    assert results[1].error.field == "price"
    redis = open_redis(engine.settings)
    for trace, result in zip(traces, (results[0], *results[2:]), strict=True):

        async def found(order_id: int = result.placed.order.order_id) -> list[RecordedSpan]:
            return (await read_order_trace(redis, order_id))[1]

        (root, *stages) = await eventually(found)
        assert (root.name, root.trace_id) == ("engine.place", trace.trace_id)
        assert root.parent_span_id == trace.span_id and len(stages) == 3
    await redis.aclose()
    call.cancel()

    async def cancelled() -> None:
        assert not await alice.open_orders()

    await eventually(cancelled)


async def test_a_stream_with_a_trace_of_its_callers_stays_in_it(engine: EngineRig) -> None:
    alice = await engine.funded(1)
    trace = new_trace()
    metadata = (*alice.metadata, ("traceparent", format_traceparent(trace)))
    call: Any = alice.stub.TradeStream(metadata=metadata)
    await call.write(order_pb2.TradeStreamRequest(commands=[order_pb2.TradeCommand(place=limit())]))
    order_id = (await call.read()).results[0].placed.order.order_id
    call.cancel()
    redis = open_redis(engine.settings)

    async def found() -> None:
        _, spans = await read_order_trace(redis, order_id)
        assert {span.trace_id for span in spans} == {trace.trace_id}
        assert trace.span_id in {span.parent_span_id for span in spans}

    await eventually(found)
    await redis.aclose()
