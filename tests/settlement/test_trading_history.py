"""What traders did with the real engine, as the history, the ledger and the CSV files tell it."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest_asyncio
from tidebook.engine.v1 import position_pb2, types_pb2
from tidebook.settlement.v1 import history_pb2, history_pb2_grpc

import gateway.__main__ as gateway
import services.settlement.__main__ as settlement
from ops.migrate import migrate
from tests.engine.test_cfds import MARKET as CFD
from tests.engine.test_cfds import Client as CfdClient
from tests.engine.test_cfds import feed_of
from tests.engine.test_positions import MARKET as MARGIN
from tests.engine.test_positions import Client, client, trade
from tests.support import eventually, free_ports
from tests.support.engine import EngineRig, Trader, engine_rig

ANN, BOB, CATHY, DAN = 1001, 1002, 1003, 1004
MONEY = Decimal(100_000)
KINDS = ("ORDERS", "FILLS", "POSITIONS", "CFDS", "LIQUIDATIONS", "LEDGER")


@pytest_asyncio.fixture
async def rig(short_dir: Path, valkey_url: str, postgres_url: str) -> AsyncIterator[EngineRig]:
    """Engine, settlement and gateway, all real, in this process."""
    await migrate(postgres_url, ("settlement",))
    doors = free_ports([0, 1])
    stores = {"postgres_url": postgres_url, "reconcile_seconds": 0.2}
    ports = {"http_port": doors, "grpc_port": doors + 1, "public_host": "127.0.0.1"}
    async with engine_rig(short_dir, valkey_url, **stores, **ports) as rig:
        await rig.start()
        stop = asyncio.Event()
        runs = (settlement.run(rig.settings, stop), gateway.run(rig.settings, stop))
        tasks = [asyncio.create_task(run) for run in runs]
        yield rig
        stop.set()
        await asyncio.gather(*tasks)


class Reader:
    """What one account is told over HTTP."""

    def __init__(self, rig: EngineRig, http: aiohttp.ClientSession, trader: Trader) -> None:
        self._http = http
        self._url = f"http://127.0.0.1:{rig.settings.http_port}"
        self._headers = {"Authorization": f"Bearer {trader.token}"}

    async def rows(self, path: str, name: str) -> list[dict[str, Any]]:
        async with self._http.get(self._url + path, headers=self._headers) as answer:
            assert answer.status == 200, await answer.text()
            rows: list[dict[str, Any]] = (await answer.json())[name]
        return rows

    async def file(self, kind: str) -> list[dict[str, str]]:
        headers = self._headers | {"Accept": "text/csv"}
        path = f"{self._url}/v1/history:export?kind=HISTORY_KIND_{kind}"
        async with self._http.get(path, headers=headers) as answer:
            assert answer.content_type == "text/csv", await answer.text()
            return list(csv.DictReader(io.StringIO(await answer.text())))


def total(rows: list[dict[str, Any]], *names: str) -> Decimal:
    return sum((Decimal(row[name]) for row in rows for name in names), Decimal(0))


async def _trading(rig: EngineRig) -> tuple[Client, Client, CfdClient, position_pb2.Cfd]:
    """Ann's margin position shrinks, then is liquidated; Dan closes a CFD and loses another."""
    async with feed_of(rig) as feed:
        ann, bob, cathy = [await client(rig, one) for one in (ANN, BOB, CATHY)]
        await rig.deposit(DAN, "USDC", str(MONEY))
        dan = CfdClient(rig, rig.trader(DAN))
        await feed.say("50000", "50000", market=MARGIN)
        await ann.leverage(10)
        await trade(ann, bob, "1", "50000")
        await bob.place("buy", "0.4", "50500")
        await ann.close("0.4")
        await cathy.place("buy", "0.6", "45300")
        # The mark is between this and the last trade.
        await feed.say("39000", "39000", market=MARGIN)
        await feed.say("235.95", "235.97")
        kept = await dan.open("short", "2000", 100, client_cfd_id="-A1")
        await feed.say("235.73", "235.74")
        closed = await dan.close(kept.cfd_id)
        await dan.open("long", "500", 50)
        # Something of the margin is left, and goes to the insurance fund.
        await feed.say("231.5", "231.52")
        assert await dan.cfds() == []
    return ann, bob, dan, closed


