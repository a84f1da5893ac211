"""A contract for difference in a whole system: opened over HTTP, ended by the feed's next moves."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import aiohttp

from examples.client import Endpoints, HttpApi, Person, faucet, grpc_channel
from tests.support import Exchange, eventually

MARKET = "SOL_USDC_CFD"
TICK = Decimal("0.01")


async def ask(socket: aiohttp.ClientWebSocketResponse, frame: dict[str, Any]) -> None:
    """Send a frame and take its answer; what else comes before it is not of interest."""
    await socket.send_str(json.dumps(frame))
    while True:
        answer = json.loads((await socket.receive(timeout=60)).data)
        if str(answer.get("id", "")) == str(frame["id"]):
            assert "done" in answer, answer
            return


async def test_a_stop_or_a_take_profit_fires_and_the_money_is_exact_everywhere(
    exchange: Exchange,
) -> None:
    endpoints = Endpoints(exchange.http_url, exchange.grpc_address)
    async with HttpApi(endpoints) as http, grpc_channel(endpoints.grpc) as channel:
        person = await Person.sign_up(http, name="cfd")
        await faucet(channel, person, "USDC", "1000")
        token = await person.token()

        async def get(path: str) -> dict[str, Any]:
            return await http.call("GET", path, token=token)

        async def money() -> tuple[Decimal, Decimal]:
            (usdc,) = (await get("/v1/account"))["balances"]
            return Decimal(usdc["free"]), Decimal(usdc["held"])

        async def paid_in() -> None:
            assert sum(await money()) == 1000

        await eventually(paid_in)
        body: dict[str, Any] = {
            "market": MARKET,
            "side": "SIDE_BUY",
            "margin": "100",
            "leverage": 20,
            "clientCfdId": "only",
        }

        async def opened() -> tuple[dict[str, Any], Decimal]:
            """As near as can be on both sides, so that the feed's next moves end it."""
            asked = {"cfd": body | {"stopLoss": "", "takeProfit": ""}}
            seen = await http.call("POST", "/v1/cfds:preview", asked, token=token)
            assert seen["cfd"]["notional"] == "2000"
            bid = Decimal(seen["cfd"]["exitPrice"])
            body["stopLoss"], body["takeProfit"] = str(bid - 4 * TICK), str(bid + 4 * TICK)
            # Refused when the feed has gone past one of the two meanwhile.
            answer = await http.call("POST", "/v1/cfds", body, token=token)
            return answer["cfd"], bid

        async with http.websocket() as socket:
            await ask(socket, {"id": "1", "auth": {"accessToken": token}})
            await ask(socket, {"id": "2", "subscribe": {"channel": "CHANNEL_ACCOUNT"}})

            cfd, bid = await eventually(opened)
            closed: dict[str, Any] = {}
            while not closed:
                frame = json.loads((await socket.receive(timeout=60)).data)
                for told in frame.get("account", {}).get("cfds", []):
                    assert told["cfdId"] == cfd["cfdId"]
                    closed = told if "closeTime" in told else {}
        entry, exit_price = Decimal(cfd["entryPrice"]), Decimal(closed["exitPrice"])
        if closed["closeReason"] == "CFD_CLOSE_REASON_STOP_LOSS":
            assert exit_price <= bid - 4 * TICK
        else:
            assert closed["closeReason"] == "CFD_CLOSE_REASON_TAKE_PROFIT"
            assert exit_price >= bid + 4 * TICK
        unit = Decimal("0.00000001")
        exact = 2000 * (exit_price - entry) / entry
        pnl = Decimal(closed["realisedPnl"])
        assert pnl <= exact < pnl + unit
        assert await money() == (1000 + pnl, Decimal(0))
        assert (await get("/v1/cfds"))["cfds"] == []
        again = await http.call("POST", "/v1/cfds", body, token=token)
        assert again["repeated"] and again["cfd"] == closed

        async def in_the_books() -> None:
            (kept,) = (await get("/v1/history/cfds"))["cfds"]
            assert (kept["cfdId"], kept["realisedPnl"]) == (cfd["cfdId"], closed["realisedPnl"])
            balances = await get("/v1/balances")
            (usdc,) = balances["balances"]
            assert Decimal(usdc["free"]) == 1000 + pnl
            reconciled = await http.call("GET", "/v1/reconciliation")
            (row,) = [row for row in reconciled["assets"] if row["asset"] == "USDC"]
            assert Decimal(row["difference"]) == 0

        await eventually(in_the_books)
