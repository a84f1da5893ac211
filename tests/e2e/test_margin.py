"""Margin positions in a whole system: two people over HTTP, down to the last unit of the books."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any

from examples.client import Endpoints, HttpApi, Person, faucet, grpc_channel
from tests.support import eventually, running_exchange

MARKET = "BTC_USDC_MARGIN"
MONEY = Decimal(50_000)
UNIT = Decimal("0.00000001")


def fee(notional: Decimal, bps: int) -> Decimal:
    return (notional * bps / 10_000).quantize(UNIT, ROUND_CEILING)


class User:
    """Someone with money and a token."""

    def __init__(self, http: HttpApi, person: Person) -> None:
        self.http = http
        self.person = person

    async def get(self, path: str) -> dict[str, Any]:
        return await self.http.call("GET", path, token=await self.person.token())

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return await self.http.call("POST", path, body, token=await self.person.token())

    async def money(self) -> tuple[Decimal, Decimal]:
        """USDC free and held."""
        (usdc,) = (await self.get("/v1/account"))["balances"]
        return Decimal(usdc["free"]), Decimal(usdc["held"])

    async def order(self, side: str, price: Decimal) -> None:
        await self.post(
            "/v1/orders",
            {
                "market": MARKET,
                "side": f"SIDE_{side}",
                "type": "ORDER_TYPE_LIMIT",
                "price": str(price),
                "quantity": "1",
            },
        )


async def test_a_round_trip_of_two_people_moves_a_thousand_and_leaves_nothing_open(
    short_dir: Path,
) -> None:
    # Nobody else quotes here, so the two only meet each other.
    async with running_exchange(short_dir, TIDEBOOK_BOTS="false") as exchange:
        endpoints = Endpoints(exchange.http_url, exchange.grpc_address)
        async with HttpApi(endpoints) as http, grpc_channel(endpoints.grpc) as channel:
            users = []
            for name in ("ann", "bob"):
                person = await Person.sign_up(http, name=name)
                await faucet(channel, person, "USDC", str(MONEY))
                users.append(User(http, person))
            ann, bob = users

            async def paid_in() -> None:
                assert [await user.money() for user in users] == [(MONEY, Decimal(0))] * 2

            await eventually(paid_in)
            for user in users:
                await user.post(f"/v1/positions/{MARKET}:setLeverage", {"leverage": 10})

            async def index() -> Decimal:
                (ticker,) = (
                    t
                    for t in (await http.call("GET", "/v1/marketdata/tickers"))["tickers"]
                    if t["market"] == MARKET
                )
                assert ticker["indexPrice"]
                return Decimal(ticker["indexPrice"]).quantize(Decimal(1))

            low = await eventually(index) - 500
            high = low + 1000
            await bob.order("SELL", low)
            await ann.order("BUY", low)
            (long,) = (await ann.get("/v1/positions"))["positions"]
            (short,) = (await bob.get("/v1/positions"))["positions"]
            assert (long["quantity"], short["quantity"]) == ("1", "-1")
            assert Decimal(long["margin"]) == Decimal(short["margin"]) == low / 10
            assert Decimal(long["liquidationPrice"]) < low < Decimal(short["liquidationPrice"])
            risk = await ann.get(f"/v1/risk?market={MARKET}&price={low / 2}")
            assert risk["liquidatedMarkets"] == [MARKET]

            await bob.order("BUY", high)
            closed = await ann.post(f"/v1/positions/{MARKET}:close", {"clientOrderId": "out"})
            assert closed["position"]["quantity"] == "0"
            for user in users:
                assert (await user.get("/v1/positions"))["positions"] == []
            # Ann took both times and paid 5 basis points, Bob 2.
            assert await ann.money() == (MONEY + 1000 - fee(low, 5) - fee(high, 5), Decimal(0))
            assert await bob.money() == (MONEY - 1000 - fee(low, 2) - fee(high, 2), Decimal(0))

            async def in_the_books() -> None:
                for user, profit in ((ann, 1000), (bob, -1000)):
                    history = (await user.get("/v1/history/positions"))["positions"]
                    assert [Decimal(p["realisedPnl"]) for p in history] == [profit]
                books = await http.call("GET", "/v1/reconciliation")
                assert books["balanced"] and books["logSeq"] == books["newestLogSeq"]

            await eventually(in_the_books)
