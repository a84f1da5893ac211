"""Writes batches of the log to the ledger and the history, each in one transaction.

Exactly once: the transaction starts by locking the shard's `progress` row and finding it where the
batch begins, and ends by moving it to where the batch ends. Whoever comes second finds it moved.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal

from mesh.log import GENESIS_HASH
from services.settlement.domain.batch import Batch
from services.settlement.domain.ledger import LedgerAccount, LedgerKind, PoisonEntry
from services.settlement.domain.rows import MarketRow
from services.settlement.store.database import Connection, Superseded
from services.settlement.store.history import write_history
from services.settlement.store.positions import write_positions
from services.settlement.store.transfer_outcomes import write_outcomes

_ENTRY_COLUMNS = (
    "shard",
    "entry_id",
    "transaction_id",
    "time_ns",
    "account_id",
    "asset_id",
    "ledger_kind",
    "amount",
    "balance_after",
    "order_id",
)
_NEVER_NEGATIVE = {LedgerKind.CLIENT_FREE, LedgerKind.CLIENT_HELD, LedgerKind.INSURANCE}
# What a crash of PostgreSQL takes of this comes again, the same, from the log or the archive. What
# clients are told of their transfers must not be taken back even for that long, though.
_NEED_NOT_WAIT = "set local synchronous_commit = off"
_TRANSACTION_COLUMNS = (
    "shard",
    "transaction_id",
    "log_seq",
    "event_index",
    "kind",
    "order_id",
    "time_ns",
)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the ledger of a shard stands: the last entry applied, and the counters there."""

    seq: int = 0
    hash: bytes = GENESIS_HASH
    last_command_seq: int = 0
    last_transaction_id: int = 0
    last_entry_id: int = 0


async def read_progress(connection: Connection, shard: int) -> Progress:
    """Where the ledger stands; its beginning for a shard that has none yet."""
    row = await connection.fetchrow(
        "select applied_seq, applied_hash, last_command_seq, last_transaction_id, last_entry_id"
        " from progress where shard = $1",
        shard,
    )
    return Progress(*row) if row is not None else Progress()


async def read_markets(connection: Connection) -> dict[int, MarketRow]:
    """All markets that the log has configured so far, by id."""
    rows = await connection.fetch(
        "select market_id, name, kind, base_asset_id, quote_asset_id, tick_size_units,"
        " lot_size_units from markets"
    )
    return {row[0]: MarketRow(*row) for row in rows}


async def apply_batch(
    connection: Connection,
    shard: int,
    batch: Batch,
    before: Progress,
    *,
    seq: int,
    log_hash: bytes,
    last_command_seq: int,
    now_ns: int,
) -> Progress:
    """Write `batch`, which begins after `before` and ends with entry `seq`; all of it or nothing.

    Raises `Superseded` when the ledger is not at `before` any more, `PoisonEntry` when a client
    balance would be negative or an order that was never placed would change, and what asyncpg
    raises.
    """
    async with connection.transaction():
        if not batch.transfers:
            await connection.execute(_NEED_NOT_WAIT)
        await _lock_progress(connection, shard, before, now_ns)
        await _write_configuration(connection, batch)
        after = replace(await _write_ledger(connection, shard, batch, before), seq=seq)
        await write_history(connection, shard, batch)
        await write_positions(connection, shard, batch)
        await write_outcomes(connection, shard, batch.transfers)
        after = replace(after, hash=log_hash, last_command_seq=last_command_seq)
        await connection.execute(
            "update progress set applied_seq = $2, applied_hash = $3, applied_ns = $4,"
            " last_command_seq = $5, last_transaction_id = $6, last_entry_id = $7"
            " where shard = $1",
            shard,
            after.seq,
            after.hash,
            now_ns,
            after.last_command_seq,
            after.last_transaction_id,
            after.last_entry_id,
        )
    return after


