"""Engine, ledger and archive are compared all the time, and a difference is not kept quiet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
import structlog.testing
from redis.asyncio import Redis
from tidebook.engine.v1 import internal_pb2
from tidebook.settlement.v1 import internal_pb2 as settlement_pb2
from tidebook.settlement.v1 import ledger_pb2, ledger_pb2_grpc

from gateway.books_metrics import BooksMetrics
from gateway.metrics import Metrics
from mesh.config import Settings
from mesh.log import log_key
from tests.settlement.rig import Rig, settlement_rig
from tests.settlement.support import USDC, Settlement, buy, sell
from tests.support import eventually

MATCHED = ledger_pb2.RECONCILIATION_STATE_MATCHED
DIFFERS = ledger_pb2.RECONCILIATION_STATE_DIFFERS


@pytest_asyncio.fixture
async def rig(settings: Settings, redis: Redis) -> AsyncIterator[Rig]:
    async with settlement_rig(settings, redis) as rig:
        maker, wire = rig.engine.maker, rig.engine.wire
        await wire.append(
            maker.entry(
                maker.transfer(17, 2, 10**8),
                maker.transfer(18, USDC, 60_000 * 10**8),
                buy(18, "50000", "1"),
                sell(17, "50000", "0.1"),
            )
        )
        yield rig


async def _report(rig: Rig) -> Any:
    stub = ledger_pb2_grpc.LedgerServiceStub(rig.public)
    return await stub.GetReconciliation(ledger_pb2.GetReconciliationRequest(), timeout=10)


async def _compared_at(rig: Rig, seq: int, state: int) -> Any:
    async def done() -> Any:
        report = await _report(rig)
        at = min(report.log_seq, report.compared_log_seq)
        return report if at >= seq and report.state == state else False

    return await eventually(done)


async def test_what_the_engine_and_the_ledger_have_is_the_same(rig: Rig) -> None:
    report = await _compared_at(rig, rig.engine.maker.seq, MATCHED)
    assert report.compared >= 6 and not report.differing
    assert report.balanced and not report.stopped_log_seq
    assert {asset.engine_difference for asset in report.assets} == {"0"}


async def _metrics(rig: Rig) -> dict[str, float]:
    """Series -> value of what a scrape finds of the books."""
    metrics = Metrics()
    metrics.add_source(BooksMetrics(rig.public))
    lines = [line for line in (await metrics.render()).splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def test_a_scrape_says_how_far_everything_is_and_that_it_agrees(rig: Rig) -> None:
    seq = rig.engine.maker.seq
    report = await _compared_at(rig, seq, MATCHED)
    (shard,) = report.shards
    assert (shard.log_seq, shard.newest_log_seq, shard.archived_log_seq) == (seq, seq, seq)
    assert shard.HasField("whole_pass_time") and not shard.behind_ms
    found = await _metrics(rig)
    for name, value in {
        "settlement_up": 1,
        'ledger_position{shard="0"}': seq,
        'archive_position{shard="0"}': seq,
        'ledger_lag_entries{shard="0"}': 0,
        'ledger_lag_seconds{shard="0"}': 0,
        'ledger_halted{shard="0"}': 0,
        'reconciliation_matched{shard="0"}': 1,
        'reconciliation_differences{shard="0"}': 0,
        'books_unbalanced{asset="USDC"}': 0,
        'engine_differs{asset="USDC"}': 0,
    }.items():
        assert found[f"tidebook_{name}"] == value, name
    assert 0 <= found['tidebook_reconciliation_pass_age_seconds{shard="0"}'] < 600
    await rig.stop()
    assert await _metrics(rig) == {"tidebook_settlement_up": 0}


async def test_a_log_that_is_another_one_halts_ledger_and_archive_and_says_so(
    rig: Rig, redis: Redis
) -> None:
    """The alarm is raised although no single entry is to blame."""
    seq = rig.engine.maker.seq
    await _compared_at(rig, seq, MATCHED)
    rows: Any = await redis.xrange(log_key(0))
    await redis.delete(log_key(0))
    for entry_id, fields in rows:
        await redis.xadd(log_key(0), fields | {b"h": bytes(32)}, id=entry_id)
    await redis.xadd(log_key(0), {b"p": b"", b"h": bytes(32)}, id=f"{seq + 1}-0")

    async def both() -> Any:
        report = await _report(rig)
        return report if len(report.shards[0].halted) == 2 else False

    report = await eventually(both)
    assert report.halted and report.stopped_log_seq == seq + 1
    halted = {one.job: one.log_seq for one in report.shards[0].halted}
    assert halted == {"apply": seq + 1, "archive": seq + 1}
    assert (await _metrics(rig))['tidebook_ledger_halted{shard="0"}'] == 1
    progress = await rig.internal.GetProgress(settlement_pb2.GetProgressRequest())
    assert "apply stopped" in progress.halted and "archive stopped" in progress.halted
    assert "log entry 0" not in progress.halted


async def test_an_account_sees_its_balances_three_times(rig: Rig) -> None:
    client = rig.client(18)
    await _compared_at(rig, rig.engine.maker.seq, MATCHED)
    answer = await client.call(
        client.ledger.GetAccountReconciliation, ledger_pb2.GetAccountReconciliationRequest()
    )
    assert answer.matched and answer.log_seq == rig.engine.maker.seq
    usdc = {one.asset: one for one in answer.balances}["USDC"]
    assert usdc.engine_free == usdc.ledger_free == usdc.entries_free != "0"
    assert usdc.engine_held == usdc.ledger_held == usdc.entries_held != "0"
    assert usdc.difference == "0"


async def test_a_difference_is_told_and_raises_the_alarm(rig: Rig, settlement: Settlement) -> None:
    await _compared_at(rig, rig.engine.maker.seq, MATCHED)
    with structlog.testing.capture_logs() as said:
        await settlement.pool.execute(
            "update ledger_accounts set balance = balance + 7"
            " where account_id = 18 and asset_id = 1 and kind = 1"
        )
        report = await _compared_at(rig, rig.engine.maker.seq, DIFFERS)
    assert report.differing == 1
    found = await _metrics(rig)
    assert found['tidebook_reconciliation_matched{shard="0"}'] == 0
    assert found['tidebook_reconciliation_differences{shard="0"}'] == 1
    assert found['tidebook_engine_differs{asset="USDC"}'] == 1
    assert {asset.asset: asset.engine_difference for asset in report.assets}["USDC"] == (
        "-0.00000007"
    )
    alarm = next(line for line in said if line["event"] == "reconciliation_differs")
    assert (alarm["log_level"], alarm["account_id"]) == ("critical", 18)
    assert alarm["ledger"] - alarm["engine"] == alarm["ledger"] - alarm["entries"] == 7


async def test_a_ledger_that_has_gone_on_is_compared_where_the_engine_was(rig: Rig) -> None:
    """The engine told its state, then the log went on: the ledger is looked at in the past."""
    maker, wire = rig.engine.maker, rig.engine.wire
    told = await rig.engine.GetEngineState(
        internal_pb2.GetEngineStateRequest(with_balances=True, account_id=17), None
    )
    for number in range(20):
        await wire.append(maker.entry(sell(17, str(50_100 + number), "0.01")))
    await _compared_at(rig, maker.seq, MATCHED)
    rig.engine.told = told
    client = rig.client(17)
    answer = await client.call(
        client.ledger.GetAccountReconciliation, ledger_pb2.GetAccountReconciliationRequest()
    )
    assert answer.log_seq == maker.seq - 20
    btc = {one.asset: one for one in answer.balances}["BTC"]
    assert (btc.ledger_free, btc.ledger_held, btc.difference) == ("0.9", "0", "0")
