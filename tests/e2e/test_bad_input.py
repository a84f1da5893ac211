"""Bad input to a whole system: other people's ids, nobody's calls, and whatever a fuzzer thinks of.

`pytest tests/e2e/test_bad_input.py --examples 200` fuzzes for long.
"""

from __future__ import annotations

import json
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from examples.client import Endpoints, HttpApi, Person, faucet, grpc_channel
from tests.support import Exchange, eventually
from tests.support.operations import Operation, operations
from tests.support.programs import output_of

MARKET, CFD_MARKET = "SOL_USDC", "SOL_USDC_CFD"
# Good bodies, so that nothing but the id can be what is refused.
BODIES: dict[str, dict[str, Any]] = {
    "PATCH /v1/orders/{order_id}": {"quantity": "0.05"},
    "PATCH /v1/cfds/{cfd_id}": {"stopLoss": "1"},
}
# Ids that nobody has, of the kind that they are.
UNKNOWN = {
    "order_id": str(2**62),
    "cfd_id": str(2**62),
    "transfer_id": str(2**62),
    "api_key_id": "tk_00000000000000000000",
}
# Past what a database holds as a number, and texts that it does not hold.
ODD_IDS = (str(2**63), str(2**64 - 1), "0", "\0", "x\0y", "\U0001f980", "x" * 999)
FUZZ_SECONDS = 600.0