async def _lock_progress(connection: Connection, shard: int, before: Progress, now_ns: int) -> None:
    query = "select applied_seq, applied_hash from progress where shard = $1 for update"
    row = await connection.fetchrow(query, shard)
    if row is None:
        await connection.execute(
            "insert into progress values ($1, 0, $2, $3, 0, 0, 0) on conflict do nothing",
            shard,
            GENESIS_HASH,
            now_ns,
        )
        row = await connection.fetchrow(query, shard)
    if row is None or (row[0], row[1]) != (before.seq, before.hash):
        raise Superseded(f"the ledger is at {row and row[0]}, not at {before.seq}")


async def _write_configuration(connection: Connection, batch: Batch) -> None:
    if batch.assets:
        await connection.executemany(
            "insert into assets values ($1, $2, $3, $4) on conflict (asset_id) do update"
            " set code = excluded.code, decimals = excluded.decimals,"
            " transfer_decimals = excluded.transfer_decimals",
            batch.assets.values(),
        )
    if batch.markets:
        await connection.executemany(
            "insert into markets values ($1, $2, $3, $4, $5, $6, $7) on conflict (market_id)"
            " do update set name = excluded.name, kind = excluded.kind,"
            " tick_size_units = excluded.tick_size_units,"
            " lot_size_units = excluded.lot_size_units",
            batch.markets.values(),
        )


async def _write_ledger(
    connection: Connection, shard: int, batch: Batch, before: Progress
) -> Progress:
    if not batch.transactions:
        return before
    balances = await _balances(connection, shard, batch.balance_deltas())
    transaction_id, entry_id = before.last_transaction_id, before.last_entry_id
    transactions, entries = [], []
    for log_seq, event_index, kind, order_id, time_ns, posted in batch.transactions:
        transaction_id += 1
        transactions.append((shard, transaction_id, log_seq, event_index, kind, order_id, time_ns))
        for account, amount, of_order in posted:
            entry_id += 1
            balance = balances[account] = balances[account] + amount
            account_id, asset_id, ledger_kind = account
            if balance < 0 and ledger_kind in _NEVER_NEGATIVE:
                raise PoisonEntry(log_seq, f"the balance of {account} would be {balance}")
            entries.append(
                (
                    shard,
                    entry_id,
                    transaction_id,
                    time_ns,
                    account_id,
                    asset_id,
                    ledger_kind,
                    amount,
                    balance if account_id else None,
                    of_order,
                )
            )
    await connection.copy_records_to_table(
        "ledger_transactions", records=transactions, columns=_TRANSACTION_COLUMNS
    )
    await connection.copy_records_to_table(
        "ledger_entries", records=entries, columns=_ENTRY_COLUMNS
    )
    await connection.execute(
        "insert into ledger_accounts (shard, account_id, asset_id, kind, balance)"
        " select $1, a, s, k, b from unnest($2::bigint[], $3::int[], $4::smallint[], $5::numeric[])"
        " as new(a, s, k, b) on conflict (shard, account_id, asset_id, kind)"
        " do update set balance = excluded.balance",
        shard,
        *_columns(balances),
        [Decimal(balance) for balance in balances.values()],
    )
    return replace(before, last_transaction_id=transaction_id, last_entry_id=entry_id)


async def _balances(
    connection: Connection, shard: int, accounts: Iterable[LedgerAccount]
) -> dict[LedgerAccount, int]:
    """The stored balance of each account, 0 for new ones."""
    # In order, so that the rows are locked and written in order too.
    balances = dict.fromkeys(sorted(accounts), 0)
    rows = await connection.fetch(
        "select account_id, asset_id, kind, balance from ledger_accounts"
        " join unnest($2::bigint[], $3::int[], $4::smallint[])"
        " as wanted(account_id, asset_id, kind) using (account_id, asset_id, kind)"
        " where shard = $1",
        shard,
        *_columns(balances),
    )
    for account_id, asset_id, kind, balance in rows:
        balances[LedgerAccount(account_id, asset_id, LedgerKind(kind))] = int(balance)
    return balances


def _columns(accounts: Iterable[LedgerAccount]) -> tuple[list[int], list[int], list[int]]:
    keys = list(accounts)
    return [a.account_id for a in keys], [a.asset_id for a in keys], [a.kind for a in keys]
