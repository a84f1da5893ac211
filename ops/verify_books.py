"""Ledger and history in PostgreSQL against a replay that stands where they stand."""

from __future__ import annotations

from collections import defaultdict

from ops.audit import Audit
from ops.findings import Check, Report
from ops.verify_history import compare_history
from services.settlement.domain.ledger import LedgerKind, TransactionKind
from services.settlement.domain.margin import INSURANCE_FUND
from services.settlement.reconciliation import books_of
from services.settlement.store.applying import Progress
from services.settlement.store.database import Connection
from services.settlement.store.reading import totals
from services.settlement.store.transfers import Direction, TransferStatus

# These read whole tables.
_SLOW_SECONDS = 600.0
# What a transfer is once its first message has moved money.
_MOVED = (TransferStatus.COMPLETED, TransferStatus.HELD, TransferStatus.CANCELLED)


async def compare_books(
    report: Report, connection: Connection, shard: int, audit: Audit, progress: Progress
) -> None:
    """Ledger and history against the replay, which stands where they stand."""
    await _compare_balances(report.check("ledger balances = replay"), connection, shard, audit)
    await _check_postings(report.check("ledger entries"), connection, shard, progress)
    await compare_history(report, connection, shard, audit)
    await _compare_transfers(report.check("transfers = replay"), connection, shard, audit)


async def _compare_balances(check: Check, connection: Connection, shard: int, audit: Audit) -> None:
    rows = await connection.fetch(
        "select account_id, asset_id, kind, balance from ledger_accounts"
        " where shard = $1 and kind in ($2, $3) and balance <> 0",
        shard,
        LedgerKind.CLIENT_FREE,
        LedgerKind.CLIENT_HELD,
    )
    ledger = {(r[0], r[1], r[2] == LedgerKind.CLIENT_HELD): int(r[3]) for r in rows}
    # The insurance fund is compared below: the ledger has one account of it, free and held.
    core = {key: units for key, units in audit.balances().items() if key[0] != INSURANCE_FUND}
    for key in sorted(ledger.keys() | core.keys()):
        check.compared += 1
        if ledger.get(key, 0) != core.get(key, 0):
            account_id, asset_id, held = key
            check.differences.append(
                f"account {account_id}, asset {asset_id}, {'held' if held else 'free'}: the ledger"
                f" has {ledger.get(key, 0)}, the core {core.get(key, 0)}"
            )
    _, sums = await totals(connection, shard)
    exchange = audit.exchange
    fund: dict[int, int] = defaultdict(int)
    for (account_id, asset_id, _), units in audit.balances().items():
        if account_id == INSURANCE_FUND:
            fund[asset_id] += units
    totals_of = {
        "fees": exchange.fees(),
        "insurance": fund,
        "house": exchange.house(),
        "clearing": exchange.clearing(),
        "outside": exchange.external(),
    }
    known = {asset_id for of in totals_of.values() for asset_id in of}
    for asset_id in sorted(sums.keys() | known):
        check.compared += 1
        books = books_of(asset_id, sums.get(asset_id, {}))
        if books.difference:
            check.differences.append(f"asset {asset_id}: the books are off by {books.difference}")
        has = {
            "fees": books.fees,
            "insurance": books.insurance,
            "house": books.house,
            "clearing": books.clearing,
            "outside": books.deposits - books.withdrawals,
        }
        check.differences += [
            f"asset {asset_id}, {name}: the ledger has {has[name]},"
            f" the core {totals_of[name].get(asset_id, 0)}"
            for name in has
            if has[name] != totals_of[name].get(asset_id, 0)
        ]