class Caller:
    """Calls as somebody, or as nobody."""

    def __init__(self, session: aiohttp.ClientSession, token: str = "") -> None:
        self._session = session
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def call(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        async with self._session.request(method, path, json=body, headers=self._headers) as answer:
            return answer.status, json.loads(await answer.text())

    async def get(self, path: str) -> dict[str, Any]:
        status, answer = await self.call("GET", path)
        assert status == 200, answer
        return answer


def body_of(operation: Operation) -> dict[str, Any] | None:
    return None if operation.body is None else BODIES.get(str(operation), {})


async def belongings(http: HttpApi, exchange: Exchange, person: Person) -> dict[str, str]:
    """One thing of each kind that has an id: path parameter -> id."""
    token = await person.token()
    async with grpc_channel(exchange.grpc_address) as channel:
        await faucet(channel, person, "USDC", "5000")

    async def paid_in() -> None:
        answer = await http.call("GET", "/v1/account", token=token)
        assert [Decimal(balance["free"]) for balance in answer["balances"]] == [5000]

    await eventually(paid_in)

    async def placed() -> dict[str, Any]:
        seen = await http.call("GET", f"/v1/marketdata/{MARKET}/prices", token=token)
        price = Decimal(seen["prices"]["indexPrice"]) * Decimal("0.98")
        order = {
            "market": MARKET,
            "side": "SIDE_BUY",
            "type": "ORDER_TYPE_LIMIT",
            "price": str(price.quantize(Decimal("0.01"))),
            "quantity": "0.1",
            "clientOrderId": "mine",
        }
        answer = await http.call("POST", "/v1/orders", order, token=token)
        found: dict[str, Any] = answer["order"]
        assert found["status"] == "ORDER_STATUS_OPEN", found
        return found

    async def opened() -> dict[str, Any]:
        cfd = {"market": CFD_MARKET, "side": "SIDE_BUY", "margin": "100", "leverage": 1}
        answer = await http.call("POST", "/v1/cfds", cfd, token=token)
        found: dict[str, Any] = answer["cfd"]
        return found

    order, cfd = await placed(), await eventually(opened)
    key = await person.make_api_key("mine", ["SCOPE_READ"])
    sessions = await http.call("GET", "/v1/auth/sessions", token=token)
    withdrawal = {"asset": "USDC", "amount": "10", "address": "mine", "requestId": "mine"}
    transfer = await http.call("POST", "/v1/withdrawals", withdrawal, token=token)
    return {
        "order_id": order["orderId"],
        "cfd_id": cfd["cfdId"],
        "api_key_id": key.api_key_id,
        "session_id": sessions["sessions"][0]["sessionId"],
        "transfer_id": transfer["transfer"]["transferId"],
    }


async def possessions(owner: Caller) -> dict[str, Any]:
    """What nobody else may change, without what changes by itself."""
    cfds = (await owner.get("/v1/cfds"))["cfds"]
    kept = ("cfdId", "margin", "stopLoss", "takeProfit", "entryPrice")
    sessions = (await owner.get("/v1/auth/sessions"))["sessions"]
    transfers = (await owner.get("/v1/transfers"))["transfers"]
    cancelled = [t["transferId"] for t in transfers if t["status"] == "TRANSFER_STATUS_CANCELLED"]
    return {
        "orders": (await owner.get("/v1/orders"))["orders"],
        "cfds": [{name: cfd.get(name) for name in kept} for cfd in cfds],
        "keys": (await owner.get("/v1/auth/api-keys"))["apiKeys"],
        "sessions": [session["sessionId"] for session in sessions],
        "transfers": sorted(transfer["transferId"] for transfer in transfers),
        "cancelled": cancelled,
        "positions": (await owner.get("/v1/positions"))["positions"],
    }


async def test_other_peoples_ids_are_not_found_and_nothing_changes(exchange: Exchange) -> None:
    by_id = [
        operation
        for operation in operations()
        if any(p["name"] != "market" for p in operation.parameters("path"))
    ]
    async with (
        HttpApi(Endpoints(exchange.http_url, exchange.grpc_address)) as http,
        aiohttp.ClientSession(exchange.http_url) as session,
    ):
        alice = await Person.sign_up(http, name="alice")
        mallory = await Person.sign_up(http, name="mallory")
        ids = await belongings(http, exchange, alice)
        unknown = UNKNOWN | {"session_id": "0" * len(ids["session_id"])}
        owner = Caller(session, await alice.token())
        thief = Caller(session, await mallory.token())
        before = await possessions(owner)
        assert before["orders"] and before["cfds"] and before["keys"] and before["transfers"]
        for operation in by_id:
            url, body = operation.url(**ids), body_of(operation)
            status, answer = await thief.call(operation.method, url, body)
            assert status == 404, (str(operation), answer)
            nobodys = await thief.call(operation.method, operation.url(**unknown), body)
            assert nobodys == (status, answer), "whose it is cannot be told from the answer"
        await through_bodies_and_queries(thief, ids)
        await over_a_websocket(session, await mallory.token(), ids)
        assert await possessions(owner) == before
        assert {operation.method for operation in by_id} == {"GET", "POST", "PATCH", "DELETE"}


async def through_bodies_and_queries(thief: Caller, ids: dict[str, str]) -> None:
    commands = [
        {"requestId": "1", "cancel": {"orderId": ids["order_id"]}},
        {"requestId": "2", "amend": {"orderId": ids["order_id"], "quantity": "0.05"}},
        {"requestId": "3", "cancel": {"clientOrderId": "mine"}},
    ]
    status, answer = await thief.call("POST", "/v1/orders:batch", {"commands": commands})
    assert status == 200, answer
    reasons = [result["error"]["reason"] for result in answer["results"]]
    assert reasons == ["REASON_ORDER_NOT_FOUND"] * 3
    assert (await thief.get(f"/v1/history/fills?order_id={ids['order_id']}"))["fills"] == []
    status, answer = await thief.call("DELETE", "/v1/orders")
    assert (status, answer["cancelled"]) == (200, 0)


async def over_a_websocket(session: aiohttp.ClientSession, token: str, ids: dict[str, str]) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    async with session.ws_connect("/ws", headers=headers) as socket:
        for op in ({"cancel": {"orderId": ids["order_id"]}}, {"cancel": {"clientOrderId": "mine"}}):
            await socket.send_json({"id": "1", **op})
            frame = await socket.receive_json(timeout=30)
            assert frame["error"]["reason"] == "REASON_ORDER_NOT_FOUND"


async def test_ids_that_nobody_can_have_are_refused(exchange: Exchange) -> None:
    async with (
        HttpApi(Endpoints(exchange.http_url, exchange.grpc_address)) as http,
        aiohttp.ClientSession(exchange.http_url) as session,
    ):
        caller = Caller(session, await (await Person.sign_up(http, name="odd")).token())
        for operation in operations():
            for parameter in operation.parameters("path"):
                for value in (
                    str(2**63),
                    str(2**64 - 1),
                    "0",
                    "\0",
                    "x\0y",
                    "\U0001f980",
                    "x" * 999,
                ):
                    url = operation.url(**{parameter["name"]: value})
                    status, answer = await caller.call(operation.method, url, body_of(operation))
                    assert status in (400, 404), (str(operation), value, answer)
        key = {"name": "a\0b", "scopes": ["SCOPE_READ"]}
        status, answer = await caller.call("POST", "/v1/auth/api-keys", key)
        assert status == 400, answer


async def test_nobody_gets_at_what_is_private(exchange: Exchange) -> None:
    async with aiohttp.ClientSession(exchange.http_url) as session:
        nobody = Caller(session)
        for operation in operations():
            if operation.is_private:
                status, answer = await nobody.call(
                    operation.method, operation.url(), body_of(operation)
                )
                reason = answer.get("error", answer)["details"][0]["reason"]
                if operation.path.endswith(":export") and status == 400:
                    # A stream's service may look at the request first: it says nothing of anybody.
                    continue
                assert reason == "UNAUTHENTICATED", (str(operation), answer)
                # A stream has begun when the refusal is long in coming: then it is its last line.
                assert status == 401 or "error" in answer, (str(operation), answer)


async def test_bad_input_changes_nothing(exchange: Exchange) -> None:
    async with (
        HttpApi(Endpoints(exchange.http_url, exchange.grpc_address)) as http,
        aiohttp.ClientSession(exchange.http_url) as session,
    ):
        person = await Person.sign_up(http, name="clumsy")
        await belongings(http, exchange, person)
        caller = Caller(session, await person.token())
        before = await possessions(caller)
        for operation in operations():
            if operation.body is None:
                continue
            for body in ({"nonsense": 1}, dict.fromkeys(operation.body.get("properties", {}), 1.5)):
                if not body:
                    continue
                status, answer = await caller.call(operation.method, operation.url(), body)
                assert status == 400, (str(operation), body, answer)
                assert answer["details"][0]["metadata"]["field"]
        assert await possessions(caller) == before


@pytest.mark.timeout(FUZZ_SECONDS + 30)
@pytest.mark.parametrize("who", ["somebody", "nobody"])
async def test_a_fuzzer_finds_no_crash_and_no_answer_that_is_not_in_the_document(
    exchange: Exchange, who: str, examples: int, tmp_path: Path
) -> None:
    headers = ["Grpc-Timeout: 2S"]
    if who == "somebody":
        async with HttpApi(Endpoints(exchange.http_url, exchange.grpc_address)) as http:
            person = await Person.sign_up(http, name="fuzz")
            headers.append(f"Authorization: Bearer {await person.token()}")
    code, output = await output_of(
        *(str(Path(sys.executable).with_name("st")), "run", f"{exchange.http_url}/openapi.json"),
        *(word for header in headers for word in ("-H", header)),
        # Streams have no end, and whoever ends the session is nobody.
        *("--exclude-path-regex", ":watch|:export|signout|auth/sessions"),
        *("--phases", "fuzzing" if examples < 10 else "coverage,fuzzing"),
        *("--max-examples", str(examples), "--continue-on-failure", "--warnings", "off"),
        # What is wrong by the rules of a market is not in any schema.
        *("--checks", "not_a_server_error,status_code_conformance,content_type_conformance"),
        *("--checks", "response_headers_conformance,response_schema_conformance,ignored_auth"),
        seconds=FUZZ_SECONDS,
        directory=tmp_path,
    )
    assert code == 0, output[-20_000:]
