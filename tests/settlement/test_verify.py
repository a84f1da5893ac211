"""`tidebook verify` finds nothing where all is well, and names what somebody has changed."""

from __future__ import annotations

import random
from typing import Any

import pytest
from redis.asyncio import Redis

from mesh.config import Settings
from mesh.log import LogRecord, log_key
from ops.audit import Audit
from ops.findings import Report
from ops.verify import make_report, verify
from ops.verify_history import TABLES, compare_history
from services.engine.domain import commands as c
from services.settlement.store.transfers import Direction, TransferRequest
from tests.settlement.mixed_log import MixedLog, random_step
from tests.settlement.support import (
    BTC,
    START_NS,
    USDC,
    LogMaker,
    Settlement,
    Wire,
    buy,
    sell,
)


async def _some_trading(settlement: Settlement, maker: LogMaker, wire: Wire) -> None:
    await wire.append(
        maker.begin(7, 8),
        maker.entry(sell(7, "50000", "0.5"), sell(7, "50010", "0.5", client_order_id="mine")),
        maker.entry(buy(8, "50020", "0.75"), c.CancelOrder(7, client_order_id="mine")),
        maker.entry(buy(8, "49000", "1"), maker.transfer(8, BTC, -(10**8))),
    )
    await settlement.settle(maker)


