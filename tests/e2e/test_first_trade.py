"""The examples of the README, run against a whole system the way a reader would run them."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from examples.client import Endpoints, HttpApi, Person, faucet, grpc_channel
from tests.support import Exchange, eventually, running_exchange
from tests.support.programs import output_of

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RUN_SECONDS = 90.0


async def run_example(name: str, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run a script of `examples/` to its end: (exit code, output)."""
    return await output_of(
        *(sys.executable, str(EXAMPLES / name), *arguments),
        seconds=RUN_SECONDS,
        environment=os.environ | environment,
    )


def arguments_of(exchange: Exchange) -> tuple[str, ...]:
    return (
        *("--http", exchange.http_url),
        *("--grpc", exchange.grpc_address),
    )


async def test_the_first_trade_holds_every_time(exchange: Exchange) -> None:
    for _ in range(2):
        code, output = await run_example("first_trade.py", *arguments_of(exchange))
        assert code == 0, output
        assert "checks held" in output


async def test_a_new_account_begins_with_play_money_once(short_dir: Path) -> None:
    async with running_exchange(short_dir, TIDEBOOK_PLAY_BALANCE="USDC=5000") as exchange:
        endpoints = Endpoints(exchange.http_url, exchange.grpc_address)
        async with HttpApi(endpoints) as http:
            person = await Person.sign_up(http, name="newcomer")

            async def given() -> None:
                answer = await http.call("GET", "/v1/account", token=await person.token())
                assert [(b["asset"], b["free"]) for b in answer["balances"]] == [("USDC", "5000")]

            await eventually(given)
            for _ in range(2):
                await http.call(
                    "POST", "/v1/auth/signin", {"email": person.email, "password": person.password}
                )

            async def once() -> None:
                answer = await http.call("GET", "/v1/transfers", token=await person.token())
                assert [t["requestId"] for t in answer["transfers"]] == ["play-balance-USDC"]

            await eventually(once)
            await given()
        code, output = await run_example("first_trade.py", *arguments_of(exchange))
        assert code == 0, output


async def test_the_first_trade_says_what_failed_and_exits_with_1() -> None:
    code, output = await run_example("first_trade.py", "--http", "http://127.0.0.1:1")
    assert code == 1
    assert "FAILED: Cannot connect" in output


async def all_quoted(http: HttpApi) -> None:
    """Wait until every spot and margin market has both sides."""

    async def quoted() -> None:
        tickers = (await http.call("GET", "/v1/marketdata/tickers"))["tickers"]
        books = [ticker for ticker in tickers if not ticker["market"].endswith("_CFD")]
        assert len(books) == 10
        assert all(ticker["bestBid"] and ticker["bestAsk"] for ticker in books)

    await eventually(quoted)


async def test_the_bots_quote_every_market_with_a_book_on_both_sides(exchange: Exchange) -> None:
    endpoints = Endpoints(exchange.http_url, exchange.grpc_address)
    async with HttpApi(endpoints) as http:
        await all_quoted(http)


async def test_the_simple_bot_buys_and_prints_its_fills(exchange: Exchange) -> None:
    endpoints = Endpoints(exchange.http_url, exchange.grpc_address)
    async with HttpApi(endpoints) as http, grpc_channel(endpoints.grpc) as channel:
        person = await Person.sign_up(http, name="reader")
        await faucet(channel, person, "USDC", "1000")
        key = await person.make_api_key("simple bot", ["SCOPE_READ", "SCOPE_TRADE"])
        # Whoever traded before may have emptied a side; the market maker is a second behind.
        await all_quoted(http)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", str(EXAMPLES / "simple_bot.py")),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ
        | {
            "TIDEBOOK_GRPC": exchange.grpc_address,
            "API_KEY_ID": key.api_key_id,
            "API_KEY_SECRET": key.secret,
        },
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            first = (await process.stdout.readline()).decode()
            assert first.startswith("order "), first
            second = (await process.stdout.readline()).decode()
            assert second.startswith("filled 0.00"), second
    finally:
        process.kill()
        await process.wait()
