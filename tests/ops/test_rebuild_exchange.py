"""A whole exchange that has lost its log store, with one shard and with two.

Not even everything was archived: the last entries of one shard are gone for good, and market data
has seen them. What is left must be whole, and go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from examples.client import Endpoints, HttpApi, Person
from mesh.config import Settings
from mesh.postgres import plain_url
from services.settlement.follower import ARCHIVE_LOCK
from tests.ops.test_exchange import is_ready, pids, running_state, tidebook
from tests.support import Exchange, eventually, running_exchange
from tests.support.exchange import PORT_OFFSETS, SHARD_PORTS, SHARDS
from tests.support.http_trader import HttpTrader
from tests.support.ports import free_ports

_MARKETS = ("BTC_USDC", "SOL_USDC")
_COMPLETED = "TRANSFER_STATUS_COMPLETED"


class User(HttpTrader):
    """Someone with money on every shard."""

    async def orders(self) -> list[tuple[str, ...]]:
        """Id, price and what is filled of each open order."""
        found = (await self.call("GET", "/v1/orders"))["orders"]
        return [
            (one["orderId"], one["price"], one["quantity"], one.get("filledQuantity", "0"))
            for one in found
        ]

    async def money(self) -> dict[str, tuple[str, str]]:
        """Asset -> (free, held)."""
        found = (await self.call("GET", "/v1/account"))["balances"]
        return {one["asset"]: (one["free"], one["held"]) for one in found}

    async def cfds(self) -> list[tuple[str, ...]]:
        found = (await self.call("GET", "/v1/cfds"))["cfds"]
        return [(one["cfdId"], one["margin"], one["entryPrice"]) for one in found]

    async def state(self) -> tuple[Any, ...]:
        return await self.orders(), await self.money(), await self.cfds()

    async def again(self, http: HttpApi) -> User:
        """Signed in anew: sessions are in the store that is lost."""
        body = {"email": self.person.email, "password": self.person.password}
        answer = await http.call("POST", "/v1/auth/signin", body)
        return User(http, Person(http, self.person.email, self.person.password, answer))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("shards", [1, 2])
async def test_an_exchange_goes_on_without_the_store_it_lost(
    short_dir: Path, shards: int, kills: int
) -> None:
    if shards == 1 and kills < 10:
        pytest.skip("with two shards all of it is tried; --kills 10 for one shard too")
    lossy = shards - 1
    system: dict[str, Any] = {
        "port_base": free_ports((*PORT_OFFSETS, *SHARD_PORTS)),
        "TIDEBOOK_BOTS": "false",
        "TIDEBOOK_SHARDS": SHARDS if shards > 1 else "",
    }
    prices: dict[str, str] = {}
    async with running_exchange(short_dir, **system) as first, _http(first) as http:
        ann, bob = users = [User(http, await Person.sign_up(http, name=n)) for n in ("ann", "bob")]
        for user in users:
            for shard in range(shards):
                for asset in ("USDC", "BTC", "SOL"):
                    amount = "90000" if asset == "USDC" else "2"
                    request = f"{asset}-{shard}"
                    assert await user.deposit(asset, amount, shard, request) == _COMPLETED
        for market in _MARKETS:
            prices[market] = await eventually(partial(_index, http, market))
            await ann.place(market, "SELL", prices[market], "1")
            await bob.place(market, "BUY", prices[market], "0.1")
        cfd = {"market": "BTC_USDC_CFD", "side": "SIDE_BUY", "margin": "100", "leverage": 5}
        await bob.call("POST", "/v1/cfds", cfd)
        settings = running_state(first).running_settings()
        async with _archive_held(settings, first, lossy):
            before = [await user.state() for user in users]
            # All of this was acknowledged, and is lost with the store: it was nowhere else.
            market = _MARKETS[lossy]
            await bob.place(market, "BUY", prices[market], "0.2")
            await ann.place(market, "BUY", _below(prices[market]), "0.1")
            await eventually(lambda: _shows(http, market, ["0.2", "0.1"]))
            # This was written down by settlement, so it is sent again.
            late = await bob.deposit("USDC", "5", lossy, "late")
            assert late == "TRANSFER_STATUS_PENDING"
            await eventually(lambda: _market_data_is_ahead(settings, lossy))
            os.kill(first.process.pid, signal.SIGTERM)
            await first.process.wait()
    shutil.rmtree(short_dir / "valkey")
    told = tidebook(first, "rebuild")
    assert told.returncode == 0, told.stderr
    assert "market data was at entry" in told.stdout
    assert "1 transfers were on their way" in told.stdout

    async with running_exchange(short_dir, **system) as second, _http(second) as http:
        ann, bob = users = [await user.again(http) for user in users]
        # What the relay still had to send arrives, once.
        orders, money, cfds = before[1]
        money["USDC"] = (str(Decimal(money["USDC"][0]) + 5), money["USDC"][1])
        await eventually(lambda: _is(bob, (orders, money, cfds)))
        assert await ann.state() == before[0]
        for market in _MARKETS:
            await bob.place(market, "BUY", prices[market], "0.3")
            await eventually(partial(_shows, http, market, ["0.3", "0.1"]))
            assert await _candles(http, market) == (2, Decimal("0.4"))
        assert await bob.deposit("USDC", "7", lossy, "new") == _COMPLETED
        transfers = (await bob.call("GET", "/v1/transfers"))["transfers"]
        assert {one["status"] for one in transfers} == {_COMPLETED}
        checked = await asyncio.to_thread(tidebook, second, "verify")
        assert checked.returncode == 0, checked.stdout


def _http(exchange: Exchange) -> HttpApi:
    return HttpApi(Endpoints(exchange.http_url, exchange.grpc_address))


async def _index(http: HttpApi, market: str) -> str:
    ticker = (await http.call("GET", f"/v1/marketdata/{market}/ticker"))["ticker"]
    return str(Decimal(ticker["indexPrice"]).quantize(Decimal("0.01")))


def _below(price: str) -> str:
    return str((Decimal(price) * Decimal("0.99")).quantize(Decimal("0.01")))


async def _shows(http: HttpApi, market: str, quantities: list[str]) -> bool:
    """Market data has these trades, newest first, and numbered without a gap."""
    trades = (await http.call("GET", f"/v1/marketdata/{market}/trades"))["trades"]
    numbers = [int(trade["tradeId"]) for trade in trades]
    return [trade["quantity"] for trade in trades] == quantities and numbers == list(
        range(len(quantities), 0, -1)
    )


async def _candles(http: HttpApi, market: str) -> tuple[int, Decimal]:
    """Trades and volume of all candles of a day."""
    path = f"/v1/marketdata/{market}/candles?interval=CANDLE_INTERVAL_1D"
    candles = (await http.call("GET", path))["candles"]
    return sum(int(c["trades"]) for c in candles), sum(
        (Decimal(c["volume"]) for c in candles), Decimal(0)
    )


async def _is(user: User, state: tuple[Any, ...]) -> bool:
    return await user.state() == state


@contextlib.asynccontextmanager
async def _archive_held(settings: Settings, exchange: Exchange, shard: int) -> AsyncIterator[None]:
    """Nobody archives the shard's log inside the block: the test has the lock of who does."""
    url = plain_url(settings.postgres_url or "")
    holder = await asyncpg.connect(url)
    watcher = await asyncpg.connect(url)
    try:
        before = pids(exchange)["settlement"]
        taking = asyncio.create_task(
            holder.execute("select pg_advisory_lock($1, $2)", ARCHIVE_LOCK, shard)
        )
        # First in the queue, so that the lock comes to us from the process that is killed.
        waits = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
        await eventually(lambda: watcher.fetchval(waits))
        os.kill(before, signal.SIGKILL)
        await taking
        await eventually(lambda: pids(exchange).get("settlement") not in (None, before))
        await eventually(lambda: is_ready(exchange))
        yield
    finally:
        holder.terminate()
        watcher.terminate()


async def _market_data_is_ahead(settings: Settings, shard: int) -> bool:
    connection = await asyncpg.connect(plain_url(settings.postgres_url or ""))
    try:
        ahead: bool = await connection.fetchval(
            "select log_seq > (select max(seq) from settlement.archive where shard = $1)"
            " from marketdata.positions where shard = $1",
            shard,
        )
        return ahead
    finally:
        await connection.close()
