"""Deposits, withdrawals, transfers between shards, and the outbox that tells the engines of them.

Nothing here decides that money has moved: the log does, when the applier meets the transfer in it.
A row of the outbox is sent again and again until then; the engine applies its id at most once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import asyncpg

from kernel.clock import NS_PER_SECOND
from kernel.money import INT64_MAX
from services.settlement.domain.facts import TransferKind
from services.settlement.store.database import Connection
from services.settlement.store.pages import Span

# First half of the advisory lock key that makes an account's requests wait for one another.
_ACCOUNT_LOCK = 0x7469_0003


class TransferStatus(IntEnum):
    """`tidebook.settlement.v1.TransferStatus`; a test holds the numbers together."""

    PENDING = 1
    COMPLETED = 2
    FAILED = 3
    CANCELLED = 4
    HELD = 5


class Direction(IntEnum):
    """`tidebook.settlement.v1.TransferDirection`; a test holds the numbers together."""

    DEPOSIT = 1
    WITHDRAWAL = 2
    SHARD = 3


# Written out in statements: a plan that is made for any status cannot use the index of this one.
_HELD = int(TransferStatus.HELD)
# What the first message of a transfer is to the engine; only deposits begin with a credit.
_FIRST_KIND = {
    Direction.DEPOSIT: TransferKind.DEPOSIT,
    Direction.WITHDRAWAL: TransferKind.WITHDRAWAL,
    Direction.SHARD: TransferKind.SHARD,
}


@dataclass(frozen=True, slots=True)
class TransferRequest:
    """What a client asked for. `address` is empty for all but withdrawals; the money is of `shard`,
    and goes to `to_shard` with direction SHARD.
    """

    account_id: int
    request_id: str
    direction: Direction
    asset_id: int
    amount_units: int
    address: str = ""
    shard: int = 0
    to_shard: int = 0


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """What the engine of a shard has to be told."""

    engine_transfer_id: int
    shard: int
    account_id: int
    asset_id: int
    amount_units: int
    kind: TransferKind
    traceparent: str
    attempts: int


async def lock_account(connection: Connection, account_id: int) -> None:
    """Let only this transaction deal with the account's requests, until it ends."""
    await connection.execute(
        "select pg_advisory_xact_lock($1, hashint8($2))", _ACCOUNT_LOCK, account_id
    )


async def find_request(
    connection: Connection, account_id: int, request_id: str
) -> asyncpg.Record | None:
    """The transfer that an earlier call with this request id made."""
    return await connection.fetchrow(
        "select * from transfers where account_id = $1 and request_id = $2",
        account_id,
        request_id,
    )


async def asked_since(
    connection: Connection, account_id: int, direction: Direction, asset_id: int, since_ns: int
) -> int:
    """Units of all deposits or withdrawals of an asset since a time; those that came to nothing
    are left out.
    """
    total = await connection.fetchval(
        "select sum(amount_units) from transfers where account_id = $1 and direction = $2"
        " and asset_id = $3 and created_ns > $4 and status not in ($5, $6)",
        account_id,
        direction,
        asset_id,
        since_ns,
        TransferStatus.FAILED,
        TransferStatus.CANCELLED,
    )
    return int(total or 0)


async def add_transfer(
    connection: Connection, request: TransferRequest, *, traceparent: str, now_ns: int
) -> asyncpg.Record:
    """Write the transfer and its message to the engine; call it inside a transaction."""
    row = await connection.fetchrow(
        "insert into transfers (account_id, request_id, direction, asset_id, amount_units,"
        " address, status, simulated, created_ns, updated_ns, shard, to_shard)"
        " values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9, $10, $11) returning *",
        request.account_id,
        request.request_id,
        request.direction,
        request.asset_id,
        request.amount_units,
        request.address,
        TransferStatus.PENDING,
        request.direction is not Direction.SHARD,
        now_ns,
        request.shard,
        request.to_shard,
    )
    assert row is not None  # `returning` always does
    deposit = request.direction is Direction.DEPOSIT
    await connection.execute(
        "insert into outbox (engine_transfer_id, transfer_id, kind, amount_units, traceparent,"
        " next_attempt_ns, shard) values ($1, $1, $2, $3, $4, $5, $6)",
        row["transfer_id"],
        _FIRST_KIND[request.direction],
        request.amount_units if deposit else -request.amount_units,
        traceparent,
        now_ns,
        request.shard,
    )
    return row


async def get_transfer(
    connection: Connection, account_id: int, transfer_id: int
) -> asyncpg.Record | None:
    """A transfer of the account."""
    return await connection.fetchrow(
        "select * from transfers where account_id = $1 and transfer_id = $2",
        account_id,
        transfer_id,
    )


async def list_transfers(
    connection: Connection, account_id: int, before_id: int, limit: int
) -> list[asyncpg.Record]:
    """Transfers of the account, newest first, those with a smaller id."""
    return await connection.fetch(
        "select * from transfers where account_id = $1 and transfer_id < $2"
        " order by transfer_id desc limit $3",
        account_id,
        before_id,
        limit,
    )


