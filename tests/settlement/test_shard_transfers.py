"""Transfers between two shards, whatever is killed meanwhile: neither lost nor doubled."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from redis.asyncio import Redis

from kernel.clock import ManualClock, SystemClock
from kernel.reasons import Reason, Refused
from mesh.aio import cancel_and_wait
from mesh.config import Settings
from mesh.log import LogReader
from services.engine.domain import commands as c
from services.settlement.catalog import Catalog
from services.settlement.domain.facts import TransferKind
from services.settlement.engine_client import EngineClient, EngineClients
from services.settlement.reconciliation import Reconciliation
from services.settlement.store.transfers import (
    Direction,
    OutboxMessage,
    TransferRequest,
    TransferStatus,
)
from services.settlement.transfers import Transfers, TransferWorker
from tests.settlement.support import START_NS, USDC, LogMaker, Settlement, Wire
from tests.settlement.test_relay_kills import KillAtLine, Killed
from tests.support import eventually

ACCOUNT = 11
_MINUTE_NS = 60 * 10**9
# Every so many lines of the relay it is killed: all of them are killed in the relay's own test.
_LINES = 7


class TwoEngines:
    """The real cores of two shards, which write real logs; `refuses` makes one refuse credits."""

    def __init__(self, makers: list[LogMaker], redis: Redis, clock: ManualClock) -> None:
        self.makers, self.clock = makers, clock
        self.wires = [Wire(redis, maker.shard) for maker in makers]
        self.lost = 0

    async def apply_transfer(self, message: OutboxMessage, asset: str) -> None:
        maker = self.makers[message.shard]
        maker.now_ns = self.clock.now_ns()
        command = c.Transfer(
            message.account_id,
            message.engine_transfer_id,
            message.asset_id,
            message.amount_units,
            message.kind,
        )
        await self.wires[message.shard].append(maker.entry(command))
        self.lost += 1
        if self.lost % 3 == 0:
            # Applied, but the answer does not arrive.
            raise Refused(Reason.UNAVAILABLE)


@pytest.fixture
def makers() -> list[LogMaker]:
    return [LogMaker(shard) for shard in (0, 1)]


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
async def test_relay_and_appliers_may_die_anywhere(
    settings: Settings, settlement: Settlement, redis: Redis, makers: list[LogMaker]
) -> None:
    clock, catalog = ManualClock(START_NS), Catalog(settlement.pool)
    engines = TwoEngines(makers, redis, clock)
    shards = [Settlement(settlement.pool, redis, shard) for shard in (0, 1)]
    for maker, wire in zip(makers, engines.wires, strict=True):
        # One id in two shards would be one transfer.
        maker.transfer_ids += 1000 * maker.shard
        await wire.append(maker.begin(ACCOUNT))

    def relay() -> TransferWorker:
        return TransferWorker(settlement.pool, catalog, engines, settings, clock, asyncio.Event())

    async def ask(number: int, units: int) -> int:
        source = number % 2
        request = TransferRequest(
            *(ACCOUNT, f"move-{number}", Direction.SHARD, USDC, units, ""),
            shard=source,
            to_shard=1 - source,
        )
        return await settlement.ask(request, clock.now_ns())

    async def ended(wanted: TransferStatus, *ids: int) -> bool:
        waiting = await settlement.pool.fetchval(
            "select count(*) from transfers where transfer_id = any($1) and status <> $2",
            *(ids, wanted),
        )
        if waiting:
            clock.advance(3 * _MINUTE_NS)
            await relay().run_once()
        return bool(waiting == 0)

    async def end(wanted: TransferStatus, *ids: int) -> None:
        await eventually(lambda: ended(wanted, *ids), timeout_s=60.0)

    balances = [10**15, 10**15]
    for round_ in itertools.count():
        # Appliers and archivers of both shards die at the end of each round, wherever they are.
        async with shards[0].following(), shards[1].following():
            for shard, maker in zip(shards, makers, strict=True):
                await caught_up(shard, maker)
            await catalog.asset(USDC)
            moved, units = await ask(round_, 1000 + round_), 1000 + round_
            # More than there is.
            refused = await ask(1_000_000 + round_, 2 * 10**15)
            clock.advance(_MINUTE_NS)
            with KillAtLine(1 + round_ * _LINES) as kill, contextlib.suppress(Killed):
                await relay().run_once()
            if round_ % 2:
                await end(TransferStatus.COMPLETED, moved)
        balances[round_ % 2] -= units
        balances[1 - round_ % 2] += units
        async with shards[0].following(), shards[1].following():
            await end(TransferStatus.COMPLETED, moved)
            await end(TransferStatus.FAILED, refused)
        books = await Reconciliation(
            settlement.pool,
            {shard: LogReader(settlement.redis, shard) for shard in (0, 1)},
            SystemClock(),
        ).books()
        assert books.balanced
        if not kill.at:
            break
    assert round_ > 5
    for shard, maker in zip(shards, makers, strict=True):
        assert await shard.balances() == maker.balances()
        free = maker.exchange.account(ACCOUNT)[USDC].free_units
        assert free == balances[maker.shard]


async def test_an_engine_that_does_not_answer_keeps_no_other_shard_waiting(
    settings: Settings, settlement: Settlement, redis: Redis, makers: list[LogMaker]
) -> None:
    clock, catalog = ManualClock(START_NS), Catalog(settlement.pool)
    engines = TwoEngines(makers, redis, clock)
    await engines.wires[0].append(makers[0].begin(ACCOUNT))
    hangs = asyncio.Event()

    class OneHangs:
        async def apply_transfer(self, message: OutboxMessage, asset: str) -> None:
            if message.shard == 1:
                hangs.set()
                await asyncio.Event().wait()
            await engines.apply_transfer(message, asset)

    async def status(transfer_id: int) -> int:
        found: int = await settlement.pool.fetchval(
            "select status from transfers where transfer_id = $1", transfer_id
        )
        return found

    async with Settlement(settlement.pool, redis, 0).following():
        await caught_up(Settlement(settlement.pool, redis, 0), makers[0])
        ids = []
        for shard in (1, 0):
            request = TransferRequest(
                ACCOUNT, f"to-{shard}", Direction.DEPOSIT, USDC, 5, shard=shard
            )
            ids.append(await settlement.ask(request, clock.now_ns()))
            if shard:
                relays = [
                    asyncio.create_task(
                        TransferWorker(
                            *(settlement.pool, catalog, OneHangs(), settings, clock),
                            asyncio.Event(),
                            shard=of,
                        ).run()
                    )
                    for of in (0, 1)
                ]
                await hangs.wait()
        try:
            await eventually(partial(_is, status, ids[1], TransferStatus.COMPLETED))
            assert await status(ids[0]) == TransferStatus.PENDING
        finally:
            await cancel_and_wait(*relays)


async def _is(
    status: Callable[[int], Awaitable[int]], transfer_id: int, wanted: TransferStatus
) -> bool:
    return await status(transfer_id) == wanted


async def caught_up(shard: Settlement, maker: LogMaker) -> None:
    async def done() -> bool:
        return await shard.applied_seq() == maker.seq

    await eventually(done, timeout_s=60.0)


async def test_what_cannot_be_is_refused(settings: Settings, settlement: Settlement) -> None:
    two = settings.model_copy(update={"shards": "0=*;1=SOL_*"})
    transfers = Transfers(settlement.pool, Catalog(settlement.pool), two, ManualClock(START_NS))
    for shards, field in (((0, 0), "to_shard"), ((0, 2), "to_shard"), ((5, 0), "from_shard")):
        with pytest.raises(Refused) as refused:
            await transfers.between_shards(
                ACCOUNT, "one", "USDC", "1", from_shard=shards[0], to_shard=shards[1]
            )
        assert refused.value.field == field


async def test_a_shard_that_is_not_configured_keeps_its_messages_waiting() -> None:
    clients: dict[int, EngineClient] = {}
    message = OutboxMessage(1, 3, ACCOUNT, USDC, 5, TransferKind.SHARD, "", 0)
    with pytest.raises(Refused) as refused:
        await EngineClients(clients).apply_transfer(message, "USDC")
    assert refused.value.reason is Reason.UNAVAILABLE
