"""`tidebook verify` finds nothing where all is well, and names what somebody has changed."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from mesh.config import Settings
from mesh.log import log_key
from ops.verify import make_report, verify
from services.engine.domain import commands as c
from tests.settlement.support import BTC, LogMaker, Settlement, Wire, buy, sell


async def _some_trading(settlement: Settlement, maker: LogMaker, wire: Wire) -> None:
    await wire.append(
        maker.begin(7, 8),
        maker.entry(sell(7, "50000", "0.5"), sell(7, "50010", "0.5", client_order_id="mine")),
        maker.entry(buy(8, "50020", "0.75"), c.CancelOrder(7, client_order_id="mine")),
        maker.entry(buy(8, "49000", "1"), maker.transfer(8, BTC, -(10**8))),
    )
    async with settlement.following():
        await settlement.caught_up(maker)


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
         "order history = replay: order 2"),
        ("delete from fills where trade_id = 1 and maker", "fill history = replay: fill 1"),
        ("create temp table copied as select * from closed_orders where order_id = 1;"
         " update copied set order_id = 99; insert into closed_orders table copied",
         "order history = replay: order 99"),
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
