"""The log becomes ledger and history: all of it, once, in order, or not at all."""

from __future__ import annotations

import asyncio
import random

import pytest
from redis.asyncio import Redis
from tidebook.engine.v1 import log_pb2, types_pb2

from kernel.money import INT64_MAX
from mesh.aio import cancel_and_wait
from mesh.config import Settings
from mesh.log import LogRecord, chain_hash, log_key
from mesh.telemetry import SpanRecorder, new_trace, read_order_trace
from services.engine.domain import commands as c
from services.settlement import follower
from services.settlement.codec import fold
from services.settlement.store import archive
from services.settlement.store.applying import Progress, apply_batch
from services.settlement.store.archive import ArchiveEnd
from services.settlement.store.database import Connection, Superseded
from services.settlement.store.partitions import Months
from tests.settlement.support import BTC_USDC, LogMaker, Settlement, Wire, buy, sell, trading
from tests.support import eventually


async def test_a_trade_settles_as_the_core_says(
    settlement: Settlement, maker: LogMaker, wire: Wire
) -> None:
    await wire.append(
        maker.begin(7, 8),
        maker.entry(sell(7, "50000", "0.5"), sell(7, "50010", "0.5", client_order_id="mine")),
        maker.entry(buy(8, "50020", "0.75"), c.CancelOrder(7, client_order_id="mine")),
    )
    await settlement.settle(maker)
    await settlement.check_books(maker)
    orders = await settlement.pool.fetch("select * from orders order by order_id")
    assert [row["status"] for row in orders] == [4, 5, 4]
    assert [row["filled_lots"] for row in orders] == [50_000, 25_000, 75_000]
    assert orders[2]["filled_notional_units"] == 25_000 * 10**8 + 12_502_50000000
    assert await settlement.count("fills") == 4
    kinds = await settlement.pool.fetch("select kind, count(*) from ledger_transactions group by 1")
    # Four deposits, three holds, two trades, and the release of what the cancelled order held.
    assert {row[0]: row[1] for row in kinds} == {1: 4, 5: 3, 8: 2, 6: 1}


async def test_an_amended_order_keeps_its_books(
    settlement: Settlement, maker: LogMaker, wire: Wire
) -> None:
    await wire.append(
        maker.begin(7, 8),
        maker.entry(buy(7, "50000", "1", client_order_id="mine")),
        maker.entry(c.AmendOrder(7, client_order_id="mine", quantity_lots=40_000)),
        maker.entry(sell(8, "50000", "0.1")),
    )
    await settlement.settle(maker)
    await settlement.check_books(maker)
    order = await settlement.pool.fetchrow("select * from orders where order_id = 1")
    assert order is not None
    assert (order["quantity_lots"], order["filled_lots"], order["status"]) == (40_000, 10_000, 3)


async def test_a_database_that_fails_just_before_the_commit_is_waited_for(
    settlement: Settlement, maker: LogMaker, wire: Wire
) -> None:
    """Everything of a batch is written when the disk is full: it is rolled back and done again."""
    await settlement.pool.execute(
        "create sequence faults;"
        " create function fail_at_first() returns trigger language plpgsql as $$ begin"
        "  if nextval('settlement.faults') <= 3 then"
        "   raise exception 'no space left on device' using errcode = 'disk_full'; end if;"
        "  return new; end $$;"
        " create trigger fail_at_first before update on progress"
        " for each row execute function fail_at_first()"
    )
    await wire.append(*trading(maker, 20))
    await settlement.settle(maker)
    assert await settlement.pool.fetchval("select last_value from faults") > 3
    await settlement.check_books(maker)


async def test_lost_connections_neither_lose_nor_double(
    settlement: Settlement, maker: LogMaker, wire: Wire
) -> None:
    records = trading(maker, 120)
    await wire.append(records[0])
    async with settlement.following():
        chance = random.Random(3)
        for start in range(1, len(records), 12):
            await wire.append(*records[start : start + 12])
            await asyncio.sleep(chance.random() * 0.03)
            await _terminate_backends(settlement)
        await settlement.caught_up(maker)
    await settlement.check_books(maker)


