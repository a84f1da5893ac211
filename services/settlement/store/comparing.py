"""What the ledger said at a log position that it has passed."""

from __future__ import annotations

from dataclasses import dataclass

from kernel.money import INT64_MAX
from mesh.log import GENESIS_HASH
from services.settlement.domain.ledger import LedgerKind
from services.settlement.store.database import Connection

# (account id, asset id, ledger kind) -> units; account 0 is the exchange itself
Balances = dict[tuple[int, int, int], int]


@dataclass(frozen=True, slots=True)
class AccountRange:
    """Accounts with an id above `after` and up to `last`."""

    after: int = 0
    last: int = INT64_MAX


@dataclass(frozen=True, slots=True)
class LedgerView:
    """The balances of some accounts and of the exchange at a position, and what the entries that
    led there say of the accounts.
    """

    applied_seq: int
    archive_hash: bytes
    balances: Balances
    entries: Balances


async def ledger_at(
    connection: Connection, shard: int, log_seq: int, accounts: AccountRange
) -> LedgerView | None:
    """The ledger as it was after entry `log_seq`; None while ledger or archive are not that far.

    Call it in a transaction of one snapshot.
    """
    applied_seq = await connection.fetchval(
        "select applied_seq from progress where shard = $1", shard
    )
    archive_hash = (
        GENESIS_HASH
        if not log_seq
        else await connection.fetchval(
            "select hash from archive where shard = $1 and seq = $2", shard, log_seq
        )
    )
    if archive_hash is None or (applied_seq or 0) < log_seq:
        return None
    last_entry_id = await _last_entry(connection, shard, log_seq)
    return LedgerView(
        applied_seq or 0,
        archive_hash,
        await _balances(connection, shard, last_entry_id, accounts),
        await _entries(connection, shard, last_entry_id, accounts),
    )


async def _last_entry(connection: Connection, shard: int, log_seq: int) -> int:
    """The last ledger entry that belongs to the log up to `log_seq`."""
    next_transaction = await connection.fetchval(
        "select transaction_id from ledger_transactions where shard = $1 and log_seq > $2"
        " order by log_seq, event_index limit 1",
        shard,
        log_seq,
    )
    if next_transaction is None:
        return INT64_MAX
    # From the end backwards: that is not far.
    found: int | None = await connection.fetchval(
        "select entry_id from ledger_entries where shard = $1 and transaction_id < $2"
        " order by entry_id desc limit 1",
        shard,
        next_transaction,
    )
    return found or 0


async def _balances(
    connection: Connection, shard: int, last_entry_id: int, accounts: AccountRange
) -> Balances:
    rows = await connection.fetch(
        "select account_id, asset_id, kind, balance - coalesce(later.units, 0)"
        " from ledger_accounts left join (select account_id, asset_id, ledger_kind as kind,"
        "  sum(amount) as units from ledger_entries where shard = $1 and entry_id > $2"
        "  group by 1, 2, 3) later using (account_id, asset_id, kind)"
        " where shard = $1 and (account_id = 0 or (account_id > $3 and account_id <= $4))",
        shard,
        last_entry_id,
        accounts.after,
        accounts.last,
    )
    return {(row[0], row[1], row[2]): int(row[3]) for row in rows}


async def _entries(
    connection: Connection, shard: int, last_entry_id: int, accounts: AccountRange
) -> Balances:
    """What the newest entry of each account up to there says."""
    rows = await connection.fetch(
        "select a.account_id, a.asset_id, a.kind, newest.balance_after from ledger_accounts a"
        " cross join lateral (select balance_after from ledger_entries e"
        "  where e.account_id = a.account_id and e.asset_id = a.asset_id"
        "  and e.ledger_kind = a.kind and e.shard = $1 and e.entry_id <= $2"
        "  order by e.time_ns desc, e.entry_id desc limit 1) newest"
        " where a.shard = $1 and a.account_id > $3 and a.account_id <= $4 and a.kind in ($5, $6)",
        shard,
        last_entry_id,
        accounts.after,
        accounts.last,
        LedgerKind.CLIENT_FREE,
        LedgerKind.CLIENT_HELD,
    )
    return {(row[0], row[1], row[2]): int(row[3]) for row in rows}
