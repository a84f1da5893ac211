"""Orders over HTTP share one stream to the engine, and no request notices the others."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest_asyncio

from tests.gateway.conftest import Start, World
from tests.support import eventually

ORDER = {
    "market": "BTC_USDC",
    "side": "SIDE_BUY",
    "type": "ORDER_TYPE_LIMIT",
    "price": "100",
    "quantity": "1",
}


@pytest_asyncio.fixture
async def world(start_world: Start) -> World:
    return await start_world(rpc_timeout_ms=60_000)


@pytest_asyncio.fixture
async def http(world: World) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=64)
    async with aiohttp.ClientSession(world.url, connector=connector) as session:
        yield session


async def ask(
    http: aiohttp.ClientSession, method: str, path: str, headers: dict[str, str], body: Any = None
) -> tuple[int, Any]:
    async with http.request(method, path, json=body, headers=headers) as answer:
        return answer.status, json.loads(await answer.read())


def reason_of(body: Any) -> str:
    return str(body["details"][0]["reason"])


async def test_many_requests_share_a_stream_and_each_gets_its_own_answer(
    world: World, http: aiohttp.ClientSession
) -> None:
    world.engine.delay_seconds = 0.05
    tokens = [world.bearer(account_id) for account_id in (7, 8, 9)]
    bodies = [ORDER | {"price": "0.001" if n % 4 == 0 else "100"} for n in range(60)]
    answers = await asyncio.gather(
        *(ask(http, "POST", "/v1/orders", tokens[n % 3], body) for n, body in enumerate(bodies))
    )
    for (status, answer), body in zip(answers, bodies, strict=True):
        if body["price"] == "0.001":
            assert (status, reason_of(answer)) == (400, "PRICE_NOT_ON_TICK")
        else:
            assert status == 200
    ids = [answer["order"]["orderId"] for status, answer in answers if status == 200]
    assert len(set(ids)) == 45
    assert world.engine.streams == 1
    sent = [one.access_token for one in world.engine.submitted]
    assert {f"Bearer {token}" for token in sent} == {one["Authorization"] for one in tokens}


async def test_every_kind_of_command_has_its_answer(
    world: World, http: aiohttp.ClientSession
) -> None:
    me = world.bearer()
    status, answer = await ask(http, "DELETE", "/v1/orders/17", me)
    assert (status, answer["order"]["orderId"]) == (200, "17")
    assert (await ask(http, "PATCH", "/v1/orders/17", me, {"price": "5"}))[0] == 200
    status, answer = await ask(http, "DELETE", "/v1/orders?market=BTC_USDC", me)
    assert (status, answer) == (200, {"cancelled": 2})


async def test_who_may_not_trade_is_told_before_anything_is_looked_at(
    world: World, http: aiohttp.ClientSession
) -> None:
    bad = {"nothing": True}
    status, answer = await ask(http, "POST", "/v1/orders", {}, bad)
    assert (status, reason_of(answer)) == (401, "UNAUTHENTICATED")
    status, answer = await ask(http, "POST", "/v1/orders", {"Authorization": "Bearer x"}, bad)
    assert (status, reason_of(answer)) == (401, "TOKEN_INVALID")
    reader = {"Authorization": f"Bearer {world.auth.token(scopes=('read',))}"}
    status, answer = await ask(http, "POST", "/v1/orders", reader, ORDER)
    assert (status, reason_of(answer)) == (403, "SCOPE_MISSING")
    status, answer = await ask(http, "POST", "/v1/orders", world.bearer(), ORDER | {"market": "?"})
    assert (status, reason_of(answer)) == (400, "INVALID_ARGUMENT")
    assert answer["details"][1]["fieldViolations"][0]["field"] == "market"
    assert world.engine.streams == 0


async def test_an_order_cannot_be_placed_after_its_sender_was_told_that_it_is_late(
    world: World, http: aiohttp.ClientSession
) -> None:
    world.engine.delay_seconds = 0.6
    before = time.time_ns()
    late = world.bearer() | {"Grpc-Timeout": "200m"}
    status, answer = await ask(http, "POST", "/v1/orders", late, ORDER)
    assert (status, reason_of(answer)) == (504, "DEADLINE_PASSED")
    await eventually(lambda: world.engine.placed)
    deadline_ns = world.engine.placed[0].deadline.ToNanoseconds()
    assert before < deadline_ns < time.time_ns()
    # A deadline of the order's own that is earlier stays.
    world.engine.delay_seconds = 0.0
    await ask(
        http, "POST", "/v1/orders", world.bearer(), ORDER | {"deadline": "2026-01-01T00:00:00Z"}
    )
    assert world.engine.placed[1].deadline.ToJsonString() == "2026-01-01T00:00:00Z"


async def test_a_broken_stream_is_told_honestly_and_the_next_order_opens_another(
    world: World, http: aiohttp.ClientSession
) -> None:
    me = world.bearer()
    assert (await ask(http, "POST", "/v1/orders", me, ORDER))[0] == 200
    world.engine.breaks = True
    status, answer = await ask(http, "POST", "/v1/orders", me, ORDER)
    assert (status, reason_of(answer)) == (503, "UNAVAILABLE")
    assert "may have been done" in answer["message"]
    world.engine.breaks = False
    assert (await ask(http, "POST", "/v1/orders", me, ORDER))[0] == 200
    assert world.engine.streams == 2


async def test_an_engine_that_is_away_is_said_to_be_away(
    world: World, http: aiohttp.ClientSession
) -> None:
    me = world.bearer()
    await world.stop_service("engine")
    status, answer = await ask(http, "POST", "/v1/orders", me, ORDER)
    assert (status, reason_of(answer)) == (503, "UNAVAILABLE")
    assert "may have been done" not in answer["message"]
    await world.start_service("engine")

    async def placed() -> bool:
        return (await ask(http, "POST", "/v1/orders", me, ORDER))[0] == 200

    await eventually(placed)