async def test_only_one_of_two_appliers_works_and_the_other_takes_over(
    settlement: Settlement, maker: LogMaker, wire: Wire
) -> None:
    records = trading(maker, 40)
    first, second = settlement.applier(), settlement.applier()
    jobs = (first, second, settlement.archiver())
    tasks = [asyncio.create_task(job.run()) for job in jobs]
    try:
        await wire.append(*records[:20])
        await eventually(lambda: _applied(settlement, 20))
        await asyncio.gather(first.ready.wait(), second.ready.wait())
        # Whichever was first to lock works; end it, and the other goes on.
        await cancel_and_wait(tasks[0])
        await wire.append(*records[20:])
        await eventually(lambda: _applied(settlement, maker.seq))
    finally:
        await cancel_and_wait(*tasks)
    await settlement.check_books(maker)


async def test_entries_that_come_twice_are_applied_once(
    settlement: Settlement, maker: LogMaker
) -> None:
    records = trading(maker, 5)
    batch, last = fold(records, shard=0, last_command_seq=0, markets={})
    end = records[-1]
    async with settlement.pool.acquire() as connection:
        await Months().ensure(connection, batch.first_time_ns, batch.time_ns)
        for attempt in range(2):
            try:
                await apply_batch(
                    connection,
                    0,
                    batch,
                    Progress(),
                    seq=end.seq,
                    log_hash=end.hash,
                    last_command_seq=last,
                    now_ns=1,
                )
            except Superseded:
                assert attempt == 1
            else:
                assert attempt == 0
    await settlement.check_books(maker)


async def test_a_ledger_behind_the_trimmed_log_goes_on_from_the_archive(
    settlement: Settlement, maker: LogMaker, wire: Wire, redis: Redis
) -> None:
    await wire.append(*trading(maker, 30))
    await settlement.settle(maker)
    # As if the ledger had never been applied, and the log was trimmed since.
    await settlement.pool.execute(
        "set session_replication_role = replica; truncate progress, ledger_entries,"
        " ledger_transactions, ledger_accounts, open_orders, closed_orders, fills;"
        " reset session_replication_role"
    )
    await redis.xtrim(log_key(0), minid="20-0", approximate=False)
    await settlement.settle(maker)
    await settlement.check_books(maker)


@pytest.mark.parametrize(
    ("event", "problem"),
    [
        pytest.param(
            log_pb2.Event(
                transfer_applied=log_pb2.TransferApplied(
                    transfer_id=1,
                    account_id=1,
                    asset_id=3,
                    amount_units=-1,
                    kind=types_pb2.TRANSFER_KIND_DEPOSIT,
                )
            ),
            "would be -1",
            id="it breaks the books",
        ),
        pytest.param(
            log_pb2.Event(
                trade=log_pb2.Trade(
                    market_id=BTC_USDC,
                    trade_id=1,
                    notional_units=INT64_MAX,
                    taker_fee_units=INT64_MAX,
                    maker_fee_units=INT64_MAX,
                )
            ),
            "beyond 64 bits",
            id="a fill is too large for the books",
        ),
        pytest.param(log_pb2.Event(), "event without content", id="its kind is not known"),
        pytest.param(
            log_pb2.Event(
                order_closed=log_pb2.OrderClosed(
                    order_id=999, account_id=1, status=types_pb2.ORDER_STATUS_CANCELLED
                )
            ),
            "1 orders change",
            id="nobody placed the order that it ends",
        ),
        pytest.param(
            log_pb2.Event(order_closed=log_pb2.OrderClosed(order_id=1, account_id=1)),
            "ended with status 0",
            id="an order ends in no way known",
        ),
    ],
)
async def test_an_entry_that_cannot_be_stops_the_ledger_before_it(
    settlement: Settlement, maker: LogMaker, wire: Wire, event: log_pb2.Event, problem: str
) -> None:
    good = trading(maker, 3)
    entry = log_pb2.LogEntry(seq=5, shard=0, time_ns=maker.now_ns + 1)
    entry.commands.add(
        command_seq=maker.exchange.last_command_seq + 1, account_id=1, events=[event]
    )
    await _stops_at(settlement, wire, [*good, _link(good[-1], entry)], problem)


