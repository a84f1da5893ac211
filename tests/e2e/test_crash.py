"""Parts are killed under a stream of orders; nothing that was acknowledged is lost or doubled."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from tidebook.engine.v1 import order_pb2, order_pb2_grpc
from tidebook.settlement.v1 import history_pb2, history_pb2_grpc, ledger_pb2, ledger_pb2_grpc

from examples.client import Endpoints, HttpApi, Person, bearer, faucet, grpc_channel
from tests.support.audit import Auditor, fill_of, holds
from tests.support.clients import StreamTrader
from tests.support.exchange import Exchange, running_exchange
from tests.support.killing import kill
from tests.support.paging import pages
from tests.support.programs import output_of
from tests.support.waiting import eventually

DEPOSITS = {"USDC": "100000", "BTC": "5", "SOL": "1000"}
# Answers that every trader must get between two kills.
STEP = 120
VERIFY_SECONDS = 120.0
VICTIMS = ("engine", "settlement", "engine", "Valkey", "PostgreSQL")

pytestmark = [pytest.mark.xdist_group("exchange"), pytest.mark.timeout(240)]


class Account:
    """What the exchange says of a trader, asked through the gRPC door."""

    def __init__(self, channel: grpc.aio.Channel, person: Person) -> None:
        self._person = person
        self._orders = order_pb2_grpc.OrderServiceStub(channel)
        self._history = history_pb2_grpc.HistoryServiceStub(channel)
        self._ledger = ledger_pb2_grpc.LedgerServiceStub(channel)

    async def _ask(self, method: Callable[..., Awaitable[Any]], request: Any) -> Any:
        return await method(request, metadata=await bearer(self._person), timeout=60)

    async def engine_balances(self) -> tuple[int, dict[str, tuple[Decimal, Decimal]]]:
        """(log position, asset -> (free, held)) as the engine has them."""
        answer = await self._ask(self._orders.GetAccount, order_pb2.GetAccountRequest())
        return answer.log_seq, _amounts(answer.balances)

    async def ledger_balances(self) -> tuple[int, dict[str, tuple[Decimal, Decimal]]]:
        """The same as the ledger has them."""
        answer = await self._ask(self._ledger.ListBalances, ledger_pb2.ListBalancesRequest())
        return answer.log_seq, _amounts(answer.balances)

    async def orders(self) -> list[order_pb2.Order]:
        """Every order there ever was, from history."""
        request = history_pb2.ListOrdersRequest(page_size=1000)
        ask = partial(self._ask, self._history.ListOrders)
        return [order async for page in pages(ask, request) for order in page.orders]

    async def fills(self) -> list[order_pb2.Fill]:
        """Every fill there ever was, from history."""
        request = history_pb2.ListFillsRequest(page_size=1000)
        ask = partial(self._ask, self._history.ListFills)
        return [fill async for page in pages(ask, request) for fill in page.fills]


def _amounts(balances: Sequence[Any]) -> dict[str, tuple[Decimal, Decimal]]:
    return {b.asset: (Decimal(b.free), Decimal(b.held)) for b in balances}


async def verify(exchange: Exchange) -> str:
    """`tidebook verify` as an operator runs it."""
    code, output = await output_of(
        *(sys.executable, "-m", "ops.cli", "verify", "--data-dir", str(exchange.data_dir)),
        seconds=VERIFY_SECONDS,
        environment=exchange.environment,
    )
    assert code == 0, output
    return output


async def check_books(exchange: Exchange, http: HttpApi) -> None:
    """The books are public, and everybody finds that they balance."""

    async def caught_up() -> dict[str, Any]:
        books = await http.call("GET", "/v1/reconciliation")
        assert books["logSeq"] == books["newestLogSeq"]
        return books

    books = await eventually(caught_up)
    assert books["balanced"] is True
    assert {asset["difference"] for asset in books["assets"]} == {"0"}
    assert "zero differences" in await verify(exchange)


async def trade_while_parts_die(exchange: Exchange, traders: Sequence[StreamTrader]) -> None:
    """Stream orders, kill each victim on the way, and go on until all commands are answered."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for trader in traders:
            group.create_task(trader.run(stop))
        for victim in (*VICTIMS, None):
            goals = [trader.answered + STEP for trader in traders]

            def reached(goals: list[int] = goals) -> bool:
                return all(t.answered >= goal for t, goal in zip(traders, goals, strict=True))

            await eventually(reached, timeout_s=60)
            if victim is not None:
                await kill(exchange, victim)
        stop.set()


