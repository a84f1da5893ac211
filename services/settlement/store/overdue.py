"""Transfers and orders that should have ended by now."""

from __future__ import annotations

import asyncpg

from kernel.reasons import Reason
from services.settlement.store.database import Connection
from services.settlement.store.transfers import TransferStatus

# More of one kind say nothing new.
_MOST = 100


async def expire_unsent(
    connection: Connection, asked_before_ns: int, now_ns: int
) -> list[asyncpg.Record]:
    """Give up the transfers asked for before a time that were never sent to the engine; which.

    The relay takes a message by counting an attempt, so whoever is first here decides.
    """
    return await connection.fetch(
        "with unsent as (update outbox o set done_ns = $2, last_error = 'expired unsent'"
        "  from transfers t where o.transfer_id = t.transfer_id and o.done_ns = 0"
        "  and o.attempts = 0 and t.status = $3 and t.created_ns < $1 returning o.transfer_id)"
        " update transfers t set status = $4, failure = $5, updated_ns = $2 from unsent"
        " where t.transfer_id = unsent.transfer_id"
        " returning t.transfer_id, t.account_id, t.direction, t.amount_units",
        asked_before_ns,
        now_ns,
        TransferStatus.PENDING,
        TransferStatus.FAILED,
        Reason.DEADLINE_PASSED,
    )


async def transfers(
    connection: Connection, changed_before_ns: int, held_before_ns: int
) -> list[asyncpg.Record]:
    """Transfers that wait for the log, or for their payout or reversal, for longer than that."""
    asked = (
        "select t.transfer_id, t.account_id, t.status, t.cancelling, o.attempts, o.last_error,"
        " o.engine_transfer_id from transfers t join outbox o using (transfer_id)"
    )
    # Statuses are written out, because a partial index is of no use to a plan without them.
    # One that was called back has a message for each way, and waits for the later one.
    return await connection.fetch(
        "select distinct on (transfer_id) * from ("
        f"{asked} where o.done_ns = 0 and t.status = {TransferStatus.PENDING:d}"
        f"  and t.updated_ns < $1 union all {asked} where t.status = {TransferStatus.HELD:d}"
        f"  and t.updated_ns < case when t.cancelling then $1 else $2 end"
        f") found order by transfer_id, engine_transfer_id desc limit {_MOST}",
        changed_before_ns,
        held_before_ns,
    )


async def orders(
    connection: Connection, shard: int, expired_before_ns: int
) -> list[asyncpg.Record]:
    """Live orders whose own time was over before that."""
    return await connection.fetch(
        "select order_id, account_id, market_id, expire_ns from open_orders"
        f" where shard = $1 and expire_ns > 0 and expire_ns < $2 order by expire_ns limit {_MOST}",
        shard,
        expired_before_ns,
    )