async def _check_postings(
    check: Check, connection: Connection, shard: int, progress: Progress
) -> None:
    check.compared = progress.last_entry_id
    rows = await connection.fetch(
        "select transaction_id, asset_id, sum(amount) from ledger_entries where shard = $1"
        " group by 1, 2 having sum(amount) <> 0",
        shard,
        timeout=_SLOW_SECONDS,
    )
    check.differences += [f"transaction {r[0]}: asset {r[1]} sums to {r[2]}, not 0" for r in rows]
    rows = await connection.fetch(
        "select account_id, asset_id, kind, balance, total from"
        " (select account_id, asset_id, kind, balance from ledger_accounts where shard = $1) a"
        " full join (select account_id, asset_id, ledger_kind as kind, sum(amount) as total"
        "  from ledger_entries where shard = $1 group by 1, 2, 3) e"
        " using (account_id, asset_id, kind) where coalesce(balance, 0) <> coalesce(total, 0)",
        shard,
        timeout=_SLOW_SECONDS,
    )
    check.differences += [
        f"account {r[0]}, asset {r[1]}, kind {r[2]}: balance {r[3]}, but its entries sum to {r[4]}"
        for r in rows
    ]
    rows = await connection.fetch(
        "select transaction_id, t.kind, e.transaction_id is null from"
        " (select * from ledger_transactions where shard = $1) t full join"
        " (select distinct transaction_id from ledger_entries where shard = $1) e"
        " using (transaction_id) where t.kind is null or e.transaction_id is null",
        shard,
        timeout=_SLOW_SECONDS,
    )
    check.differences += [
        f"transaction {r[0]}: has no {'entries' if r[1] is not None else 'head'}" for r in rows
    ]
    for table, column, last in (
        ("ledger_transactions", "transaction_id", progress.last_transaction_id),
        ("ledger_entries", "entry_id", progress.last_entry_id),
    ):
        count = await connection.fetchval(f"select count(*) from {table} where shard = $1", shard)
        newest = await connection.fetchval(
            f"select coalesce(max({column}), 0) from {table} where shard = $1", shard
        )
        if not count == newest == last:
            check.differences.append(
                f"{table}: {count} rows up to id {newest}, progress says {last}"
            )


async def compare_shards(check: Check, connection: Connection) -> None:
    """What left the shards is what came to others, and what is on its way."""
    rows = await connection.fetch(
        "select asset_id, sum(moved), sum(coming) from ("
        "  select e.asset_id, e.amount as moved, 0 as coming from ledger_transactions t"
        "   join ledger_entries e using (shard, transaction_id, time_ns)"
        "   where t.kind = $1 and e.account_id > 0 union all"
        "  select asset_id, 0, amount_units from transfers where direction = $2 and status = $3"
        " ) moves group by asset_id",
        TransactionKind.SHARD_TRANSFER,
        Direction.SHARD,
        TransferStatus.HELD,
    )
    for asset_id, moved, coming in rows:
        check.compared += 1
        if moved + coming:
            check.differences.append(
                f"asset {asset_id}: the shards have {moved} of what left them, {coming} is coming"
            )


async def _compare_transfers(
    check: Check, connection: Connection, shard: int, audit: Audit
) -> None:
    """Every transfer that settlement takes for done was applied by the core, and as asked for; and
    none is still to be sent that was.
    """
    rows = await connection.fetch(
        "select o.engine_transfer_id, o.done_ns > 0 as done, t.status, t.failure,"
        " o.engine_transfer_id = o.transfer_id as is_first, t.account_id, t.asset_id,"
        " o.amount_units, abs(o.amount_units) <> t.amount_units as is_another_amount"
        " from outbox o join transfers t using (transfer_id) where o.shard = $1",
        shard,
    )
    for row in rows:
        check.compared += 1
        name = f"transfer {row['engine_transfer_id']}"
        applied = audit.transfers.get(row["engine_transfer_id"])
        asked = (row["account_id"], row["asset_id"], row["amount_units"])
        moved = row["is_first"] and row["status"] in _MOVED
        must_be = moved or (row["done"] and not row["failure"])
        if applied != asked and (applied is not None or must_be):
            check.differences.append(f"{name}: settlement has {asked}, the core {applied}")
        if applied is not None and not row["done"]:
            check.differences.append(f"{name}: the core has it, settlement would send it again")
        if row["is_another_amount"]:
            check.differences.append(f"{name}: its message has another amount than itself")