async def expected_books(traders: Sequence[StreamTrader], accounts: dict[str, Account]) -> Auditor:
    """The auditor's books of all trades, from the answers alone where there was one."""
    auditor = Auditor({trader.name: DEPOSITS for trader in traders})
    for trader in traders:
        unseen: set[int] = set()
        for answer in trader.placed.values():
            auditor.taker_fills(trader.name, answer.fills)
            if answer.repeated:
                unseen.add(answer.order.order_id)
        # The first answer to these was lost with its stream, and the repeated one tells the
        # order without its fills: a client looks them up.
        lost = [f for f in await accounts[trader.name].fills() if f.order_id in unseen]
        auditor.taker_fills(trader.name, [f for f in lost if not f.maker])
    return auditor


async def check_account(trader: StreamTrader, account: Account, auditor: Auditor) -> None:
    """What the exchange says of one trader against what it had answered and the auditor found."""
    engine_seq, in_engine = await account.engine_balances()

    async def caught_up() -> dict[str, tuple[Decimal, Decimal]]:
        seq, balances = await account.ledger_balances()
        assert seq >= engine_seq
        return balances

    in_ledger = await eventually(caught_up)
    orders = await account.orders()

    assert sorted(order.client_order_id for order in orders) == sorted(trader.placed)
    for order in orders:
        answer = trader.placed[order.client_order_id].order
        assert (order.order_id, order.market, order.side, order.price, order.quantity) == (
            (answer.order_id, answer.market, answer.side, answer.price, answer.quantity)
        )
        assert Decimal(order.filled_quantity) >= Decimal(answer.filled_quantity)

    fills = await account.fills()
    told = auditor.fills[trader.name]
    assert len(fills) == len(told)
    assert {(f.market, f.trade_id): fill_of(f) for f in fills} == told

    held = holds(orders)
    expected = {
        asset: (total - held.get(asset, Decimal(0)), held.get(asset, Decimal(0)))
        for asset, total in auditor.totals[trader.name].items()
    }
    assert in_engine == expected
    assert in_ledger == expected


def check_trades_are_gap_free(auditor: Auditor) -> None:
    """Every trade of a market has been told: none is missing, none was made up."""
    for fills in auditor.fills.values():
        for market in {market for market, _ in fills}:
            numbers = sorted(number for name, number in fills if name == market)
            assert numbers == list(range(1, len(numbers) + 1))


def check_what_happened(traders: Sequence[StreamTrader]) -> None:
    """The test did what it says: orders rested, crossed and were repeated across breaks."""
    answers = [answer for trader in traders for answer in trader.placed.values()]
    order_ids = [answer.order.order_id for answer in answers]
    assert len(order_ids) == len(set(order_ids))
    assert sum(len(answer.fills) for answer in answers) > 100
    for trader in traders:
        assert trader.breaks >= 2, "each kill of the engine breaks the stream"
        assert set(trader.refused.values()) <= {"TOO_MANY_OPEN_ORDERS", "NO_LIQUIDITY"}
        assert trader.sent.keys() == trader.placed.keys() | trader.refused.keys()


def check_logs(exchange: Exchange) -> None:
    """Being killed is no reason for a stack trace in anybody's log."""
    for path in (exchange.data_dir / "logs").glob("*.log"):
        assert "Traceback" not in path.read_text(), path.name


async def test_what_was_acknowledged_survives_kills_and_restarts_exactly_once(
    short_dir: Path,
) -> None:
    data_dir = short_dir / "data"
    async with contextlib.AsyncExitStack() as clients:
        async with running_exchange(data_dir, TIDEBOOK_BOTS="false") as exchange:
            endpoints = Endpoints(exchange.http_url, exchange.grpc_address)
            http = await clients.enter_async_context(HttpApi(endpoints))
            door = await clients.enter_async_context(grpc_channel(endpoints.grpc))
            # One trades through the door, one straight at the engine.
            engine = await clients.enter_async_context(
                grpc_channel(exchange.service_address("engine"))
            )
            traders, accounts = [], {}
            for name, channel, seed in (("ann", door, 1), ("bob", engine, 2)):
                person = await Person.sign_up(http, name=name)
                for asset, amount in DEPOSITS.items():
                    await faucet(door, person, asset, amount)
                traders.append(StreamTrader(channel, person, name=name, seed=seed))
                accounts[name] = Account(door, person)

            await trade_while_parts_die(exchange, traders)

            check_what_happened(traders)
            await check_books(exchange, http)
            auditor = await expected_books(traders, accounts)
            check_trades_are_gap_free(auditor)
            for trader in traders:
                await check_account(trader, accounts[trader.name], auditor)
            check_logs(exchange)
        async with running_exchange(
            data_dir, port_base=exchange.port_base, TIDEBOOK_BOTS="false"
        ) as exchange:
            for trader in traders:
                await check_account(trader, accounts[trader.name], auditor)
            await check_books(exchange, http)
            check_logs(exchange)