async def test_margin_and_cfds_are_told_alike_everywhere_and_add_up(rig: EngineRig) -> None:
    ann, bob, dan, closed_cfd = await _trading(rig)
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        channel = await stack.enter_async_context(
            grpc.aio.insecure_channel(f"127.0.0.1:{rig.settings.settlement_port}")
        )
        history = history_pb2_grpc.HistoryServiceStub(channel)
        readers = {one: Reader(rig, http, one.trader) for one in (ann, bob, dan)}

        async def settled() -> None:
            url = f"http://127.0.0.1:{rig.settings.http_port}/v1/reconciliation"
            async with http.get(url) as answer:
                books = await answer.json()
            assert books["balanced"], books
            assert int(books["logSeq"]) == (await rig.state()).log_seq

        await eventually(settled)
        # The engine's receipts and the history's are the same messages.
        of_dan = list((await dan.liquidations()).liquidations)
        for trader, receipts in ((ann.trader, await ann.receipts()), (dan.trader, of_dan)):
            request = history_pb2.ListLiquidationsRequest()
            answer = await history.ListLiquidations(request, metadata=trader.metadata)
            assert list(answer.liquidations) == receipts and len(receipts) == 1
        cfds = await history.ListCfds(
            history_pb2.ListCfdsRequest(market=CFD), metadata=dan.trader.metadata
        )
        lost, kept = cfds.cfds
        # Only the books say what came back.
        assert Decimal(kept.returned) == Decimal(kept.margin) + Decimal(kept.realised_pnl)
        kept.ClearField("returned")
        # The log has it in whole ticks, on the safe side.
        exact = Decimal(closed_cfd.liquidation_price)
        assert exact <= Decimal(kept.liquidation_price) < exact + Decimal("0.01")
        kept.liquidation_price = closed_cfd.liquidation_price
        assert kept == closed_cfd
        assert lost.close_reason == types_pb2.CFD_CLOSE_REASON_LIQUIDATION
        (receipt,) = of_dan
        assert Decimal(lost.margin) > -Decimal(lost.realised_pnl) and lost.returned == "0"
        assert Decimal(receipt.fund_change) == Decimal(lost.margin) + Decimal(lost.realised_pnl)

        for one, reader in readers.items():
            free, held = (await one.trader.balances())["USDC"]
            change = Decimal(free) + Decimal(held) - MONEY
            entries = await reader.rows("/v1/ledger?pageSize=1000", "entries")
            assert total(entries, "amount") == MONEY + change
            newest = {e["ledgerAccount"]: e["balanceAfter"] for e in reversed(entries)}
            assert newest.get("free") == free and newest.get("held", "0") == held

            positions = await reader.rows("/v1/history/positions", "positions")
            liquidations = await reader.rows("/v1/history/liquidations", "liquidations")
            ended = await reader.rows("/v1/history/cfds", "cfds")
            of_positions = [row for row in liquidations if row["market"] == MARGIN]
            if one is not bob:  # He still has a part of his position.
                assert change == (
                    total(positions, "realisedPnl")
                    - total(positions, "fees")
                    - total(of_positions, "fundChange")
                    + total(ended, "returned")
                    - total(ended, "margin")
                )
            files = {kind: await reader.file(kind) for kind in KINDS}
            assert [len(files[kind]) for kind in KINDS[2:]] == [
                *(len(positions), len(ended), len(liquidations), len(entries))
            ]
            assert total(files["LEDGER"], "amount") == MONEY + change
            assert total(files["CFDS"], "realised_pnl") == total(ended, "realisedPnl")
            fills = await reader.rows("/v1/history/fills", "fills")
            assert total(files["FILLS"], "fee") == total(fills, "fee")
            assert len(files["FILLS"]) == len(fills)

        (position,) = await readers[ann].rows(f"/v1/history/positions?market={MARGIN}", "positions")
        assert position["liquidated"] and position["openedQuantity"] == "1"
        orders = await readers[ann].file("ORDERS")
        (sold,) = [row for row in orders if row["close_reason"] == "REASON_UNSPECIFIED"][:1]
        assert sold["status"] == "ORDER_STATUS_FILLED"
        # A spreadsheet must not compute what somebody called a CFD.
        assert [row["client_cfd_id"] for row in await readers[dan].file("CFDS")] == ["", "'-A1"]
