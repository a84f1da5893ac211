"""A session that is ended is over at every door: HTTP, WebSocket, gRPC door, the engine itself."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import grpc
import pytest
from tidebook.engine.v1 import order_pb2, order_pb2_grpc
from tidebook.settlement.v1 import ledger_pb2, ledger_pb2_grpc

from examples.client import Endpoints, HttpApi, Person
from kernel.reasons import Reason
from mesh.status import refused_from
from tests.support import Exchange, eventually
from tests.support.programs import output_of
from tests.support.streams import reason_of_end


async def from_another_session(exchange: Exchange, http: HttpApi, person: Person) -> None:
    sessions = await http.call("GET", "/v1/auth/sessions", token=await person.token())
    [other] = [one["sessionId"] for one in sessions["sessions"] if not one["current"]]
    await http.call("DELETE", f"/v1/auth/sessions/{other}", token=await person.token())
    # The session that ended it goes on.
    await http.call("GET", "/v1/account", token=await person.token())


async def by_an_operator(exchange: Exchange, http: HttpApi, person: Person) -> None:
    code, said = await output_of(
        *(sys.executable, "-m", "ops.cli", "sessions", "end"),
        *(f"--email={person.email}", f"--data-dir={exchange.data_dir}"),
        seconds=60.0,
        environment=exchange.environment,
    )
    assert code == 0, said
    assert f"({person.email}): ended 2 sessions" in said


@pytest.mark.parametrize("end", [from_another_session, by_an_operator])
async def test_a_session_that_is_ended_ends_everywhere_at_once(
    exchange: Exchange, end: Callable[[Exchange, HttpApi, Person], Awaitable[None]]
) -> None:
    endpoints = Endpoints(exchange.http_url, exchange.grpc_address)
    async with (
        HttpApi(endpoints) as http,
        grpc.aio.insecure_channel(exchange.grpc_address) as door,
        grpc.aio.insecure_channel(exchange.service_address("engine")) as engine,
        grpc.aio.insecure_channel(exchange.service_address("settlement")) as settlement,
    ):
        person = await Person.sign_up(http, name="revoked")
        stolen = await http.call(
            "POST", "/v1/auth/signin", {"email": person.email, "password": person.password}
        )
        token: str = stolen["tokens"]["accessToken"]
        metadata = (("authorization", f"Bearer {token}"),)

        watches: list[Any] = [
            order_pb2_grpc.OrderServiceStub(channel).WatchAccount(
                order_pb2.WatchAccountRequest(), metadata=metadata
            )
            for channel in (door, engine)
        ]
        trading: Any = order_pb2_grpc.OrderServiceStub(door).TradeStream(metadata=metadata)
        for watch in watches:
            await watch.read()
        await trading.write(order_pb2.TradeStreamRequest())
        await trading.read()
        async with http.websocket() as socket:
            await socket.send_json({"id": 1, "auth": {"accessToken": token}})
            await socket.send_json({"id": 2, "subscribe": {"channel": "CHANNEL_ACCOUNT"}})
            while "account" not in await socket.receive_json():
                pass

            await end(exchange, http, person)

            for call in (*watches, trading):
                assert await reason_of_end(call) is Reason.SESSION_REVOKED
            frame = await socket.receive_json()
            while "error" not in frame:
                frame = await socket.receive_json()
            assert frame["error"]["reason"] == "REASON_SESSION_REVOKED"

        async def refused_by_all() -> None:
            for path in ("/v1/account", "/v1/auth/me", "/v1/history/orders", "/v1/traces/1"):
                async with (
                    aiohttp.ClientSession(exchange.http_url) as session,
                    session.get(path, headers={"Authorization": f"Bearer {token}"}) as answer,
                ):
                    assert answer.status == 401, path
                    body = await answer.json()
                assert body["details"][0]["reason"] == "SESSION_REVOKED", path
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ledger_pb2_grpc.LedgerServiceStub(settlement).ListBalances(
                    ledger_pb2.ListBalancesRequest(), metadata=metadata
                )
            assert refused_from(caught.value).reason is Reason.SESSION_REVOKED

        await eventually(refused_by_all)
