"""The outbox relay, killed at every single line of it: money is neither lost nor doubled."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from kernel.clock import ManualClock
from mesh.aio import cancel_and_wait
from mesh.config import Settings
from services.engine.domain import commands as c
from services.settlement import transfers
from services.settlement.catalog import Catalog
from services.settlement.store import transfers as store
from services.settlement.store.transfers import (
    Direction,
    OutboxMessage,
    TransferRequest,
    TransferStatus,
)
from services.settlement.transfers import Transfers, TransferWorker
from tests.settlement.support import START_NS, USDC, LogMaker, Settlement, Wire
from tests.support import eventually

ACCOUNT = 11
_MINUTE_NS = 60 * 10**9
_RELAY = {transfers.__file__, store.__file__}


class Killed(BaseException):
    """The process ends here."""


class KillAtLine:
    """Ends the process (as far as the relay can tell) at the n-th line of the relay that runs."""

    def __init__(self, line: int) -> None:
        self.line = line
        self.lines = 0
        self.at = ""

    def __enter__(self) -> KillAtLine:
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _call(self, frame: FrameType, event: str, arg: Any) -> Any:
        return self._line if frame.f_code.co_filename in _RELAY else None

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            self.lines += 1
            if self.lines == self.line:
                self.at = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                raise Killed(self.at)
        return self._line


class LoggingEngine:
    """The real core, which writes the real log; every transfer id counts once, as in the engine."""

    def __init__(self, maker: LogMaker, wire: Wire, clock: ManualClock) -> None:
        self.maker, self.wire, self.clock = maker, wire, clock

    async def apply_transfer(self, message: OutboxMessage, asset: str) -> None:
        command = c.Transfer(
            message.account_id,
            message.engine_transfer_id,
            message.asset_id,
            message.amount_units,
            message.kind,
        )
        self.maker.now_ns = self.clock.now_ns()
        await self.wire.append(self.maker.entry(command))


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
async def test_a_relay_killed_at_any_line_neither_loses_nor_doubles(
    settings: Settings, settlement: Settlement, maker: LogMaker, wire: Wire
) -> None:
    """Each time a deposit is to be sent, a withdrawal to be paid and another to be given back."""
    await wire.append(maker.begin(ACCOUNT))
    clock, catalog = ManualClock(START_NS), Catalog(settlement.pool)
    engine = LoggingEngine(maker, wire, clock)
    balance, killed = 10**15, set()

    def relay() -> TransferWorker:
        # A new process each time.
        return TransferWorker(settlement.pool, catalog, engine, settings, clock, asyncio.Event())

    async with settlement.following():
        await settlement.caught_up(maker)
        await catalog.asset(USDC)
        for line in itertools.count(1):
            paid = await _ask(settlement, Direction.WITHDRAWAL, line, clock)
            back = await _ask(settlement, Direction.WITHDRAWAL, 1_000 + line, clock)
            await _until(settlement, relay, clock, TransferStatus.HELD, paid, back)
            async with settlement.pool.acquire() as connection:
                assert await store.call_back(connection, ACCOUNT, back, clock.now_ns())
            deposit = await _ask(settlement, Direction.DEPOSIT, 1_000_000 + line, clock)
            balance += 1_000_000
            # Now all of it is due.
            clock.advance(_MINUTE_NS)
            with KillAtLine(line) as kill, contextlib.suppress(Killed):
                await relay().run_once()
            await _until(settlement, relay, clock, TransferStatus.COMPLETED, paid, deposit)
            await _until(settlement, relay, clock, TransferStatus.CANCELLED, back)
            if not kill.at:
                break
            killed.add(kill.at)
    assert len(killed) > 20
    await settlement.check_books(maker)
    assert maker.balances()[ACCOUNT, USDC, 1] == balance
    # Two messages of the one that was called back, one of the others, each in the log once.
    assert await settlement.count("ledger_transactions") == 2 + 4 * line
    assert await settlement.count("outbox") == 4 * line


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
async def test_a_request_killed_at_any_line_is_written_whole_or_not_at_all(
    settings: Settings, settlement: Settlement, maker: LogMaker, wire: Wire
) -> None:
    """And asking again with the same id completes it, once."""
    await wire.append(maker.begin(ACCOUNT))
    clock, catalog = ManualClock(START_NS), Catalog(settlement.pool)
    requests = Transfers(settlement.pool, catalog, settings, clock)
    killed: set[str] = set()
    async with settlement.following():
        await settlement.caught_up(maker)
        await catalog.asset_named("USDC")
        for line in itertools.count(1):
            with KillAtLine(line) as kill, contextlib.suppress(Killed):
                await requests.deposit(ACCOUNT, f"d{line}", "USDC", "1")
            rows = await settlement.pool.fetch(
                "select o.amount_units from transfers t left join outbox o using (transfer_id)"
                " where t.request_id = $1",
                f"d{line}",
            )
            assert [tuple(row) for row in rows] in ([], [(10**8,)]), kill.at
            if rows and kill.at in killed:
                # It has been written, and waits for the log line by line.
                break
            killed.add(kill.at)
        assert len(killed) > 25
        engine = LoggingEngine(maker, wire, clock)
        relay = TransferWorker(settlement.pool, catalog, engine, settings, clock, requests.written)
        sending = asyncio.create_task(relay.run())
        try:
            for number in range(1, line + 1):
                row = await requests.deposit(ACCOUNT, f"d{number}", "USDC", "1")
                await eventually(partial(_completed, settlement, row["transfer_id"]))
        finally:
            await cancel_and_wait(sending)
    assert maker.balances()[ACCOUNT, USDC, 1] == 10**15 + line * 10**8
    assert await settlement.count("transfers") == await settlement.count("outbox") == line


async def _completed(settlement: Settlement, transfer_id: int) -> bool:
    status = await settlement.pool.fetchval(
        "select status from transfers where transfer_id = $1", transfer_id
    )
    return bool(status == TransferStatus.COMPLETED)


async def _ask(settlement: Settlement, direction: Direction, units: int, clock: ManualClock) -> int:
    request = TransferRequest(ACCOUNT, f"{direction}.{units}", direction, USDC, units)
    return await settlement.ask(request, clock.now_ns())


async def _until(
    settlement: Settlement,
    relay: Callable[[], TransferWorker],
    clock: ManualClock,
    wanted: TransferStatus,
    *transfer_ids: int,
) -> None:
    """Relays that nobody kills, until all of them are what they have to become."""

    async def done() -> bool:
        missing = await settlement.pool.fetchval(
            "select count(*) from transfers where transfer_id = any($1) and status <> $2",
            transfer_ids,
            wanted,
        )
        if missing:
            # Backoff, payout delay and whatever else is waited for is over.
            if wanted is not TransferStatus.HELD:
                clock.advance(3 * _MINUTE_NS)
            await relay().run_once()
        return not missing

    await eventually(done, timeout_s=60.0)
