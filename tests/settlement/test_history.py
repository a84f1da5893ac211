"""What a client can read: all of its own, in pages, and nothing of anybody else's."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp
from redis.asyncio import Redis
from tidebook.engine.v1 import types_pb2
from tidebook.settlement.v1 import history_pb2, internal_pb2, ledger_pb2, ledger_pb2_grpc

from kernel.reasons import Reason
from mesh.config import Settings
from mesh.log import GENESIS_HASH, LogRecord, verify_chain
from mesh.status import refused_from
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from tests.settlement.rig import Client, Rig, settlement_rig
from tests.settlement.support import BTC_USDC, USDC, buy, sell
from tests.support import eventually
from tests.support.paging import pages

ORDERS = 7


@pytest_asyncio.fixture
async def rig(settings: Settings, redis: Redis) -> AsyncIterator[Rig]:
    """Account 7 sold 0.1 seven times to account 8, whose order has 0.3 left."""
    async with settlement_rig(settings, redis) as rig:
        maker, wire = rig.engine.maker, rig.engine.wire
        await wire.append(
            maker.entry(
                maker.transfer(7, 2, 10**8),
                maker.transfer(8, USDC, 60_000 * 10**8),
                buy(8, "50000", "1", client_order_id="big"),
            )
        )
        for number in range(ORDERS):
            await wire.append(maker.entry(sell(7, "50000", "0.1", client_order_id=f"s{number}")))

        async def settled() -> bool:
            progress = await rig.internal.GetProgress(internal_pb2.GetProgressRequest())
            return bool(progress.applied_seq == progress.archived_seq == maker.seq)

        await eventually(settled)
        yield rig


async def _pages(client: Client, method: Any, request: Any, field: str) -> list[list[Any]]:
    ask = partial(client.call, method)
    return [list(getattr(page, field)) async for page in pages(ask, request)]


async def test_orders_and_fills_read_as_the_engine_would_say_them(rig: Rig) -> None:
    client = rig.client(8)
    orders = await client.call(client.history.ListOrders, history_pb2.ListOrdersRequest())
    (order,) = orders.orders
    assert (order.client_order_id, order.market, order.price) == ("big", "BTC_USDC", "50000")
    assert order.status == types_pb2.ORDER_STATUS_PARTIALLY_FILLED
    assert (order.quantity, order.filled_quantity) == ("1", "0.7")
    assert (order.filled_notional, order.fees) == ("35000", "35")
    assert order.time_in_force == types_pb2.TIME_IN_FORCE_GTC
    request = history_pb2.GetOrderRequest(order_id=order.order_id)
    answer = await client.call(client.history.GetOrder, request)
    assert answer.order == order
    assert [fill.trade_id for fill in answer.fills] == list(range(1, ORDERS + 1))
    fill = answer.fills[0]
    assert (fill.price, fill.quantity, fill.notional, fill.fee) == ("50000", "0.1", "5000", "5")
    assert fill.maker and fill.side == types_pb2.SIDE_BUY


async def test_pages_have_every_row_once_newest_first(rig: Rig) -> None:
    client = rig.client(7)
    request = history_pb2.ListOrdersRequest(page_size=3)
    pages = await _pages(client, client.history.ListOrders, request, "orders")
    assert [len(page) for page in pages] == [3, 3, 1]
    names = [order.client_order_id for page in pages for order in page]
    assert names == [f"s{number}" for number in reversed(range(ORDERS))]
    fills = await _pages(
        client, client.history.ListFills, history_pb2.ListFillsRequest(page_size=2), "fills"
    )
    assert [fill.trade_id for page in fills for fill in page] == list(range(ORDERS, 0, -1))
    entries = await _pages(
        client,
        client.ledger.ListLedgerEntries,
        ledger_pb2.ListLedgerEntriesRequest(asset="BTC", page_size=4),
        "entries",
    )
    # The deposit; then per order two sides of its hold, and what leaves it.
    assert sum(map(len, entries)) == 1 + ORDERS * 3
    assert entries[-1][-1].kind == "DEPOSIT" and entries[-1][-1].balance_after == "1"


async def test_filters_leave_out_what_does_not_match(rig: Rig) -> None:
    client = rig.client(7)

    async def orders(**filters: Any) -> int:
        request = history_pb2.ListOrdersRequest(**filters)
        return len((await client.call(client.history.ListOrders, request)).orders)

    assert await orders(market="BTC_USDC", status=types_pb2.ORDER_STATUS_FILLED) == ORDERS
    assert await orders(market="ETH_USDC") == 0
    assert await orders(status=types_pb2.ORDER_STATUS_CANCELLED) == 0
    rows = (await client.call(client.history.ListOrders, history_pb2.ListOrdersRequest())).orders
    middle: Timestamp = rows[3].create_time
    assert await orders(start_time=middle) == 4
    assert await orders(end_time=middle) == ORDERS - 4
    fills = await client.call(
        client.history.ListFills, history_pb2.ListFillsRequest(order_id=rows[0].order_id)
    )
    assert len(fills.fills) == 1


async def test_a_token_of_another_query_is_refused(rig: Rig) -> None:
    client = rig.client(7)
    answer = await client.call(
        client.history.ListOrders, history_pb2.ListOrdersRequest(page_size=1)
    )
    for token in (answer.next_page_token, "nonsense!"):
        request = history_pb2.ListOrdersRequest(market="BTC_USDC", page_token=token)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.call(client.history.ListOrders, request)
        assert refused_from(refused.value).field == "page_token"


async def test_nobody_sees_anything_of_another_account(rig: Rig) -> None:
    stranger = rig.client(9)
    history, ledger = stranger.history, stranger.ledger
    assert not (await stranger.call(history.ListOrders, history_pb2.ListOrdersRequest())).orders
    assert not (await stranger.call(history.ListFills, history_pb2.ListFillsRequest())).fills
    request = history_pb2.ListFillsRequest(order_id=1)
    assert not (await stranger.call(history.ListFills, request)).fills
    entries = ledger_pb2.ListLedgerEntriesRequest()
    assert not (await stranger.call(ledger.ListLedgerEntries, entries)).entries
    assert await stranger.balances() == {}
    assert await stranger.transfers() == []
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stranger.call(history.GetOrder, history_pb2.GetOrderRequest(order_id=1))
    assert refused_from(refused.value).reason is Reason.ORDER_NOT_FOUND
    # A page token of another account is worth nothing either.
    owner = rig.client(7)
    page = await owner.call(owner.history.ListOrders, history_pb2.ListOrdersRequest(page_size=1))
    with pytest.raises(grpc.aio.AioRpcError):
        await stranger.call(
            history.ListOrders,
            history_pb2.ListOrdersRequest(page_token=page.next_page_token),
        )


async def test_without_a_token_only_the_books_are_open(rig: Rig) -> None:
    stub = ledger_pb2_grpc.LedgerServiceStub(rig.public)
    books = await stub.GetReconciliation(ledger_pb2.GetReconciliationRequest())
    assert books.balanced and books.log_seq == books.newest_log_seq == rig.engine.maker.seq
    usdc = {asset.asset: asset for asset in books.assets}["USDC"]
    assert (usdc.deposits, usdc.withdrawals, usdc.difference) == ("60000", "0", "0")
    # Seven trades of 5000 at 10 and 20 basis points.
    assert usdc.fees == "105"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.ListBalances(ledger_pb2.ListBalancesRequest())
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_the_proof_is_the_chain_of_the_archived_payloads(rig: Rig) -> None:
    stub = ledger_pb2_grpc.LedgerServiceStub(rig.public)
    records: list[LogRecord] = []
    async for piece in rig.internal.ReadArchive(internal_pb2.ReadArchiveRequest()):
        records += [LogRecord(entry.seq, entry.payload, entry.hash) for entry in piece.entries]
    verify_chain(records, after_seq=0, after_hash=GENESIS_HASH)
    assert len(records) == rig.engine.maker.seq
    proof = await stub.GetProof(ledger_pb2.GetProofRequest(from_seq=3, count=4))
    assert proof.previous_hash == records[1].hash
    assert [(link.seq, link.hash) for link in proof.links] == [
        (record.seq, record.hash) for record in records[2:6]
    ]
    link = proof.previous_link
    for one in proof.links:
        link = hashlib.sha256(link + one.payload_sha256 + one.hash).digest()
        assert one.link == link
        assert one.payload_sha256 == hashlib.sha256(records[one.seq - 1].payload).digest()
    first = await stub.GetProof(ledger_pb2.GetProofRequest(from_seq=1))
    assert first.previous_link == GENESIS_HASH and first.newest_seq == len(records)
    assert first.previous_hash == GENESIS_HASH and len(first.links) == len(records)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.GetProof(ledger_pb2.GetProofRequest(from_seq=1000))
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("kind", "rows", "column"),
    [
        (history_pb2.HISTORY_KIND_ORDERS, ORDERS, "client_order_id"),
        (history_pb2.HISTORY_KIND_FILLS, ORDERS, "trade_id"),
        # Deposit, holds, and per trade what leaves the hold and what comes in.
        (history_pb2.HISTORY_KIND_LEDGER, 1 + ORDERS * 4, "entry_id"),
    ],
)
async def test_an_export_is_the_whole_history_as_csv(
    rig: Rig, kind: history_pb2.HistoryKind.ValueType, rows: int, column: str
) -> None:
    client = rig.client(7)
    call = client.history.ExportHistory(
        history_pb2.ExportHistoryRequest(kind=kind), metadata=client.metadata
    )
    text = "".join([piece.csv async for piece in call])
    found = list(csv.DictReader(io.StringIO(text)))
    assert len({row[column] for row in found}) == len(found) == rows
    assert None not in found[0]


async def test_a_market_order_shows_no_price(rig: Rig) -> None:
    maker = rig.engine.maker
    order = c.PlaceOrder(
        7,
        BTC_USDC,
        side=k.SIDE_SELL,
        type=k.ORDER_TYPE_MARKET,
        quantity_lots=10_000,
        max_slippage_bps=100,
    )
    await rig.engine.wire.append(maker.entry(order))
    client = rig.client(7)

    async def shown() -> bool:
        rows = await client.call(client.history.ListOrders, history_pb2.ListOrdersRequest())
        newest = rows.orders[0]
        return bool(
            newest.type == types_pb2.ORDER_TYPE_MARKET
            and newest.price == ""
            and newest.time_in_force == types_pb2.TIME_IN_FORCE_IOC
            and newest.status == types_pb2.ORDER_STATUS_FILLED
        )

    await eventually(shown)