async def test_a_log_that_was_changed_behind_the_ledger_stops_it(
    settlement: Settlement, maker: LogMaker, wire: Wire, redis: Redis
) -> None:
    await wire.append(*trading(maker, 3))
    await settlement.settle(maker)
    await redis.delete(log_key(0))
    await Wire(redis).append(*trading(LogMaker(), 5, seed=2))
    await asyncio.wait_for(settlement.applier().run(), 60)
    halt = settlement.halts.of("apply")
    assert halt is not None and "entry" in halt.problem


async def test_the_commands_of_a_span_get_one_below_it_after_the_commit(
    settings: Settings, settlement: Settlement, maker: LogMaker, wire: Wire, redis: Redis
) -> None:
    """Where the orders are looked for: their entries are years older than the settlement."""
    recorder = SpanRecorder("settlement", redis, settings)
    one, other = new_trace(), new_trace()
    await wire.append(
        maker.begin(7),
        maker.entry(buy(7, "50000", "1"), buy(7, "50001", "1"), trace=one),
        maker.entry(buy(7, "50002", "1"), trace=other),
        maker.entry(buy(7, "50003", "1"), trace=one),
    )
    async with settlement.following(recorder=recorder):
        await settlement.caught_up(maker)
    for order_id, placed_by in ((1, one), (3, other)):
        recorder.link_order(order_id, 7, placed_by, maker.now_ns)
    await recorder.close()
    for order_id, parent, expected in (
        (1, one, [{"order_id": "1", "log_seq": "2"}, {"order_id": "4", "log_seq": "4"}]),
        (3, other, [{"order_id": "3", "log_seq": "3"}]),
    ):
        _, spans = await read_order_trace(redis, order_id)
        assert sorted((span.attributes for span in spans), key=str) == sorted(expected, key=str)
        for span in spans:
            assert (span.service, span.name) == ("settlement", "settlement.apply")
            assert (span.trace_id, span.parent_span_id) == parent
            assert maker.now_ns < span.start_ns <= span.end_ns
        assert len({span.span_id for span in spans}) == len(expected)


async def _applied(settlement: Settlement, seq: int) -> bool:
    return await settlement.applied_seq() >= seq


async def _stops_at(
    settlement: Settlement, wire: Wire, records: list[LogRecord], problem: str
) -> None:
    """The last record is poison: all before it are applied, it is named, nothing is tried again,
    and what comes after it is archived all the same.
    """
    await wire.append(*records)
    async with settlement.following():
        await eventually(lambda: settlement.halts.of("apply") is not None)
        await eventually(lambda: _archived(settlement, len(records)))
    halt = settlement.halts.of("apply")
    assert halt is not None and halt.log_seq == records[-1].seq
    assert problem in halt.problem
    assert await settlement.applied_seq() == records[-2].seq


async def _archived(settlement: Settlement, entries: int) -> bool:
    return await settlement.count("archive") == entries


def _link(before: LogRecord, entry: log_pb2.LogEntry) -> LogRecord:
    payload = entry.SerializeToString()
    return LogRecord(entry.seq, payload, chain_hash(before.hash, payload))


async def _terminate_backends(settlement: Settlement) -> None:
    await settlement.pool.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    )


async def test_a_ledger_that_waits_for_the_archive_can_be_stopped(
    settlement: Settlement, maker: LogMaker, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody archives, as after a halt; a stop must not wait for that."""
    waits = asyncio.Event()

    async def archive_end(connection: Connection, shard: int) -> ArchiveEnd:
        waits.set()
        return await archive.archive_end(connection, shard)

    monkeypatch.setattr(follower, "archive_end", archive_end)
    await wire.append(maker.begin(11))
    ledger = asyncio.create_task(settlement.applier().run())
    await waits.wait()
    async with asyncio.timeout(60):
        await cancel_and_wait(ledger)
    assert await settlement.applied_seq() == 0