async def export_transfers(
    connection: Connection,
    account_id: int,
    *,
    span: Span,
    before: Sequence[int] | None,
    limit: int,
) -> list[asyncpg.Record]:
    """Transfers asked for in a span, newest first; `before` is (transfer_id,) of the last seen."""
    (before_id,) = before or (INT64_MAX,)
    return await connection.fetch(
        "select * from transfers where account_id = $1 and transfer_id < $2"
        " and created_ns >= $3 and created_ns < $4 order by transfer_id desc limit $5",
        account_id,
        before_id,
        span.start_ns,
        span.end_ns,
        limit,
    )


async def call_back(connection: Connection, account_id: int, transfer_id: int, now_ns: int) -> bool:
    """Mark a withdrawal that is not paid yet to be reversed; False when it is too late.

    The mark is on the row that `pay_out` changes, so that one of the two comes first.
    """
    marked = await connection.fetchval(
        "update transfers set cancelling = true, updated_ns = $3 where account_id = $1"
        " and transfer_id = $2 and direction = $4 and status in ($5, $6) returning 1",
        account_id,
        transfer_id,
        now_ns,
        Direction.WITHDRAWAL,
        TransferStatus.PENDING,
        TransferStatus.HELD,
    )
    return marked is not None


async def reverse_called_back(connection: Connection, now_ns: int) -> int:
    """Write the message that gives back each held withdrawal that was called back; how many."""
    answer = await connection.execute(
        "insert into outbox (engine_transfer_id, transfer_id, kind, amount_units, traceparent,"
        " next_attempt_ns, shard) select nextval('transfer_ids'), t.transfer_id, $1,"
        " t.amount_units, '', $2, t.shard from transfers t"
        f" where t.status = {_HELD} and t.cancelling and not exists"
        " (select from outbox o where o.transfer_id = t.transfer_id and o.kind = $1)"
        " on conflict do nothing",
        TransferKind.WITHDRAWAL_CANCELLED,
        now_ns,
    )
    return _count(answer)


async def pay_out(connection: Connection, held_before_ns: int, now_ns: int) -> int:
    """Pay the withdrawals held since before a time (simulated: they are only marked); how many."""
    answer = await connection.execute(
        "update transfers set status = $1, updated_ns = $2"
        f" where status = {_HELD} and not cancelling and updated_ns <= $3 and direction = $4",
        TransferStatus.COMPLETED,
        now_ns,
        held_before_ns,
        Direction.WITHDRAWAL,
    )
    return _count(answer)


async def claim_messages(
    connection: Connection, now_ns: int, limit: int, shard: int | None = None
) -> list[OutboxMessage]:
    """Messages that are due, of one shard or of all (None), each put off by its backoff at once.

    So a relay that dies after this line has only delayed them. The backoff doubles from half a
    second to half a minute.
    """
    rows = await connection.fetch(
        "with due as (select engine_transfer_id from outbox where done_ns = 0"
        "  and next_attempt_ns <= $1 and ($4::integer is null or shard = $4)"
        "  order by next_attempt_ns limit $2 for update skip locked)"
        " update outbox o set attempts = o.attempts + 1,"
        "  next_attempt_ns = $1 + least(30 * $3::bigint, ($3::bigint / 2) << least(o.attempts, 10))"
        " from due, transfers t where o.engine_transfer_id = due.engine_transfer_id"
        "  and t.transfer_id = o.transfer_id"
        " returning o.engine_transfer_id, o.shard, t.account_id, t.asset_id, o.amount_units,"
        "  o.kind, o.traceparent, o.attempts",
        now_ns,
        limit,
        NS_PER_SECOND,
        shard,
    )
    return [
        OutboxMessage(
            engine_transfer_id=row["engine_transfer_id"],
            shard=row["shard"],
            account_id=row["account_id"],
            asset_id=row["asset_id"],
            amount_units=row["amount_units"],
            kind=TransferKind(row["kind"]),
            traceparent=row["traceparent"],
            attempts=row["attempts"],
        )
        for row in rows
    ]


async def send_again(connection: Connection, shard: int) -> int:
    """Make everything due that the log of a shard does not have; how many messages that is.

    For a log that came back without its last entries: what the engine answered is lost with them.
    """
    answer = await connection.execute(
        "update outbox set next_attempt_ns = 0 where done_ns = 0 and attempts > 0 and shard = $1",
        shard,
    )
    return _count(answer)


async def note_answer(
    connection: Connection, engine_transfer_id: int, error: str, next_attempt_ns: int
) -> None:
    """Keep what the last attempt met, for operators, and when to try again; 0 leaves that."""
    await connection.execute(
        "update outbox set last_error = $2, next_attempt_ns = greatest(next_attempt_ns, $3)"
        " where engine_transfer_id = $1 and done_ns = 0",
        engine_transfer_id,
        error[:500],
        next_attempt_ns,
    )


def _count(answer: str) -> int:
    """`UPDATE 3` or `INSERT 0 3` -> 3."""
    return int(answer.rpartition(" ")[2])