async def test_an_honest_system_has_zero_differences(
    settings: Settings,
    settlement: Settlement,
    maker: LogMaker,
    wire: Wire,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await _some_trading(settlement, maker, wire)
    assert await verify(settings) == 0
    assert "zero differences at ledger position 4 of 4" in capsys.readouterr().out


async def test_entries_that_the_log_has_trimmed_are_taken_from_the_archive(
    settings: Settings, settlement: Settlement, maker: LogMaker, wire: Wire, redis: Redis
) -> None:
    await _some_trading(settlement, maker, wire)
    await redis.xtrim(log_key(0), minid="3-0", approximate=False)
    report = await make_report(settings)
    assert report.differences == 0
    assert {check.name: check.compared for check in report.checks}["log hash chain"] == 4


async def test_an_empty_system_has_zero_differences(
    settings: Settings, settlement: Settlement
) -> None:
    assert await verify(settings, json_output=True) == 0


@pytest.mark.parametrize(
    ("tampering", "found"),
    [
        ("update archive set payload = payload || 'x' where seq = 3", "archive = log: entry 3"),
        ("update archive set hash = sha256('x') where seq = 2", "archive = log: entry 2"),
        ("delete from archive where seq = 2", "archive = log"),
        (
            "update ledger_accounts set balance = balance + 1 where account_id = 7 and kind = 1",
            "ledger balances = replay: account 7",
        ),
        ("update ledger_entries set amount = amount + 1 where entry_id = 9", "ledger entries"),
        ("delete from ledger_entries where entry_id = 1", "ledger entries"),
        ("update closed_orders set filled_lots = 1 where order_id = 2",
         "order history = replay: order (order_id 2): filled_lots is 1, by the replay"),
        ("delete from fills where trade_id = 1 and maker",
         "fill history = replay: fill (market_id 1, trade_id 1, maker True): is not in"),
        ("create temp table copied as select * from closed_orders where order_id = 1;"
         " update copied set order_id = 99; insert into closed_orders table copied",
         "order history = replay: order (order_id 99)"),
        ("update archive set link = sha256('x') where seq = 2", "public chain: entry 2"),
    ],
)  # fmt: skip
async def test_what_was_tampered_with_is_named(
    settings: Settings,
    settlement: Settlement,
    maker: LogMaker,
    wire: Wire,
    tampering: str,
    found: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await _some_trading(settlement, maker, wire)
    async with settlement.pool.acquire() as connection:
        # As somebody with every right could: past the triggers that refuse changes.
        await connection.execute("set session_replication_role = replica")
        await connection.execute(tampering)
        await connection.execute("reset session_replication_role")
    assert await verify(settings) == 1
    assert found in capsys.readouterr().out


async def _everything(settlement: Settlement, wire: Wire) -> list[LogRecord]:
    """A log with rows for every table of the history, applied."""
    chance, log = random.Random(1), MixedLog()
    records = [log.begin()]
    for _ in range(120):
        records.append(log.record(*(random_step(chance) for _ in range(chance.randint(1, 5)))))
    await wire.append(*records)
    await settlement.settle(log)
    for table in TABLES:
        assert await settlement.count(table.name), table.name
    return records


# How to make another value of a type.
_ANOTHER = {"bool": "not {0}", "text": "{0} || 'x'", "_int8": "{0} || 1::bigint"}


async def test_any_changed_field_of_any_row_of_the_history_is_named(
    settlement: Settlement, wire: Wire
) -> None:
    audit = Audit()
    for record in await _everything(settlement, wire):
        assert not list(audit.apply(record.seq, record.payload))
    async with settlement.pool.acquire() as connection:

        async def differences() -> list[str]:
            report = Report()
            await compare_history(report, connection, 0, audit)
            return [line for check in report.checks for line in check.differences]

        async with connection.transaction():
            assert await differences() == []
        for table in TABLES:
            # `orders` is a view.
            name = {"orders": "closed_orders"}.get(table.name, table.name)
            row = f"ctid = (select ctid from {name} limit 1)"
            types = await connection.fetch(
                "select attname, typname from pg_attribute a join pg_type t on t.oid = a.atttypid"
                " where attrelid = $1::regclass and attnum > 0",
                name,
            )
            type_of = {one["attname"]: one["typname"] for one in types}
            assert type_of.keys() == {"shard", *table.key, *table.columns}
            tampering = {f"delete from {name} where {row}": ": is not in the history"}
            for column in table.columns:
                another = _ANOTHER.get(type_of[column], "{0} + 1").format(column)
                statement = f"update {name} set {column} = {another} where {row}"
                tampering[statement] = f": {column} is "
            for statement, found in tampering.items():
                transaction = connection.transaction()
                await transaction.start()
                await connection.execute(statement)
                (line,) = await differences()
                assert line.startswith(f"{table.noun} (") and found in line
                await transaction.rollback()


async def test_a_changed_position_cfd_and_liquidation_make_verify_fail(
    settings: Settings, settlement: Settlement, wire: Wire, capsys: pytest.CaptureFixture[str]
) -> None:
    await _everything(settlement, wire)
    assert await verify(settings) == 0
    for table, column in (
        ("open_positions", "margin_units"),
        ("closed_positions", "realised_pnl_units"),
        ("open_cfds", "liquidation_ticks"),
        ("closed_cfds", "pnl_units"),
        ("liquidations", "fund_delta_units"),
    ):
        await settlement.pool.execute(
            f"update {table} set {column} = {column} + 1"
            f" where ctid = (select ctid from {table} limit 1)"
        )
    assert await verify(settings) == 1
    said = capsys.readouterr().out
    for line in (
        "position history = replay: open position (account_id ",
        ": margin_units is ",
        "position history = replay: closed position (log_seq ",
        ": realised_pnl_units is ",
        "CFD history = replay: open CFD (cfd_id ",
        ": liquidation_ticks is ",
        "CFD history = replay: closed CFD (cfd_id ",
        ": pnl_units is ",
        "liquidations = replay: liquidation (liquidation_id ",
        ": fund_delta_units is ",
    ):
        assert line in said, line
    assert "5 differences" in said


@pytest.mark.parametrize(
    ("tampering", "found"),
    [
        ("update outbox set done_ns = 0 where transfer_id = 1", "would send it again"),
        ("update transfers set amount_units = 6 where transfer_id = 1", "has another amount"),
        ("update transfers set account_id = 8 where transfer_id = 1", "settlement has (8, 1, 5)"),
        ("update transfers set status = 2 where transfer_id = 2", "the core None"),
        ("update outbox set done_ns = 1 where transfer_id = 2", "the core None"),
    ],
)
async def test_a_changed_transfer_is_named(
    settings: Settings,
    settlement: Settlement,
    maker: LogMaker,
    wire: Wire,
    tampering: str,
    found: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first is in the log, the second is still to be sent."""
    await wire.append(maker.begin(7))
    async with settlement.following():
        await settlement.caught_up(maker)
        await settlement.pool.execute("alter sequence transfer_ids restart")
        for number in (1, 2):
            request = TransferRequest(7, f"t{number}", Direction.DEPOSIT, USDC, 5)
            await settlement.ask(request, START_NS)
        await wire.append(maker.entry(maker.transfer(7, USDC, 5, transfer_id=1)))
        await settlement.caught_up(maker)
    assert await verify(settings) == 0
    await settlement.pool.execute(tampering)
    assert await verify(settings) == 1
    assert found in capsys.readouterr().out


async def test_a_changed_log_entry_is_named(
    settings: Settings, settlement: Settlement, maker: LogMaker, wire: Wire, redis: Redis
) -> None:
    await _some_trading(settlement, maker, wire)
    rows: Any = await redis.xrange(log_key(0))
    await redis.delete(log_key(0))
    for entry_id, fields in rows:
        payload = fields[b"p"] + b"\x08\x01" if entry_id == b"3-0" else fields[b"p"]
        await redis.xadd(log_key(0), {b"p": payload, b"h": fields[b"h"]}, id=entry_id)
    report = await make_report(settings)
    names = [check.name for check in report.checks if check.differences]
    assert "log hash chain" in names and "archive = log" in names


@pytest.mark.parametrize("table", ["ledger_entries", "ledger_transactions", "archive"])
async def test_the_schema_refuses_to_change_what_is_written(
    settlement: Settlement, maker: LogMaker, wire: Wire, table: str
) -> None:
    await _some_trading(settlement, maker, wire)
    for statement in (f"delete from {table}", f"update {table} set shard = 1", f"truncate {table}"):
        with pytest.raises(Exception, match="never changed"):
            await settlement.pool.execute(statement)


async def test_the_schema_refuses_entries_that_do_not_sum_to_zero(settlement: Settlement) -> None:
    with pytest.raises(Exception, match="do not sum to zero"):
        await settlement.pool.execute(
            "select ensure_month(0); insert into ledger_entries values"
            " (0, 1, 1, 0, 7, 1, 1, 5, 5, 0), (0, 2, 1, 0, 0, 1, 6, -4, null, 0)"
        )


async def test_the_schema_refuses_a_negative_client_balance(
    settlement: Settlement, maker: LogMaker, wire: Wire
) -> None:
    await _some_trading(settlement, maker, wire)
    with pytest.raises(Exception, match="no_negative_client_balance"):
        await settlement.pool.execute("update ledger_accounts set balance = -1 where kind = 1")
