"""What the other services of the mesh get from the engine."""

from __future__ import annotations

import asyncio
from typing import Any

from tidebook.engine.v1 import internal_pb2, internal_pb2_grpc, log_pb2, order_pb2_grpc, types_pb2

from kernel.reasons import Reason
from mesh.channel import open_channel
from mesh.log import GENESIS_HASH, LogRecord, verify_chain
from tests.engine.test_orders import refusal
from tests.support.engine import EngineRig, limit


async def test_the_book_snapshot_has_every_resting_order_in_its_order(engine: EngineRig) -> None:
    alice, bob = await engine.funded(1), await engine.funded(2)
    orders = [
        (await alice.place(side="buy", price=price, quantity="1")).order
        for price in ("90", "91", "90")
    ]
    offer = (await alice.place(side="sell", price="95", quantity="1")).order
    await bob.place(side="buy", price="95", quantity="0.25")
    snapshot = await engine.internal.GetBookSnapshot(internal_pb2.GetBookSnapshotRequest())
    state = await engine.state()
    assert (snapshot.log_seq, snapshot.log_hash) == (state.log_seq, state.log_hash)
    assert snapshot.configuration.markets[0].name == "BTC_USDC"
    assert len(snapshot.configuration.assets) == 6
    book = snapshot.books[0]
    ids = [order.order_id for order in orders]
    assert [o.order_id for o in book.bids] == [ids[1], ids[0], ids[2]]
    assert [o.price_ticks for o in book.bids] == [9100, 9000, 9000]
    assert [(o.order_id, o.quantity_lots) for o in book.asks] == [(offer.order_id, 75_000)]
    assert (book.last_trade_id, book.last_price_ticks) == (1, 9500)


async def test_the_log_is_read_from_a_position_and_then_followed(engine: EngineRig) -> None:
    alice = await engine.funded(1)
    call: Any = engine.internal.ReadLog(internal_pb2.ReadLogRequest())
    seen: list[LogRecord] = []

    async def read_up_to(seq: int) -> None:
        async with asyncio.timeout(60):
            while not seen or seen[-1].seq < seq:
                response = await call.read()
                seen.extend(LogRecord(r.seq, r.payload, r.hash) for r in response.entries)

    await read_up_to((await engine.state()).log_seq)
    placed = (await alice.place()).order
    await read_up_to(placed.log_seq)
    call.cancel()
    state = await engine.state()
    assert verify_chain(seen, after_seq=0, after_hash=GENESIS_HASH) == state.log_hash
    entry = log_pb2.LogEntry.FromString(seen[-1].payload)
    assert entry.seq == placed.log_seq and entry.epoch == state.epoch
    assert entry.taken_ns <= entry.applied_ns and entry.commands[0].account_id == 1
    first = log_pb2.LogEntry.FromString(seen[0].payload)
    assert [one.WhichOneof("command") for one in first.commands] == ["begin_epoch", "configure"]

    rest: Any = engine.internal.ReadLog(
        internal_pb2.ReadLogRequest(after_seq=placed.log_seq - 1, stop_at_end=True)
    )
    assert [r.seq async for response in rest for r in response.entries] == [placed.log_seq]


async def test_each_service_may_only_do_its_own_part(engine: EngineRig) -> None:
    async with open_channel(engine.settings, "engine", caller="gateway") as channel:
        stub = internal_pb2_grpc.EngineInternalServiceStub(channel)
        transfer = internal_pb2.ApplyTransferRequest(
            transfer_id=1, account_id=1, asset="USDC", amount_units=1
        )
        assert (await refusal(stub.ApplyTransfer(transfer))).reason is Reason.CALLER_NOT_ALLOWED
        halt = internal_pb2.SetMarketStatusRequest(
            market="BTC_USDC", status=types_pb2.MARKET_STATUS_HALTED
        )
        assert (await refusal(stub.SetMarketStatus(halt))).reason is Reason.CALLER_NOT_ALLOWED
    async with open_channel(engine.settings, "engine", caller="settlement") as channel:
        stub = internal_pb2_grpc.EngineInternalServiceStub(channel)
        await stub.ApplyTransfer(transfer)


async def test_a_service_sends_a_users_order_with_the_users_token(engine: EngineRig) -> None:
    alice = await engine.funded(1)
    async with open_channel(engine.settings, "engine", caller="gateway") as channel:
        orders = order_pb2_grpc.OrderServiceStub(channel)
        await orders.PlaceOrder(limit(), metadata=alice.metadata)
        assert (await refusal(orders.PlaceOrder(limit()))).reason is Reason.UNAUTHENTICATED
    assert len(await alice.open_orders()) == 1
