"""Crashes, restarts, lost stores and rivals: what was acknowledged is there, once."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
import structlog
from tidebook.engine.v1 import internal_pb2, log_pb2, order_pb2
from tidebook.engine.v1 import types_pb2 as t

from kernel.reasons import Reason
from mesh.log import GENESIS_HASH, LogRecord, LogWriter, chain_hash, log_key
from mesh.redis import open_redis
from ops.embedded import EmbeddedValkey
from services.engine.codec import MarketTexts
from services.engine.domain.exchange import Exchange
from services.engine.encode import Encoder
from services.engine.projection import Projection
from services.engine.recovery import Replayer, ReplayMismatch
from services.engine.watch import AccountFeeds
from tests.engine.test_orders import refusal
from tests.support import eventually
from tests.support.engine import EngineRig, Trader, engine_rig, limit


@pytest_asyncio.fixture
async def durable_rig(short_dir: Path, valkey_server: EmbeddedValkey) -> AsyncIterator[EngineRig]:
    """A rig on a durable Valkey that the test may stop."""
    async with engine_rig(short_dir, valkey_server.url, log_append_slow_ms=300) as rig:
        yield rig


def replayer() -> tuple[Replayer, Exchange]:
    """A fresh core, to read a log into."""
    exchange, projection = Exchange(), Projection()
    feeds = AccountFeeds(projection, Encoder(projection, MarketTexts()))
    return Replayer(exchange, projection, feeds), exchange


async def read_log(rig: EngineRig) -> list[LogRecord]:
    """The whole log, over the contract."""
    call = rig.internal.ReadLog(internal_pb2.ReadLogRequest(stop_at_end=True))
    return [
        LogRecord(entry.seq, entry.payload, entry.hash)
        async for response in call
        for entry in response.entries
    ]


async def trade_a_little(alice: Trader, bob: Trader) -> None:
    for number in range(10):
        await alice.place(side="sell", price=f"{100 + number}", quantity="1")
        await bob.place(side="buy", price="103", quantity="0.3")
    for order in (await alice.open_orders())[::2]:
        await alice.cancel(order.order_id)


async def test_a_restart_brings_everything_back(rig: EngineRig) -> None:
    await rig.start()
    alice, bob = await rig.funded(1), await rig.funded(2)
    await trade_a_little(alice, bob)
    orders, balances = await alice.open_orders(), await alice.balances()
    before = await rig.state(with_balances=True)
    await rig.stop()
    await rig.start()
    assert await alice.open_orders() == orders
    assert await alice.balances() == balances
    after = await rig.state(with_balances=True)
    assert after.epoch == before.epoch + 1
    assert after.balances == before.balances and after.fees == before.fees


async def test_the_log_alone_gives_the_same_state(engine: EngineRig) -> None:
    alice, bob = await engine.funded(1), await engine.funded(2)
    await trade_a_little(alice, bob)
    state = await engine.state()
    records = await read_log(engine)
    assert len(records) == state.log_seq and records[-1].hash == state.log_hash
    fresh, exchange = replayer()
    previous = GENESIS_HASH
    for record in records:
        previous = hashlib.sha256(previous + record.payload).digest()
        assert record.hash == previous
        fresh.apply(record)
    exchange.check_invariants()
    assert exchange.state_hash() == state.state_hash


async def test_an_entry_that_replays_differently_stops_the_engine(engine: EngineRig) -> None:
    alice = await engine.funded(1)
    await alice.place()
    *good, last = await read_log(engine)
    fresh, _ = replayer()
    for record in good:
        fresh.apply(record)
    entry = log_pb2.LogEntry.FromString(last.payload)
    entry.commands[0].events[0].order_placed.hold_units += 1
    payload = entry.SerializeToString(deterministic=True)
    forged = LogRecord(last.seq, payload, chain_hash(good[-1].hash, payload))
    with pytest.raises(ReplayMismatch, match=f"entry {last.seq}, command .*place_order"):
        fresh.apply(forged)


async def test_a_client_order_id_is_known_after_a_restart(rig: EngineRig) -> None:
    await rig.start()
    alice = await rig.funded(1)
    first = await alice.place(client_order_id="once")
    await rig.stop()
    await rig.start()
    again = await alice.place(client_order_id="once")
    assert again.repeated and again.order.order_id == first.order.order_id
    assert len(await alice.open_orders()) == 1


async def test_every_acknowledged_order_survives_a_kill_exactly_once(
    durable_rig: EngineRig,
) -> None:
    rig = durable_rig
    await rig.spawn()
    alice = await rig.funded(1)
    acknowledged: list[str] = []
    sent: list[str] = []
    for round_number in range(3):
        call = alice.stream()
        reading = asyncio.create_task(collect(call, acknowledged))
        enough = len(acknowledged) + 300

        async def send(call: Any = call, prefix: int = round_number) -> None:
            with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
                for message in range(1000):
                    names = [f"{prefix}.{message}.{n}" for n in range(20)]
                    sent.extend(names)
                    await call.write(
                        order_pb2.TradeStreamRequest(
                            commands=[
                                order_pb2.TradeCommand(
                                    place=limit(
                                        price="1",
                                        quantity="1",
                                        client_order_id=name,
                                        # More than the market's limit of open orders.
                                        time_in_force=t.TIME_IN_FORCE_IOC,
                                    )
                                )
                                for name in names
                            ]
                        )
                    )

        sending = asyncio.create_task(send())

        async def busy(enough: int = enough) -> None:
            assert len(acknowledged) > enough

        await eventually(busy, timeout_s=30, interval_s=0.001)
        await rig.kill()
        await asyncio.gather(reading, sending)
        call.cancel()
        await rig.spawn()
    assert len(set(acknowledged)) == len(acknowledged) > 900
    placed = []
    for record in await read_log(rig):
        entry = log_pb2.LogEntry.FromString(record.payload)
        for logged in entry.commands:
            if logged.events[0].WhichOneof("event") == "order_placed":
                placed.append(logged.place_order.client_order_id)
    assert len(set(placed)) == len(placed), "an order was placed twice"
    assert set(acknowledged) <= set(placed) <= set(sent)


async def collect(call: Any, acknowledged: list[str]) -> None:
    """Names of the orders that were acknowledged, until the stream breaks."""
    with contextlib.suppress(grpc.RpcError):
        async for response in call:
            acknowledged.extend(
                result.placed.order.client_order_id
                for result in response.results
                if result.HasField("placed")
            )


async def test_a_second_writer_fences_the_first_which_then_stops(
    rig: EngineRig, valkey_url: str
) -> None:
    await rig.spawn()
    alice = await rig.funded(1)
    await alice.place(client_order_id="before")
    state = await rig.state()
    redis = open_redis(rig.settings)
    rival = LogWriter(redis, 0, next_seq=state.log_seq + 1, last_hash=state.log_hash)
    taken = log_pb2.LogEntry(seq=state.log_seq + 1, epoch=state.epoch + 1)
    await rival.append(taken.SerializeToString())
    refused = await refusal(alice.place(client_order_id="after"))
    assert refused.reason in (Reason.FENCED, Reason.UNAVAILABLE)
    assert rig.process is not None
    assert await asyncio.wait_for(rig.process.wait(), 60) == 1
    assert "writer_fenced" in rig.log_path.read_text()
    assert await redis.xlen(log_key(0)) == state.log_seq + 1
    await redis.aclose()


async def test_a_second_engine_on_the_same_ports_fails_and_fences_nobody(rig: EngineRig) -> None:
    await rig.spawn()
    alice = await rig.funded(1)
    second = await rig.launch()
    assert await asyncio.wait_for(second.wait(), 60) == 1
    assert "port in use" in rig.log_path.read_text()
    await alice.place()


async def test_a_lost_log_store_is_a_retryable_refusal_and_loses_nothing(
    durable_rig: EngineRig, valkey_server: EmbeddedValkey
) -> None:
    rig = durable_rig
    await rig.start()
    alice = await rig.funded(1)
    order = (await alice.place(client_order_id="before")).order
    await valkey_server.stop()
    # The one that is being appended is answered when that is known; what comes later is refused.
    with structlog.testing.capture_logs() as lines:
        waiting = asyncio.create_task(alice.place(client_order_id="during"))
        # Only then is what follows sure to come later, and not in the same batch.
        await eventually(lambda: any(line["event"] == "log_append_retried" for line in lines))

    async def refused_now() -> None:
        refused = await refusal(alice.place())
        assert refused.reason is Reason.LOG_UNAVAILABLE

    await eventually(refused_now)
    cancelling = asyncio.create_task(alice.cancel(order.order_id))
    await asyncio.sleep(0)
    await valkey_server.start()
    during = (await asyncio.wait_for(waiting, 60)).order
    assert (await cancelling).status == t.ORDER_STATUS_CANCELLED

    async def taken_again() -> None:
        await alice.place(client_order_id="later")

    await eventually(taken_again)
    names = [order.client_order_id for order in await alice.open_orders()]
    assert names == ["during", "later"] and during.log_seq > order.log_seq
    await rig.stop()
    await rig.start()
    assert [order.client_order_id for order in await alice.open_orders()] == names


async def test_a_stopping_engine_answers_what_it_took(rig: EngineRig) -> None:
    await rig.start()
    alice = await rig.funded(1)
    call = alice.stream()
    commands = [order_pb2.TradeCommand(place=limit(price="50")) for _ in range(100)]
    await call.write(order_pb2.TradeStreamRequest(commands=commands))
    stopping = asyncio.create_task(rig.stop())
    answered = 0
    with contextlib.suppress(grpc.RpcError):
        while (response := await call.read()) is not grpc.aio.EOF:
            answered += len(response.results)
    await stopping
    assert answered in (0, 100)
    await rig.start()
    assert len(await alice.open_orders()) == answered
