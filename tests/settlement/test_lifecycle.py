"""What outlives its deadline is expired if nobody can have acted on it, and reported otherwise."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog.testing
from redis.asyncio import Redis
from tidebook.settlement.v1 import ledger_pb2

from kernel.clock import ManualClock
from kernel.money import INT64_MAX
from kernel.reasons import Reason, Refused
from mesh.config import Settings
from services.engine.domain import constants as k
from services.settlement.catalog import Catalog
from services.settlement.domain.facts import TransferKind
from services.settlement.lifecycle import LifecycleWorker
from services.settlement.store import transfers as store
from services.settlement.store.transfers import (
    Direction,
    OutboxMessage,
    TransferRequest,
    TransferStatus,
)
from services.settlement.transfers import TransferWorker
from tests.settlement.rig import settlement_rig
from tests.settlement.support import START_NS, USDC, LogMaker, Settlement, Wire, buy
from tests.support import eventually

_HOUR_NS = 3600 * 10**9


class DeafEngine:
    """Never answers anything but that it is away."""

    async def apply_transfer(self, message: OutboxMessage, asset: str) -> None:
        raise Refused(Reason.UNAVAILABLE)


async def _ask(settlement: Settlement, clock: ManualClock) -> int:
    request = TransferRequest(11, "one", Direction.DEPOSIT, USDC, 5)
    return await settlement.ask(request, clock.now_ns())


async def _row(settlement: Settlement, transfer_id: int) -> Any:
    return await settlement.pool.fetchrow(
        "select status, failure from transfers where transfer_id = $1", transfer_id
    )


async def test_a_transfer_that_was_never_sent_expires_and_is_never_sent(
    settings: Settings, settlement: Settlement, maker: LogMaker, wire: Wire
) -> None:
    await wire.append(maker.begin(11))
    await settlement.settle(maker)
    clock = ManualClock(START_NS)
    transfer_id = await _ask(settlement, clock)
    worker = LifecycleWorker(settlement.pool, settings, clock)
    await worker.run_once()
    assert tuple(await _row(settlement, transfer_id)) == (TransferStatus.PENDING, 0)
    clock.advance(_HOUR_NS)
    with structlog.testing.capture_logs() as said:
        await worker.run_once()
    assert [line["event"] for line in said] == ["transfer_expired"]
    assert tuple(await _row(settlement, transfer_id)) == (
        TransferStatus.FAILED,
        Reason.DEADLINE_PASSED,
    )
    async with settlement.pool.acquire() as connection:
        assert not await store.claim_messages(connection, clock.now_ns(), 10)


async def test_the_running_service_looks_for_what_is_overdue(
    settings: Settings, settlement: Settlement, redis: Redis
) -> None:
    async with settlement_rig(settings, redis) as rig:
        client = rig.client(11)
        request = TransferRequest(11, "one", Direction.DEPOSIT, USDC, 5)
        async with settlement.pool.acquire() as connection, connection.transaction():
            row = await store.add_transfer(connection, request, traceparent="", now_ns=START_NS)
            # No relay gets to it.
            await connection.execute(
                "update outbox set next_attempt_ns = $1 where transfer_id = $2",
                *(INT64_MAX, row["transfer_id"]),
            )

        async def expired() -> bool:
            (transfer,) = await client.transfers()
            return bool(transfer.status == ledger_pb2.TRANSFER_STATUS_FAILED)

        await eventually(expired)
        (transfer,) = await client.transfers()
        assert transfer.failure == "DEADLINE_PASSED"


async def test_a_transfer_that_was_sent_is_only_reported_and_not_at_every_look(
    settings: Settings, settlement: Settlement, maker: LogMaker, wire: Wire
) -> None:
    await wire.append(maker.begin(11))
    await settlement.settle(maker)
    clock = ManualClock(START_NS)
    transfer_id = await _ask(settlement, clock)
    relay = TransferWorker(
        settlement.pool, Catalog(settlement.pool), DeafEngine(), settings, clock, asyncio.Event()
    )
    await relay.run_once()
    clock.advance(_HOUR_NS)
    worker = LifecycleWorker(settlement.pool, settings, clock)
    with structlog.testing.capture_logs() as said:
        await worker.run_once()
        await worker.run_once()
    assert [line["event"] for line in said] == ["transfer_overdue"]
    assert said[0]["transfer_id"] == transfer_id and said[0]["attempts"] == 1
    assert worker.overdue == 1
    assert tuple(await _row(settlement, transfer_id)) == (TransferStatus.PENDING, 0)


async def test_an_order_that_should_have_expired_is_reported(
    settings: Settings, settlement: Settlement, maker: LogMaker, wire: Wire
) -> None:
    expire_ns = START_NS + _HOUR_NS
    order = buy(11, "50000", "1", time_in_force=k.TIME_IN_FORCE_GTD, expire_ns=expire_ns)
    await wire.append(maker.begin(11), maker.entry(order))
    await settlement.settle(maker)
    clock = ManualClock(expire_ns)
    worker = LifecycleWorker(settlement.pool, settings, clock)
    await worker.run_once()
    assert worker.overdue == 0
    clock.advance(_HOUR_NS)
    with structlog.testing.capture_logs() as said:
        await worker.run_once()
    assert [(line["event"], line["order_id"]) for line in said] == [("order_overdue", 1)]


async def test_a_reversal_that_was_refused_is_reported(
    settings: Settings, settlement: Settlement, maker: LogMaker, wire: Wire
) -> None:
    """Money that its owner called back and did not get waits for somebody to look."""
    await wire.append(maker.begin(11))
    await settlement.settle(maker)
    clock = ManualClock(START_NS)
    request = TransferRequest(11, "out", Direction.WITHDRAWAL, USDC, 5, "somewhere")
    transfer_id = await settlement.ask(request, START_NS)
    async with settlement.pool.acquire() as connection, connection.transaction():
        await connection.execute(
            "update transfers set status = $1, cancelling = true", TransferStatus.HELD
        )
        assert await store.reverse_called_back(connection, START_NS) == 1
        await connection.execute(
            "update outbox set done_ns = $1, attempts = case kind when $2 then 3 else 1 end",
            START_NS,
            TransferKind.WITHDRAWAL_CANCELLED,
        )
    clock.advance(_HOUR_NS)
    worker = LifecycleWorker(settlement.pool, settings, clock)
    with structlog.testing.capture_logs() as said:
        await worker.run_once()
    assert [(line["event"], line["transfer_id"], line["attempts"]) for line in said] == [
        ("transfer_overdue", transfer_id, 3)
    ]
