"""Commands that pass the HTTP library by: nobody can tell, but by how long it takes."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from ops.embedded import EmbeddedValkey
from tests.gateway.lanes import ORDER, Answer, Ask, Lanes, lanes

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("express")]

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
# Different in every answer.
_OF_EACH = {"X-Request-Id", "traceparent", "Date", "RateLimit-Remaining", "RateLimit-Reset"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def both(
    tmp_path_factory: pytest.TempPathFactory, _valkey: EmbeddedValkey
) -> AsyncIterator[Lanes]:
    """One gateway with the lane and one without, behind a proxy that is trusted."""
    async with lanes(
        tmp_path_factory.mktemp("express"),
        redis_url=_valkey.url,
        library=True,
        trusted_proxies="127.0.0.1",
        cors_origins="https://app.example",
    ) as made:
        yield made


def order(**fields: Any) -> bytes:
    return json.dumps(ORDER | fields).encode()


def place(body: bytes | None = order(), *headers: tuple[str, str]) -> Callable[[Lanes], Ask]:
    return lambda both: Ask(body=body).having(both.bearer(), *headers)


def to(method: str, target: str, body: bytes | None = None) -> Callable[[Lanes], Ask]:
    return lambda both: Ask(method, target, body=body).having(both.bearer())


def by(**token: Any) -> Callable[[Lanes], Ask]:
    return lambda both: Ask().having(both.bearer(**token))


def raw(*headers: tuple[str, str], version: str = "HTTP/1.1") -> Callable[[Lanes], Ask]:
    return lambda both: Ask(headers=headers, version=version)


# What is asked, the status of the answer.
BY_LANE: dict[str, tuple[Callable[[Lanes], Ask], int]] = {
    "an order": (place(), 200),
    "an order that the engine refuses": (place(order(price="0.001")), 400),
    "names as in the contract, spaces": (
        place(b' {"market": "BTC_USDC", "side": 1, "type": "ORDER_TYPE_LIMIT",\n "price": "1",'
              b' "quantity": "\\u0031", "client_order_id": "a"} '),
        200,
    ),
    "null is not given": (place(order(clientOrderId=None)), 200),
    "a deadline of its own": (place(order(deadline="2026-01-01T00:00:00Z")), 200),
    "a query that is not read": (to("POST", "/v1/orders?price=1&x=%zz", order()), 200),
    "amend": (to("PATCH", "/v1/orders/17", b'{"price":"5"}'), 200),
    "cancel": (to("DELETE", "/v1/orders/17"), 200),
    "cancel with a length": (to("DELETE", "/v1/orders/17", b""), 200),
    "cancel with a body": (to("DELETE", "/v1/orders/17", b"{}"), 200),
    "cancel, escaped": (to("DELETE", "/v1/orders/%317"), 200),
    "cancel all": (to("DELETE", "/v1/orders?market=BTC_USDC"), 200),
    "cancel all, escaped": (to("DELETE", "/v1/orders?market=%42TC%5fUSDC"), 200),
    "a request id": (place(order(), ("X-Request-Id", "mine-1")), 200),
    "a request id that is too long": (place(order(), ("x-request-id", "a" * 65)), 200),
    "an empty request id": (place(order(), ("X-Request-Id", "")), 200),
    "a trace": (place(order(), ("traceparent", TRACE)), 200),
    "a trace of nothing": (place(order(), ("Traceparent", "00-" + "0" * 32 + TRACE[35:])), 200),
    "no trace": (place(order(), ("traceparent", "zz")), 200),
    "an origin that may": (place(order(), ("Origin", "https://app.example")), 200),
    "an origin that may not": (place(order(), ("Origin", "https://evil.example")), 200),
    "by https, from elsewhere": (
        place(order(), ("X-Forwarded-Proto", "https"), ("X-Forwarded-For", "9.9.9.9, 203.0.113.9")),
        200,
    ),
    "a time that is long enough": (place(order(), ("Grpc-Timeout", "9S")), 200),
    "much that does not matter": (
        place(order(), ("Cookie", "tidebook_access=x; a=b"), ("User-Agent", "x"), ("X-\x7e", "\t"),
              ("Connection", "Keep-Alive"), ("Accept", "*/*"), ("Content-Type", "text/plain")),
        200,
    ),
}  # fmt: skip
BY_LIBRARY: dict[str, tuple[Callable[[Lanes], Ask], int]] = {
    "no token": (raw(), 401),
    "no bearer": (raw(("Authorization", "Basic eDp5")), 401),
    "an empty token": (raw(("Authorization", "Bearer ")), 401),
    "a bad token": (raw(("Authorization", "Bearer x.y.z")), 401),
    "two tokens": (
        lambda both: Ask().having(both.bearer(7), both.bearer(8)),
        200,
    ),
    "a token that may not trade": (by(scopes=["read"]), 403),
    "a token for elsewhere": (by(networks=["203.0.113.0/24"]), 403),
    "an expired token": (by(ttl_seconds=-10), 401),
    "no JSON": (place(b"{"), 400),
    "no body": (place(None), 400),
    "an empty body": (place(b""), 400),
    "no text": (place(b'{"market":"\xff"}'), 400),
    "a list": (place(b"[]"), 400),
    "a wrong type": (place(order(market=5)), 400),
    "a number that is too large": (place(order(maxSlippageBps=10**30)), 400),
    "an unknown field": (place(order(nothing=1)), 400),
    "a name twice": (place(b'{"market":"BTC_USDC","market":"ETH_USDC"}'), 400),
    "no such side": (place(order(side="SIDE_UP")), 400),
    "against the rules": (place(order(market="?")), 400),
    "a large body": (place(order() + b" " * 20_000), 200),
    "far too large a body": (place(b" " * 1_050_000), 413),
    "no id": (to("DELETE", "/v1/orders/x"), 400),
    "an id that nobody has": (to("DELETE", "/v1/orders/99999999999999999999"), 400),
    "an unknown parameter": (to("DELETE", "/v1/orders?market=BTC_USDC&x=1"), 400),
    "an escape that is none": (to("DELETE", "/v1/orders/%zz"), 400),
    "a path that is not there": (to("DELETE", "/v1/orders/17/"), 404),
    "another method": (to("PUT", "/v1/orders", order()), 405),
    "an unknown method": (to("FROB", "/v1/orders", order()), 400),
    "a full address": (to("DELETE", "http://a/v1/orders/17"), 200),
    "a fragment": (to("DELETE", "/v1/orders/17#a"), 400),
    "a long query": (to("POST", "/v1/orders?" + "x" * 9000, order()), 431),
    "a time that is none": (place(order(), ("Grpc-Timeout", "soon")), 400),
    "an id of two words": (place(order(), ("X-Request-Id", "a b")), 200),
    "an id that is no ASCII": (place(order(), ("X-Request-Id", "\xe4")), 200),
    "a body that is packed": (place(order(), ("Content-Encoding", "gzip")), 400),
    "two lengths": (place(order(), ("Content-Length", "5")), 400),
    "old HTTP": (
        lambda both: Ask(version="HTTP/1.0").having(both.bearer(), ("Connection", "keep-alive")),
        200,
    ),
    "the last one": (place(order(), ("Connection", "close")), 200),
    "too many headers": (place(order(), *[(f"X-{n}", "1") for n in range(130)]), 400),
}


def check_alike(ask: Ask, lane: Answer, library: Answer) -> None:
    """Both have answered the same, ids and times apart."""
    assert lane.status == library.status
    assert without_ids(lane.data) == without_ids(library.data)
    assert set(lane.headers) == set(library.headers)
    length = {"Content-Length"}
    for name in set(lane.headers) - _OF_EACH - length:
        assert lane.headers[name] == library.headers[name], name
    given = {name.lower(): value for name, value in ask.headers}
    for answer in (lane, library):
        headers = answer.headers
        if "X-Request-Id" in headers:
            assert headers["X-Request-Id"] == given.get("x-request-id") or re.fullmatch(
                "[0-9a-f]{16}", headers["X-Request-Id"]
            )
            trace = headers["traceparent"].split("-")
            assert (trace[1] == TRACE.split("-")[1]) == (given.get("traceparent") == TRACE)
            assert trace[2] != TRACE.split("-")[2]
    own_id = given.get("x-request-id", "")
    if re.fullmatch("[a-z0-9-]{1,64}", own_id):
        assert lane.headers["X-Request-Id"] == own_id


def without_ids(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: without_ids(value) for name, value in data.items() if name != "orderId"}
    if isinstance(data, list):
        return [without_ids(value) for value in data]
    return data


def sent(both: Lanes) -> list[Any]:
    """What has reached the engine, and for whom, since this was asked last."""
    commands = []
    for one in both.world.engine.submitted:
        assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", one.traceparent)
        one.command.request_id = 0
        deadline = one.command.place.deadline
        if one.command.HasField("place") and deadline.ToJsonString() > "2026-01-02":
            one.command.place.ClearField("deadline")
        commands.append((one.access_token, one.command))
    both.world.engine.submitted.clear()
    return commands


@pytest.mark.parametrize("name", BY_LANE)
async def test_what_the_lane_answers_is_what_the_library_would_answer(
    both: Lanes, name: str
) -> None:
    make, status = BY_LANE[name]
    ask = make(both)
    wire = await both.warm(*ask.headers)
    before = both.served
    sent(both)
    lane = await wire.ask(ask)
    by_lane = sent(both)
    assert both.served == before + 1
    library = await (await both.wire(both.library)).ask(ask)
    assert lane.status == status
    check_alike(ask, lane, library)
    assert sent(both) == by_lane != []


@pytest.mark.parametrize("name", BY_LIBRARY)
async def test_what_the_lane_does_not_know_is_answered_as_ever(both: Lanes, name: str) -> None:
    make, status = BY_LIBRARY[name]
    ask = make(both)
    wire = await both.warm(both.bearer())
    before = both.served
    sent(both)
    lane = await wire.ask(ask)
    by_lane = sent(both)
    assert both.served == before
    library = await (await both.wire(both.library)).ask(ask)
    assert lane.status == status
    check_alike(ask, lane, library)
    assert sent(both) == by_lane
    assert bool(by_lane) == (status == 200)
