"""Orders over HTTP through a real gateway to a real engine, which dies, hangs and is shared."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from mesh.redis import open_redis
from mesh.telemetry import RecordedSpan, read_order_trace
from tests.support import eventually
from tests.support.engine import Trader
from tests.support.order_path import OrderPath, order_path

CONNECTIONS = 64
# Answers after which it is not known whether the order was placed.
UNKNOWN = {"UNAVAILABLE", "DEADLINE_PASSED"}
# As the answers' Retry-After says.
RETRY_SECONDS = 1.0

pytestmark = pytest.mark.timeout(240)


@pytest_asyncio.fixture
async def path(short_dir: Path, valkey_url: str) -> AsyncIterator[OrderPath]:
    """A gateway and an engine that hold still for a while without giving up."""
    async with order_path(short_dir, valkey_url, lease_seconds=5.0) as path:
        yield path


@pytest_asyncio.fixture
async def http(path: OrderPath) -> AsyncIterator[aiohttp.ClientSession]:
    """A client with as many connections as it needs."""
    async with aiohttp.ClientSession(
        f"http://127.0.0.1:{path.port}", connector=aiohttp.TCPConnector(limit=0)
    ) as session:
        yield session


def order(**fields: Any) -> dict[str, Any]:
    """One that rests."""
    return {
        "market": "BTC_USDC",
        "side": "SIDE_BUY",
        "type": "ORDER_TYPE_LIMIT",
        "price": "100",
        "quantity": "0.1",
    } | fields


async def place(
    http: aiohttp.ClientSession,
    trader: Trader,
    headers: dict[str, str] | None = None,
    **fields: Any,
) -> tuple[int, dict[str, Any]]:
    """(status, body) of an order."""
    sent = {"Authorization": f"Bearer {trader.token}"} | (headers or {})
    async with http.post("/v1/orders", json=order(**fields), headers=sent) as answer:
        return answer.status, await answer.json()


def reason_of(body: dict[str, Any]) -> str:
    """Why it was refused."""
    return str(next(d["reason"] for d in body["details"] if "reason" in d))


async def open_ids(trader: Trader) -> dict[str, int]:
    """The open orders of an account: client order id -> order id."""
    orders = await trader.open_orders()
    found = {order.client_order_id: order.order_id for order in orders}
    assert len(found) == len(orders), "an order was placed twice"
    return found


async def test_an_engine_killed_under_64_connections_loses_and_doubles_nothing(
    path: OrderPath, http: aiohttp.ClientSession
) -> None:
    traders = [await path.rig.funded(number) for number in range(1, CONNECTIONS + 1)]
    answers: dict[tuple[int, str], tuple[int, dict[str, Any]]] = {}
    stop = asyncio.Event()

    async def trade(trader: Trader) -> None:
        """Each order is sent once; what became of it is kept."""
        number = 0
        while not stop.is_set():
            number += 1
            name = f"o{number}"
            answer = await place(http, trader, clientOrderId=name)
            answers[trader.account_id, name] = answer
            if answer[0] != 200:
                await asyncio.sleep(RETRY_SECONDS)

    def placed() -> int:
        return sum(status == 200 for status, _ in answers.values())

    async with asyncio.TaskGroup() as group:
        for trader in traders:
            group.create_task(trade(trader))
        for _ in range(2):
            goal = placed() + CONNECTIONS
            await eventually(lambda goal=goal: placed() >= goal, timeout_s=120)  # type: ignore[misc]
            await path.rig.kill()
            await eventually(
                lambda: any(status == 503 for status, _ in answers.values()), timeout_s=120
            )
            await path.rig.spawn()
        goal = placed() + CONNECTIONS
        await eventually(lambda: placed() >= goal, timeout_s=120)
        stop.set()

    assert {status for status, _ in answers.values()} - {504} == {200, 503}

    async def check(trader: Trader) -> None:
        mine = {name: answer for (who, name), answer in answers.items() if who == trader.account_id}
        there = await open_ids(trader)
        for name, (status, body) in mine.items():
            if status == 200:
                assert there[name] == int(body["order"]["orderId"])
                continue
            assert reason_of(body) in UNKNOWN or name not in there, body
            # Sent again with its id, it is there once, whatever became of the first.
            status, body = await place(http, trader, clientOrderId=name)
            assert status == 200, body
            again = int(body["order"]["orderId"])
            assert there.get(name, again) == again
        assert set(await open_ids(trader)) == set(mine)

    await asyncio.gather(*map(check, traders))


async def test_one_order_sent_by_all_connections_at_once_is_placed_once(
    path: OrderPath, http: aiohttp.ClientSession
) -> None:
    alice, bob = await path.rig.funded(1), await path.rig.funded(2)
    answers = await asyncio.gather(
        *(place(http, alice, clientOrderId="mine") for _ in range(CONNECTIONS))
    )
    assert {status for status, _ in answers} == {200}
    assert len({body["order"]["orderId"] for _, body in answers}) == 1
    assert len(await open_ids(alice)) == 1
    status, body = await place(http, alice, clientOrderId="mine", price="101")
    assert status == 409 and reason_of(body) == "DUPLICATE_CLIENT_ORDER_ID", body
    # Another account's ids are its own.
    status, body = await place(http, bob, clientOrderId="mine")
    assert status == 200 and len(await open_ids(bob)) == 1


async def test_each_of_many_requests_has_the_answer_that_is_its_own(
    path: OrderPath, http: aiohttp.ClientSession
) -> None:
    alice, poor = await path.rig.funded(1), path.rig.trader(2)
    reader = path.rig.trader(1, scopes="read")
    cases: list[tuple[Trader, dict[str, Any], int, str]] = [
        (alice, {}, 200, ""),
        (alice, {"price": "100.001"}, 400, "PRICE_NOT_ON_TICK"),
        (alice, {"market": "NOPE_USDC"}, 404, "MARKET_NOT_FOUND"),
        (alice, {"quantity": "-1"}, 400, "INVALID_ARGUMENT"),
        (alice, {"price": "100", "quantity": "0.001"}, 400, "NOTIONAL_TOO_SMALL"),
        (poor, {}, 400, "INSUFFICIENT_BALANCE"),
        (reader, {}, 403, "SCOPE_MISSING"),
    ]
    rounds = 8
    answers = await asyncio.gather(
        *(place(http, trader, **fields) for trader, fields, _, _ in cases * rounds)
    )
    told = [(status, "" if status == 200 else reason_of(body)) for status, body in answers]
    assert told == [(status, reason) for _, _, status, reason in cases] * rounds
    good = [body["order"] for status, body in answers if status == 200]
    assert len({placed["orderId"] for placed in good}) == rounds
    assert len(await alice.open_orders()) == rounds
    # All that is wrong is said at once, and each under its field.
    status, body = await place(http, alice, quantity="-1", clientOrderId="a b")
    assert status == 400 and reason_of(body) == "INVALID_ARGUMENT"
    violations = body["details"][1]["fieldViolations"]
    assert {violation["field"] for violation in violations} == {"quantity", "client_order_id"}


async def test_orders_that_share_a_stream_have_each_a_trace_of_its_own(
    path: OrderPath, http: aiohttp.ClientSession
) -> None:
    alice = await path.rig.funded(1)
    traces = [f"{number:032x}" for number in range(1, 9)]
    answers = await asyncio.gather(
        *(
            place(http, alice, {"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
            for trace in traces
        )
    )
    redis = open_redis(path.rig.settings)
    try:
        for trace, (status, body) in zip(traces, answers, strict=True):
            assert status == 200, body

            async def found(order_id: int = int(body["order"]["orderId"])) -> list[RecordedSpan]:
                _, spans = await read_order_trace(redis, order_id)
                assert {"gateway POST /v1/orders", "log.append"} <= {span.name for span in spans}
                return spans

            spans = {span.name: span for span in await eventually(found)}
            assert {span.trace_id.hex() for span in spans.values()} == {trace}
            root = spans["gateway POST /v1/orders"]
            assert root.parent_span_id.hex() == "b7ad6b7169203331"
            [child] = [s for s in spans.values() if s.parent_span_id == root.span_id]
            assert root.start_ns <= child.start_ns
    finally:
        await redis.aclose()


async def test_a_late_order_is_not_placed_when_the_engine_wakes_up(
    path: OrderPath, http: aiohttp.ClientSession
) -> None:
    alice = await path.rig.funded(1)
    assert (await place(http, alice, clientOrderId="first"))[0] == 200
    assert path.rig.process is not None
    os.kill(path.rig.process.pid, signal.SIGSTOP)
    try:
        answers = await asyncio.gather(
            *(
                place(http, alice, {"Grpc-Timeout": "200m"}, clientOrderId=f"late{number}")
                for number in range(8)
            )
        )
    finally:
        os.kill(path.rig.process.pid, signal.SIGCONT)
    for status, body in answers:
        assert status == 504 and reason_of(body) == "DEADLINE_PASSED", body
    await eventually(path.rig.state)
    # What comes after them in the same stream has its answer, so the engine has seen them.
    assert (await place(http, alice, clientOrderId="last"))[0] == 200
    assert set(await open_ids(alice)) == {"first", "last"}


async def test_whoever_goes_away_takes_nobody_along(
    path: OrderPath, http: aiohttp.ClientSession
) -> None:
    alice, bob = await path.rig.funded(1), await path.rig.funded(2)
    gone = [
        asyncio.create_task(place(http, alice, clientOrderId=f"a{number}"))
        for number in range(CONNECTIONS)
    ]
    kept = [
        asyncio.create_task(place(http, bob, clientOrderId=f"b{number}"))
        for number in range(CONNECTIONS)
    ]
    await asyncio.wait(kept, return_when=asyncio.FIRST_COMPLETED)
    for task in gone:
        task.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    for status, body in await asyncio.gather(*kept):
        assert status == 200, body
    # Those who went away learn what became of their orders by asking again.
    for number in range(0, CONNECTIONS, 8):
        assert (await place(http, alice, clientOrderId=f"a{number}"))[0] == 200
    assert set(await open_ids(bob)) == {f"b{number}" for number in range(CONNECTIONS)}
    await open_ids(alice)
