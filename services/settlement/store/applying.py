"""Writes batches of the log to the ledger and the history, each in one transaction.

Exactly once: the transaction starts by locking the shard's `progress` row and finding it where the
batch begins, and ends by moving it to where the batch ends. Whoever comes second finds it moved.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal

from mesh.log import GENESIS_HASH
from services.settlement.domain.batch import Batch, NewOrder, OrderChange, TransferOutcome
from services.settlement.domain.facts import OrderStatus, TransferKind
from services.settlement.domain.ledger import LedgerAccount, LedgerKind, PoisonEntry
from services.settlement.store.database import Connection, Superseded
from services.settlement.store.transfers import TransferStatus

_TRANSFER_STATUS = {
    TransferKind.DEPOSIT: TransferStatus.COMPLETED,
    # Out of the engine's reach, but it can still be called back.
    TransferKind.WITHDRAWAL: TransferStatus.HELD,
    TransferKind.WITHDRAWAL_CANCELLED: TransferStatus.CANCELLED,
    TransferKind.SHARD: TransferStatus.COMPLETED,
}
_ENTRY_COLUMNS = (
    "shard",
    "entry_id",
    "transaction_id",
    "account_id",
    "asset_id",
    "ledger_kind",
    "amount",
    "balance_after",
    "order_id",
)
_TRANSACTION_COLUMNS = (
    "shard",
    "transaction_id",
    "log_seq",
    "event_index",
    "kind",
    "order_id",
    "time_ns",
)
_FILL_COLUMNS = (
    "shard",
    "market_id",
    "trade_id",
    "maker",
    "account_id",
    "order_id",
    "side",
    "price_ticks",
    "quantity_lots",
    "notional_units",
    "fee_units",
    "time_ns",
    "log_seq",
)
_ORDER_COLUMNS = (
    "shard",
    "order_id",
    "account_id",
    "market_id",
    "client_order_id",
    "side",
    "type",
    "time_in_force",
    "status",
    "price_ticks",
    "quantity_lots",
    "quote_amount_units",
    "filled_lots",
    "filled_notional_units",
    "fees_units",
    "post_only",
    "reduce_only",
    "display_quantity_lots",
    "trigger_price_ticks",
    "trigger_source",
    "self_trade_prevention",
    "expire_ns",
    "close_reason",
    "created_ns",
    "updated_ns",
    "log_seq",
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


async def read_market_assets(connection: Connection) -> dict[int, tuple[int, int]]:
    """Market id -> (base asset id, quote asset id)."""
    rows = await connection.fetch("select market_id, base_asset_id, quote_asset_id from markets")
    return {row[0]: (row[1], row[2]) for row in rows}


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
        await _lock_progress(connection, shard, before, now_ns)
        await _write_configuration(connection, batch)
        after = replace(await _write_ledger(connection, shard, batch, before), seq=seq)
        await _write_history(connection, shard, batch)
        await _write_transfers(connection, batch.transfers)
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
    await connection.execute(
        "insert into progress values ($1, 0, $2, $3, 0, 0, 0) on conflict do nothing",
        shard,
        GENESIS_HASH,
        now_ns,
    )
    row = await connection.fetchrow(
        "select applied_seq, applied_hash from progress where shard = $1 for update", shard
    )
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
            if account_id and balance < 0:
                raise PoisonEntry(log_seq, f"the balance of {account} would be {balance}")
            entries.append(
                (
                    shard,
                    entry_id,
                    transaction_id,
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


async def _write_history(connection: Connection, shard: int, batch: Batch) -> None:
    if batch.new_orders:
        await connection.copy_records_to_table(
            "orders",
            records=[
                _order_row(shard, order, batch.order_changes[order.order_id])
                for order in batch.new_orders.values()
            ],
            columns=_ORDER_COLUMNS,
        )
    changed = {
        order_id: change
        for order_id, change in batch.order_changes.items()
        if order_id not in batch.new_orders
    }
    if changed:
        await _change_orders(connection, shard, batch.log_seq, changed)
    if batch.fills:
        await connection.copy_records_to_table(
            "fills", records=[(shard, *fill) for fill in batch.fills], columns=_FILL_COLUMNS
        )


def _order_row(shard: int, order: NewOrder, change: OrderChange) -> tuple[object, ...]:
    status = change.status
    if status is None or status is OrderStatus.OPEN:
        status = OrderStatus.PARTIALLY_FILLED if change.filled_lots else status or order.status
    return (
        shard,
        order.order_id,
        order.account_id,
        order.market_id,
        order.client_order_id,
        order.side,
        order.type,
        order.time_in_force,
        status,
        order.price_ticks if change.price_ticks is None else change.price_ticks,
        order.quantity_lots if change.quantity_lots is None else change.quantity_lots,
        order.quote_amount_units,
        change.filled_lots,
        change.filled_notional_units,
        change.fees_units,
        order.post_only,
        order.reduce_only,
        order.display_quantity_lots,
        order.trigger_price_ticks,
        order.trigger_source,
        order.self_trade_prevention,
        order.expire_ns,
        change.close_reason or 0,
        order.created_ns,
        change.updated_ns,
        order.log_seq,
    )


async def _change_orders(
    connection: Connection, shard: int, log_seq: int, changes: dict[int, OrderChange]
) -> None:
    answer = await connection.execute(
        "update orders o set filled_lots = o.filled_lots + c.filled,"
        " filled_notional_units = o.filled_notional_units + c.notional,"
        " fees_units = o.fees_units + c.fees,"
        " price_ticks = coalesce(c.price, o.price_ticks),"
        " quantity_lots = coalesce(c.quantity, o.quantity_lots),"
        # A fill makes a live order partly filled, a trigger a waiting one open; an end is final.
        " status = case when coalesce(c.status, $11) <> $11 then c.status"
        "  when o.filled_lots + c.filled > 0 then $12 else coalesce(c.status, o.status) end,"
        " close_reason = coalesce(c.reason, o.close_reason), updated_ns = c.updated"
        " from unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],"
        "  $7::bigint[], $8::smallint[], $9::smallint[], $10::bigint[])"
        " as c(id, filled, notional, fees, price, quantity, status, reason, updated)"
        " where o.shard = $1 and o.order_id = c.id",
        shard,
        list(changes),
        [change.filled_lots for change in changes.values()],
        [change.filled_notional_units for change in changes.values()],
        [change.fees_units for change in changes.values()],
        [change.price_ticks for change in changes.values()],
        [change.quantity_lots for change in changes.values()],
        [change.status for change in changes.values()],
        [change.close_reason for change in changes.values()],
        [change.updated_ns for change in changes.values()],
        OrderStatus.OPEN,
        OrderStatus.PARTIALLY_FILLED,
    )
    if answer != f"UPDATE {len(changes)}":
        raise PoisonEntry(log_seq, f"{len(changes)} orders change, but the history has: {answer}")


async def _write_transfers(connection: Connection, outcomes: list[TransferOutcome]) -> None:
    for outcome in outcomes:
        row = await connection.fetchrow(
            "update outbox set done_ns = $2, last_error = '' where engine_transfer_id = $1"
            " returning transfer_id, kind",
            outcome.engine_transfer_id,
            outcome.time_ns,
        )
        if row is None:
            # Not ours, or ours from before this database was made anew: never use that id again.
            await connection.execute(
                "select setval('transfer_ids', $1) from transfer_ids where $1 > last_value",
                outcome.engine_transfer_id,
            )
            continue
        await connection.execute(
            # The log is the last word, also over a failure that was reported before.
            "update transfers set updated_ns = $2, log_seq = $3, failure = $4,"
            " status = coalesce($5, status) where transfer_id = $1",
            row["transfer_id"],
            outcome.time_ns,
            outcome.log_seq,
            outcome.refusal,
            _transfer_status(TransferKind(row["kind"]), outcome.refusal),
        )


def _transfer_status(kind: TransferKind, refusal: int) -> TransferStatus | None:
    """What a transfer is after the engine's word on this message of it; None for no change."""
    if refusal:
        # Money that could not be given back stays held, and the failure says why.
        return None if kind is TransferKind.WITHDRAWAL_CANCELLED else TransferStatus.FAILED
    return _TRANSFER_STATUS[kind]
