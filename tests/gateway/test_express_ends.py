"""The express lane over time: pieces, limits, clients that leave, tokens that end, what is kept."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from redis.asyncio import Redis
from structlog.testing import capture_logs

from gateway.express import plans
from kernel.clock import SystemClock
from mesh.revocation import RevocationLog
from ops.embedded import EmbeddedValkey
from tests.gateway.lanes import Ask, Lanes, lanes, orders_of
from tests.gateway.sockets import metric
from tests.gateway.test_express import TRACE
from tests.support import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("express")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(
    tmp_path_factory: pytest.TempPathFactory, _valkey: EmbeddedValkey
) -> AsyncIterator[Lanes]:
    """A gateway with a lane that waits for nobody for long."""
    async with lanes(
        tmp_path_factory.mktemp("ends"),
        redis_url=_valkey.url,
        http_body_seconds=2.0,
        http_stalled_seconds=2.0,
        http_idle_seconds=3.0,
    ) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def lane(shared: Lanes) -> AsyncIterator[Lanes]:
    """The same; a test that made its engine slow or bad leaves it as it was."""
    shared.tokens()
    yield shared
    shared.world.engine.delay_seconds = 0.0
    shared.world.engine.breaks = False
    await eventually(lambda: shared.requests.open == 0)


async def test_pieces_of_any_size_are_one_request(lane: Lanes) -> None:
    """Head and body apart, and cut at every place."""
    ask = lane.ask()
    wire = await lane.warm(*ask.headers)
    data, before = bytes(ask), lane.served
    lane.tokens()
    for cut in range(1, len(data)):
        wire.send(data[:cut])
        for _ in range(4):
            await asyncio.sleep(0)
        wire.send(data[cut:])
        assert (await wire.answer()).status == 200
    assert len(lane.tokens()) == len(data) - 1
    body = len(data) - data.index(b"\r\n\r\n") - 4
    # Where the head is whole, the lane waits for the rest, if not for long.
    assert lane.served - before > body / 2


async def test_a_head_in_pieces_takes_the_lane_from_nobody_for_long(lane: Lanes) -> None:
    ask = lane.ask()
    wire = await lane.warm(*ask.headers)
    wire.send(bytes(ask)[:50])
    await asyncio.sleep(0.01)
    wire.send(bytes(ask)[50:])
    assert (await wire.answer()).status == 200
    before = lane.served
    for _ in range(3):
        assert (await wire.ask(ask)).status == 200
    assert lane.served >= before + 2


async def test_many_in_one_piece_are_answered_in_order(lane: Lanes) -> None:
    ask = lane.ask()
    wire = await lane.warm(*ask.headers)
    before = lane.served
    wire.send(*[ask] * 50)
    ids = orders_of([await wire.answer() for _ in range(50)])
    assert ids == [str(int(ids[0]) + n) for n in range(50)]
    assert lane.served == before + 50


async def test_more_than_is_read_ahead_waits_and_is_answered(lane: Lanes) -> None:
    """Far more requests than the library queues, and more bytes than the lane keeps."""
    ask, get = lane.ask(), Ask("GET", "/healthz", body=None)
    for one, status in ((ask, 200), (get, 200), (Ask("DELETE", "/v1/nothing", body=None), 404)):
        wire = await lane.warm(*ask.headers)
        wire.send(ask, *[one] * 1000)
        answers = [await wire.answer() for _ in range(1001)]
        assert {answer.status for answer in answers[1:]} == {status}
        assert (await wire.ask(ask)).status == 200


async def test_a_body_that_never_comes_is_ended_in_time(lane: Lanes) -> None:
    ask = lane.ask()
    wire = await lane.warm(*ask.headers)
    lane.tokens()
    wire.send(bytes(ask)[:-5])
    answer = await wire.answer()
    assert (answer.status, answer.reason) == (408, "DEADLINE_PASSED")
    assert "body" in answer.data["message"]
    assert await wire.is_ended()
    assert lane.tokens() == []


async def test_who_reads_nothing_is_cut(lane: Lanes) -> None:
    ask = lane.ask()
    await lane.warm(*ask.headers)
    async with aiohttp.ClientSession(lane.world.url) as http:
        cut = 'tidebook_http_connections_cut_total{reason="stalled"}'
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, ("127.0.0.1", lane.port))
            sending = asyncio.create_task(loop.sock_sendall(client, bytes(ask) * 20_000))

            async def dropped() -> None:
                assert await metric(http, cut) == 1

            await eventually(dropped)
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await sending
    assert len(lane.tokens()) < 20_000


async def test_idle_is_who_says_nothing(lane: Lanes) -> None:
    """Neither a client that sends commands, nor one that waits for its answer."""
    ask = lane.ask()
    idle, used = [await lane.warm(*ask.headers) for _ in range(2)]
    began = time.monotonic()
    while time.monotonic() - began < 3.5:
        assert (await used.ask(ask)).status == 200
        await asyncio.sleep(0.2)
    assert await idle.is_ended()
    lane.world.engine.delay_seconds = 3.5
    before = lane.served
    waits = await lane.wire()
    assert (await waits.ask(ask)).status == 200
    assert lane.served == before + 1
    assert await used.is_ended()


async def test_a_client_that_leaves_is_no_error(lane: Lanes) -> None:
    ask = lane.ask()
    wires = [await lane.warm(*ask.headers) for _ in range(5)]
    lane.tokens()
    lane.world.engine.delay_seconds = 0.3
    with capture_logs() as logs:
        for wire in wires:
            wire.send(ask, ask)
        await eventually(lambda: lane.requests.open == 5)
        for wire in wires:
            wire.writer.transport.abort()
        await eventually(lambda: lane.requests.open == 0)
    assert len(lane.tokens()) == 5, "what was under way is done"
    async with aiohttp.ClientSession(lane.world.url) as http:

        async def gone() -> None:
            assert await metric(http, "tidebook_http_requests_open") == 1
            assert await metric(http, "tidebook_http_connections") == 1

        await eventually(gone)
    assert [line for line in logs if line["log_level"] not in ("debug", "info")] == []


async def test_a_broken_stream_is_told_and_the_next_command_opens_another(lane: Lanes) -> None:
    ask = lane.ask()
    wires = [await lane.warm(*ask.headers) for _ in range(3)]
    lane.world.engine.breaks = True
    before, streams = lane.served, lane.world.engine.streams
    for wire in wires:
        # What comes behind is not lost with it.
        wire.send(ask, ask)
    answers = [await wire.answer() for wire in wires]
    for answer in answers:
        assert (answer.status, answer.reason) == (503, "UNAVAILABLE")
        assert "may have been done" in answer.data["message"]
        assert int(answer.headers["Retry-After"]) >= 1
    for wire in wires:
        assert (await wire.answer()).status == 503
    assert lane.served == before + 6
    lane.world.engine.breaks = False
    assert (await wires[0].ask(ask)).status == 200
    assert lane.world.engine.streams >= streams + 2


async def test_time_runs_out(lane: Lanes) -> None:
    ask = lane.ask().having(("Grpc-Timeout", "1S"))
    wire = await lane.warm(*ask.headers)
    lane.world.engine.delay_seconds = 2.0
    before = lane.served
    answer = await wire.ask(ask)
    assert (answer.status, answer.reason) == (504, "DEADLINE_PASSED")
    assert lane.served == before + 1
    # The late answer is nobody's.
    lane.world.engine.delay_seconds = 0.0
    assert (await wire.ask(Ask().having(ask.headers[0]))).status == 200


async def test_a_waiter_that_is_cancelled_disturbs_nobody(lane: Lanes) -> None:
    ask, new = lane.ask(), lane.ask(8)
    wire = await lane.warm(*ask.headers)
    lane.world.engine.delay_seconds = 0.3
    line = lane.express._lines._lines[0]
    streams = lane.world.engine.streams
    wire.send(ask, ask)
    other = await lane.wire()
    other.send(new)
    await eventually(lambda: lane.requests.open == 2)
    (task,) = [task for task in asyncio.all_tasks() if "_handle_request" in str(task.get_coro())]
    task.cancel()
    assert [(await wire.answer()).status for _ in range(2)] == [200, 200]
    await eventually(lambda: not line._pending)
    assert lane.world.engine.streams == streams


async def test_a_token_that_ends_ends_with_the_next_command(
    lane: Lanes, _valkey: EmbeddedValkey
) -> None:
    auth, verifier = lane.world.auth, lane.callers._verifier

    def token(session: str) -> tuple[str, str]:
        signed = auth.signer.sign(
            user_id="u", account_id=7, session_id=session, scopes=["trade"], ttl_seconds=600
        )
        return "Authorization", f"Bearer {signed}"

    ended, stays = token("ended"), token("stays")
    wire, other = await lane.warm(ended), await lane.warm(stays)
    redis = Redis.from_url(_valkey.url)
    await RevocationLog(redis, SystemClock(), token_seconds=600).add(["ended"])
    await redis.aclose()
    ends = verifier.ended
    assert ends is not None
    await eventually(lambda: "ended" in ends)
    before = lane.served
    answer = await wire.ask(Ask().having(ended))
    assert (answer.status, answer.reason) == (401, "SESSION_REVOKED")
    assert lane.served == before
    assert (await other.ask(Ask().having(stays))).status == 200
    assert lane.served == before + 1

    class Later(SystemClock):
        def now_ns(self) -> int:
            return super().now_ns() + 700 * 10**9

    usual = verifier._clock
    verifier._clock = Later()
    try:
        for _ in range(2):
            answer = await other.ask(Ask().having(stays))
            assert (answer.status, answer.reason) == (401, "TOKEN_EXPIRED")
        assert lane.served == before + 1
    finally:
        verifier._clock = usual


async def test_plans_are_bounded_and_learnt_again(
    lane: Lanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "_PLANS_MAX", 6)
    known = lane.express.plans
    asks = [lane.ask(account) for account in range(20, 35)]
    wires = [await lane.warm(*ask.headers) for ask in asks]
    assert len(known) <= 6 + 1
    lane.tokens()
    for _ in range(2):
        for wire, ask in zip(wires, asks, strict=True):
            assert (await wire.ask(ask)).status == 200
    for ask in asks:
        (await lane.warm(*ask.headers)).close()
    assert {f"Bearer {token}" for token in lane.tokens()} == {ask.headers[0][1] for ask in asks}


async def test_large_heads_are_not_kept(lane: Lanes) -> None:
    before = len(lane.express.plans)
    ask = lane.ask().having(("X-Large", "a" * 5000))
    wire = await lane.wire()
    for _ in range(2):
        assert (await wire.ask(ask)).status == 200
    assert len(lane.express.plans) == before


async def test_requests_are_counted_traced_and_named(
    lane: Lanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans: list[tuple[Any, ...]] = []
    recorder = lane.requests._recorder
    record = recorder.record

    def recorded(*span: Any, **attributes: Any) -> None:
        spans.append((*span, attributes))
        record(*span, **attributes)

    ask = lane.ask(9).having(("X-Request-Id", "mine-7"), ("traceparent", TRACE))
    wire = await lane.warm(ask.headers[0])
    series = 'route="POST /v1/orders"'
    async with aiohttp.ClientSession(lane.world.url) as http:
        count = f"tidebook_http_request_seconds_count{{{series}}}"
        total = f'tidebook_http_requests_total{{{series},status="200"}}'
        before = [await metric(http, name) for name in (count, total)]
        served = await metric(http, "tidebook_http_express_total")
        monkeypatch.setattr(recorder, "record", recorded)
        answer = await wire.ask(ask)
        monkeypatch.undo()
        assert [await metric(http, name) for name in (count, total)] == [n + 1 for n in before]
        assert await metric(http, "tidebook_http_express_total") == served + 1
    assert answer.headers["X-Request-Id"] == "mine-7"
    _, trace_id, span_id, _ = answer.headers["traceparent"].split("-")
    assert lane.world.engine.submitted[-1].traceparent == answer.headers["traceparent"]
    (span,) = spans
    name, context, parent, start_ns, end_ns, attributes = span
    assert name == "gateway POST /v1/orders"
    assert (context.trace_id.hex(), context.span_id.hex()) == (trace_id, span_id)
    assert trace_id == TRACE.split("-")[1]
    assert parent.hex() == TRACE.split("-")[2], "its parent is the client's span"
    assert start_ns < end_ns <= time.time_ns()
    assert attributes == {"status": 200, "request_id": "mine-7"}


async def test_limits_count_as_without_the_lane(short_dir: Path, valkey_url: str) -> None:
    """Whatever way each request goes, and however often the bucket is filled from Redis."""
    different: dict[str, Any] = {"rate_limit_account": "40/hour"}
    async with lanes(short_dir, redis_url=valkey_url, library=True, **different) as both:
        seen = []
        for account, port in ((7, both.port), (8, both.library)):
            ask = both.ask(account)
            wire = await both.wire(port)
            answers = []
            for number in range(45):
                # One in five is not for the lane, one is refused.
                one = ask.having(("X-N", str(number))) if number % 5 == 4 else ask
                if number == 11:
                    one = Ask(body=b"{").having(*ask.headers)
                answers.append(await wire.ask(one))
            seen.append([(one.status, one.headers.get("RateLimit-Remaining")) for one in answers])
        # One in two is: there are two tokens in what is taken from Redis at once.
        assert both.served >= 10
        assert seen[0] == seen[1]
        statuses = [status for status, _ in seen[0]]
        assert statuses.count(200) == 39 and statuses[40:] == [429] * 5


async def test_a_command_under_way_is_answered_before_the_gateway_stops(
    short_dir: Path, valkey_url: str
) -> None:
    async with lanes(short_dir, redis_url=valkey_url, drain_seconds=60.0) as lane:
        ask = lane.ask()
        wire = await lane.warm(*ask.headers)
        lane.world.engine.delay_seconds = 0.5
        before = lane.served
        lane.tokens()
        wire.send(ask, ask)
        await eventually(lambda: lane.requests.open == 1)
        lane.world.stop.set()
        assert [answer.status for answer in await wire.rest()] == [200]
        assert lane.served == before + 1
        assert len(lane.tokens()) == 1, "what was not begun is not done"
