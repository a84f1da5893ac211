"""RPCs over HTTP: statuses, bodies, headers, streams."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from aiohttp import web
from redis.asyncio import Redis
from tidebook.auth.v1 import auth_pb2, auth_pb2_grpc

from gateway.__main__ import run
from mesh.config import load_settings
from mesh.telemetry import SpanRecorder, parse_traceparent
from tests.gateway.conftest import Start, World
from tests.support import eventually, free_port

ORDER = {
    "market": "BTC_USDC",
    "side": "SIDE_BUY",
    "type": "ORDER_TYPE_LIMIT",
    "price": "50000",
    "quantity": "0.1",
}


async def test_an_order_goes_through_with_who_sent_it_and_its_trace(
    world: World, http: aiohttp.ClientSession
) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    headers = {
        **world.bearer(),
        "X-Request-Id": "request-1",
        "traceparent": f"00-{trace_id}-b7ad6b7169203331-01",
    }
    async with http.post("/v1/orders", json=ORDER, headers=headers) as answer:
        body = await answer.json()
        assert answer.status == 200
        assert body["order"]["orderId"] == "1"
        assert body["order"]["side"] == "SIDE_BUY"
        assert answer.headers["X-Request-Id"] == "request-1"
        sent = answer.headers["traceparent"]
    [submitted] = world.engine.submitted
    assert submitted.traceparent == sent
    assert sent.split("-")[1] == trace_id
    assert f"Bearer {submitted.access_token}" == headers["Authorization"]


async def test_what_a_service_is_told_of_a_request(
    world: World, http: aiohttp.ClientSession
) -> None:
    headers = {
        "X-Request-Id": "request-1",
        "Grpc-Metadata-X-Forwarded-For": "1.2.3.4",
        "Grpc-Metadata-Note": "hello",
    }
    body = {"email": "ann@example.org", "password": "correct horse"}
    async with http.post("/v1/auth/signin", json=body, headers=headers) as answer:
        assert answer.status == 200
        sent = answer.headers["traceparent"]
    metadata = world.auth.metadata
    assert metadata["traceparent"] == sent
    assert metadata["x-request-id"] == "request-1"
    assert metadata["note"] == "hello"
    assert metadata["x-forwarded-for"] == "127.0.0.1", "a client cannot choose its address"


async def test_refusals_have_status_reason_and_field(
    world: World, http: aiohttp.ClientSession
) -> None:
    async with http.post(
        "/v1/orders", json=ORDER | {"price": "0.001"}, headers=world.bearer()
    ) as answer:
        assert answer.status == 400
        body = await answer.json()
    assert body["code"] == 3
    info, bad = body["details"]
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert info["reason"] == "PRICE_NOT_ON_TICK"
    assert info["metadata"] == {"field": "price", "tick_size": "0.01"}
    assert bad["fieldViolations"][0]["field"] == "price"


async def test_bad_input_is_refused_before_the_service(
    world: World, http: aiohttp.ClientSession
) -> None:
    cases = [
        (b"{", ""),
        (b"[]", ""),
        (b'{"market": 5}', "market"),
        (b'{"nothing": 5}', "nothing"),
        (b'{"side": "SIDE_UP"}', "side"),
        (b'{"maxSlippageBps": 99999999999999999999}', "maxSlippageBps"),
        (b'{"maxSlippageBps": 1e999}', ""),
        (b'{"deadline": "tomorrow"}', "deadline"),
    ]
    for body, field in cases:
        async with http.post("/v1/orders", data=body, headers=world.bearer()) as answer:
            error = await answer.json()
            assert answer.status == 400, body
        info = error["details"][0]
        assert info["reason"] == "INVALID_ARGUMENT"
        assert info.get("metadata", {}).get("field", "") == field, body
    assert world.engine.placed == []


async def test_what_is_not_there_has_the_same_error_body(
    http: aiohttp.ClientSession, world: World
) -> None:
    async with http.get("/v1/nothing") as answer:
        assert answer.status == 404
        assert (await answer.json())["details"][0]["reason"] == "NOT_FOUND"
    async with http.put("/v1/orders") as answer:
        assert answer.status == 405
        assert answer.headers["Allow"] == "DELETE, GET, POST"
        assert (await answer.json())["code"] == 12
    async with http.get("/v1/markets/NOPE") as answer:
        assert answer.status == 404
        assert (await answer.json())["details"][0]["reason"] == "MARKET_NOT_FOUND"
    async with http.get("/v1/reconciliation") as answer:
        assert answer.status == 501


async def test_the_largest_body_is_read_whole_and_the_connection_goes_on(world: World) -> None:
    """Far more than is read ahead: reading stops and goes on meanwhile."""
    pad = " " * ((1 << 20) - len('{"nothing":1}'))
    connector = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(world.url, connector=connector) as http:
        for _ in range(3):
            body = '{"nothing":1' + pad + "}"
            async with http.post("/v1/orders", data=body, headers=world.bearer()) as answer:
                assert answer.status == 400
                assert (await answer.json())["details"][1]["fieldViolations"][0][
                    "field"
                ] == "nothing"


async def test_a_body_over_one_mebibyte_is_too_large(
    world: World, http: aiohttp.ClientSession
) -> None:
    async def pieces() -> object:
        for _ in range(20):
            yield b" " * (64 << 10)

    for data in (b" " * ((1 << 20) + 1), pieces()):
        async with http.post("/v1/orders", data=data, headers=world.bearer()) as answer:
            assert answer.status == 413
            assert (await answer.json())["code"] == 8


async def test_no_token_and_a_bad_token_are_unauthenticated(
    http: aiohttp.ClientSession, world: World
) -> None:
    for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic eDp5"}):
        async with http.get("/v1/auth/me", headers=headers) as answer:
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
    async with http.get("/v1/traces/1") as answer:
        assert answer.status == 401
    async with http.get("/v1/traces/1", headers={"Authorization": "Bearer x"}) as answer:
        assert (await answer.json())["details"][0]["reason"] == "TOKEN_INVALID"


async def test_a_token_for_some_networks_is_refused_from_elsewhere(
    world: World, http: aiohttp.ClientSession, door: grpc.aio.Channel
) -> None:
    """Also where the gateway alone could know: orders on the shared stream, a WebSocket, traces."""
    elsewhere = world.auth.token(networks=["203.0.113.0/24"])
    here = {"Authorization": f"Bearer {world.auth.token(networks=['127.0.0.0/8'])}"}
    there = {"Authorization": f"Bearer {elsewhere}", "X-Forwarded-For": "203.0.113.9"}
    order = {"market": "BTC_USDC", "side": "SIDE_BUY", "type": "ORDER_TYPE_MARKET"}
    async with http.post("/v1/orders", json=order, headers=here) as answer:
        assert answer.status == 200
    for method, path, body in (
        ("POST", "/v1/orders", order),
        ("GET", "/v1/auth/me", None),
        ("GET", "/v1/traces/1", None),
    ):
        async with http.request(method, path, json=body, headers=there) as answer:
            assert answer.status == 403, path
            assert (await answer.json())["details"][0]["reason"] == "IP_NOT_ALLOWED"
    assert len(world.engine.placed) == 1
    async with http.ws_connect("/ws") as socket:
        await socket.send_json({"id": 1, "auth": {"accessToken": elsewhere}})
        assert (await socket.receive_json())["error"]["reason"] == "REASON_IP_NOT_ALLOWED"
    metadata = (("authorization", f"Bearer {elsewhere}"),)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await auth_pb2_grpc.AuthServiceStub(door).GetMe(auth_pb2.GetMeRequest(), metadata=metadata)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_service_that_is_down_is_unavailable_with_retry_after(
    world: World, http: aiohttp.ClientSession
) -> None:
    await world.stop_service("engine")
    async with http.post("/v1/orders", json=ORDER, headers=world.bearer()) as answer:
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) >= 1
        body = await answer.json()
    assert body["details"][0]["reason"] == "UNAVAILABLE"
    assert "127.0.0.1" not in body["message"]
    async with http.get("/readyz") as answer:
        assert (await answer.json())["services"]["engine"] is False or answer.status == 200
    await world.start_service("engine")
    await world.ready()

    async def works() -> None:
        async with http.get("/v1/markets") as answer:
            assert answer.status == 200

    await eventually(works)


async def test_grpc_timeout_is_the_deadline(world: World, http: aiohttp.ClientSession) -> None:
    world.engine.delay_seconds = 5.0
    async with http.get("/v1/time", headers={"Grpc-Timeout": "100m"}) as answer:
        assert answer.status == 504
    async with http.get("/v1/time", headers={"Grpc-Timeout": "soon"}) as answer:
        assert answer.status == 400


async def test_server_metadata_becomes_headers(http: aiohttp.ClientSession, world: World) -> None:
    async with http.get("/v1/markets") as answer:
        assert answer.headers["Grpc-Metadata-x-shard"] == "0"


async def test_a_stream_is_lines_of_results(world: World, http: aiohttp.ClientSession) -> None:
    path = "/v1/history:export?kind=HISTORY_KIND_ORDERS"
    async with http.get(path, headers=world.bearer()) as answer:
        assert answer.status == 200
        assert answer.headers["X-Request-Id"]
        lines = [json.loads(line) for line in (await answer.read()).splitlines()]
    assert lines == [{"result": {"csv": f"line {number}\n"}} for number in range(3)]


async def test_a_stream_that_breaks_says_so_in_its_last_line(
    world: World, http: aiohttp.ClientSession
) -> None:
    world.history.breaks = True
    path = "/v1/history:export?kind=1"
    async with http.get(path, headers=world.bearer()) as answer:
        assert answer.status == 200
        lines = [json.loads(line) for line in (await answer.read()).splitlines()]
    assert lines[-1]["error"]["details"][0]["reason"] == "SLOW_READER"
    async with http.get(path) as answer:
        assert answer.status == 401, "an error before the first message decides the status"
        assert json.loads(await answer.read())["error"]["code"] == 16


async def test_an_export_is_a_file_for_whom_accepts_csv(
    world: World, http: aiohttp.ClientSession
) -> None:
    path, headers = "/v1/history:export?kind=1", world.bearer() | {"Accept": "text/csv"}
    async with http.get(path, headers=headers) as answer:
        assert answer.content_type == "text/csv"
        assert await answer.text() == "line 0\nline 1\nline 2\n"
    world.history.breaks = True
    async with http.get(path, headers=headers) as answer:
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
    async with http.get(path, headers={"Accept": "text/csv"}) as answer:
        assert answer.status == 401
        assert json.loads(await answer.read())["error"]["code"] == 16


async def test_a_client_that_goes_ends_the_stream_behind(
    world: World, http: aiohttp.ClientSession
) -> None:
    answer = await http.get("/v1/marketdata/trades:watch?markets=BTC_USDC")
    assert answer.status == 200
    await eventually(lambda: world.marketdata.listening("trades") == 1)
    answer.close()
    await eventually(lambda: world.marketdata.listening("trades") == 0)


async def test_limits_refuse_with_headers(start_world: Start) -> None:
    world = await start_world(rate_limit_account="3/minute")
    async with aiohttp.ClientSession(world.url) as http:
        remaining = []
        for _ in range(3):
            async with http.get("/v1/auth/me", headers=world.bearer()) as answer:
                assert answer.status == 200
                remaining.append(answer.headers["RateLimit-Remaining"])
        assert remaining == ["2", "1", "0"]
        async with http.get("/v1/auth/me", headers=world.bearer()) as answer:
            assert answer.status == 429
            assert 1 <= int(answer.headers["Retry-After"]) <= 20
            body = await answer.json()
        assert body["details"][0]["reason"] == "RATE_LIMITED"
        assert any("RetryInfo" in detail["@type"] for detail in body["details"])
        async with http.get("/v1/auth/me", headers=world.bearer(8)) as answer:
            assert answer.status == 200, "another account has its own bucket"


async def test_an_address_has_a_limit_of_its_own_and_guesses_a_tighter_one(
    start_world: Start,
) -> None:
    world = await start_world(rate_limit_ip="30/hour", rate_limit_auth="2/hour")
    async with aiohttp.ClientSession(world.url) as http:
        body = {"email": "a@example.org", "password": "wrong"}
        statuses = []
        for _ in range(3):
            async with http.post("/v1/auth/signin", json=body) as answer:
                statuses.append(answer.status)
        assert statuses == [401, 401, 429]
        for _ in range(40):
            async with http.get("/v1/markets") as answer:
                left = answer.headers.get("RateLimit-Remaining")
                if answer.status == 429:
                    break
        assert answer.status == 429 and left is None
        assert int(answer.headers["Retry-After"]) >= 1
        # Another account does not help: it is the address.
        async with http.get("/v1/auth/me", headers=world.bearer(8)) as answer:
            assert answer.status == 429
        async with http.get("/metrics") as answer:
            text = await answer.text()
        assert 'tidebook_rate_limited_total{limit="auth"} 1' in text
        assert re.search('tidebook_rate_limited_total{limit="ip"} [1-9]', text)


async def test_without_redis_requests_pass(start_world: Start) -> None:
    world = await start_world(redis_url="unix:///nowhere/redis.sock")
    async with aiohttp.ClientSession(world.url) as http, http.get("/v1/markets") as answer:
        assert answer.status == 200


async def test_a_trace_is_shown_to_its_owner_alone(
    world: World, http: aiohttp.ClientSession, valkey_url: str
) -> None:
    redis = Redis.from_url(valkey_url)
    recorder = SpanRecorder("engine", redis, world.settings)
    try:
        async with http.post("/v1/orders", json=ORDER, headers=world.bearer()) as answer:
            root = parse_traceparent(answer.headers["traceparent"])
        assert root is not None
        match, now_ns = root.child(), time.time_ns()
        recorder.record("engine.match", match, root.span_id, now_ns, now_ns + 5000)
        recorder.link_order(1, 7, match, now_ns)
    finally:
        await recorder.close()
        await redis.aclose()

    async def has_both() -> None:
        async with http.get("/v1/traces/1", headers=world.bearer()) as answer:
            body = await answer.json()
        assert body["traceId"] == root.trace_id.hex()
        first, second = body["spans"]
        assert (first["service"], first["name"]) == ("gateway", "gateway POST /v1/orders")
        assert first["parentSpanId"] == ""
        assert int(first["durationNs"]) > 0
        assert second["parentSpanId"] == first["spanId"]
        assert second["durationNs"] == "5000"

    await eventually(has_both)
    for path, headers in (("/v1/traces/1", world.bearer(8)), ("/v1/traces/2", world.bearer())):
        async with http.get(path, headers=headers) as answer:
            assert answer.status == 404
            assert (await answer.json())["details"][0]["reason"] == "ORDER_NOT_FOUND"
    async with http.get("/v1/traces/0", headers=world.bearer()) as answer:
        assert (await answer.json())["details"][0]["metadata"] == {"field": "order_id"}


async def test_the_mailbox_is_shown_in_development_only(start_world: Start) -> None:
    async def messages(request: web.BaseRequest) -> web.Response:
        mail = {
            "from": "us@example.org",
            "to": ["a@example.org"],
            "subject": "Your code",
            "text": "123456",
            "received_at": "2026-01-31T12:00:00+00:00",
        }
        wanted = request.query.get("to") in mail["to"]
        return web.json_response({"messages": [mail] if wanted else []})

    mailbox, port = web.ServerRunner(web.Server(messages)), free_port()
    await mailbox.setup()
    await web.TCPSite(mailbox, "127.0.0.1", port).start()
    try:
        for mode, status in (("demo", 200), ("production", 404)):
            world = await start_world(mode=mode, mailbox_url=f"http://127.0.0.1:{port}")
            async with aiohttp.ClientSession(world.url) as http:
                async with http.get("/dev/mailbox?to=a@example.org") as answer:
                    assert answer.status == status
                    body = await answer.json()
                if mode == "demo":
                    assert body["mails"][0]["text"] == "123456"
                    assert body["mails"][0]["time"] == "2026-01-31T12:00:00Z"
    finally:
        await mailbox.cleanup()


ODD_REQUESTS = [
    (b"GET http://elsewhere/v1/markets HTTP/1.1\r\nHost: a\r\n\r\n", 200),
    (b"GET /v1/markets?%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"HEAD /v1/markets HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 404),
    (b"GET /a%00b.js HTTP/1.1\r\nHost: a\r\n\r\n", 404),
    (b"GET /ws HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", 400),
    (
        b"POST /v1/auth/signin HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\n"
        b"Content-Length: 3\r\n\r\nabc",
        400,
    ),
    (b"GET /v1/markets HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", 431),
    (b"GET /v1/auth/me HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer \xff\r\n\r\n", 401),
    (b"GET /v1/auth/me HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a\tb\r\n\r\n", 401),
    (b"GET /v1/auth/me HTTP/1.1\r\nHost: a\r\nCookie: tidebook_access=\xff\r\n\r\n", 401),
    (b"GET /v1/markets HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer \xff\r\n\r\n", 401),
    (b"nonsense\r\n\r\n", 400),
]


@pytest.mark.parametrize(("request_bytes", "status"), ODD_REQUESTS)
async def test_odd_requests_are_answered_and_never_by_a_crash(
    world: World, request_bytes: bytes, status: int
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.settings.http_port)
    writer.write(request_bytes)
    line = await asyncio.wait_for(reader.readline(), 60)
    writer.close()
    assert int(line.split()[1]) == status


async def test_a_gateway_that_nobody_could_reach_says_so_in_one_line(
    short_dir: Path, valkey_url: str
) -> None:
    settings = load_settings(
        data_dir=short_dir, redis_url=valkey_url, mode="production", http_host="0.0.0.0"
    )
    with pytest.raises(SystemExit, match="set TIDEBOOK_TRUSTED_PROXIES, or TIDEBOOK_HTTPS_ONLY"):
        await run(settings, asyncio.Event())


@pytest.mark.parametrize(
    "wrong", [{"rate_limit_ip": "often"}, {"trusted_proxies": "somewhere"}], ids=str
)
async def test_a_setting_that_cannot_be_read_is_one_clear_line(
    wrong: dict[str, Any], short_dir: Path, valkey_url: str
) -> None:
    settings = load_settings(data_dir=short_dir, redis_url=valkey_url, **wrong)
    with pytest.raises(SystemExit, match=str(next(iter(wrong.values())))):
        await run(settings, asyncio.Event())
