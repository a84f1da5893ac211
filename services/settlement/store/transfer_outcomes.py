"""What the log says of transfers, written to them."""

from __future__ import annotations

from services.settlement.domain.facts import TransferKind
from services.settlement.domain.rows import TransferOutcome
from services.settlement.store.database import Connection
from services.settlement.store.transfers import TransferStatus

_TRANSFER_STATUS = {
    TransferKind.DEPOSIT: TransferStatus.COMPLETED,
    # Out of the engine's reach, but it can still be called back.
    TransferKind.WITHDRAWAL: TransferStatus.HELD,
    TransferKind.WITHDRAWAL_CANCELLED: TransferStatus.CANCELLED,
}
# How long a credit that the other shard refused waits before it is asked again.
_CREDIT_AGAIN_NS = 60 * 10**9


async def write_outcomes(
    connection: Connection, shard: int, outcomes: list[TransferOutcome]
) -> None:
    """Each transfer becomes what the shard's engine made of it; call it inside the transaction."""
    if outcomes:
        # Some may not be ours, or ours from before this database was made anew: no id is used
        # again. All of them first, for meanwhile others take ids for new transfers.
        await connection.execute(
            "select setval('transfer_ids', $1) from transfer_ids where $1 > last_value",
            max(outcome.engine_transfer_id for outcome in outcomes),
        )
    for outcome in outcomes:
        row = await connection.fetchrow(
            "update outbox set done_ns = $2, last_error = ''"
            " where engine_transfer_id = $1 and shard = $3"
            " returning transfer_id, kind, amount_units",
            outcome.engine_transfer_id,
            outcome.time_ns,
            shard,
        )
        if row is None:
            continue
        if row["kind"] == TransferKind.SHARD:
            await _between_shards(connection, row["transfer_id"], row["amount_units"] > 0, outcome)
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


async def _between_shards(
    connection: Connection, transfer_id: int, credit: bool, outcome: TransferOutcome
) -> None:
    """One half of a transfer between shards is in a log.

    The message of the credit is written where the debit becomes true in the ledger: there is one
    exactly when there is the other, whatever is killed when.
    """
    if credit and outcome.refusal:
        # It has left the one shard, and only the other can take it: it is asked until it does.
        await connection.execute(
            "update outbox set done_ns = 0, next_attempt_ns = $2 where engine_transfer_id = $1",
            outcome.engine_transfer_id,
            outcome.time_ns + _CREDIT_AGAIN_NS,
        )
    if not credit and not outcome.refusal:
        await connection.execute(
            "insert into outbox (engine_transfer_id, transfer_id, kind, amount_units, traceparent,"
            " next_attempt_ns, shard) select nextval('transfer_ids'), t.transfer_id, $2,"
            " t.amount_units, o.traceparent, $3, t.to_shard from transfers t"
            " join outbox o on o.engine_transfer_id = t.transfer_id where t.transfer_id = $1"
            " on conflict on constraint one_message_of_a_kind do nothing",
            transfer_id,
            TransferKind.SHARD,
            outcome.time_ns,
        )
    if outcome.refusal:
        status = TransferStatus.HELD if credit else TransferStatus.FAILED
    else:
        status = TransferStatus.COMPLETED if credit else TransferStatus.HELD
    await connection.execute(
        "update transfers set updated_ns = $2, log_seq = $3, failure = $4, status = $5"
        " where transfer_id = $1",
        transfer_id,
        outcome.time_ns,
        outcome.log_seq,
        outcome.refusal,
        status,
    )


def _transfer_status(kind: TransferKind, refusal: int) -> TransferStatus | None:
    """What a transfer is after the engine's word on this message of it; None for no change."""
    if refusal:
        # Money that could not be given back stays held, and the failure says why.
        return None if kind is TransferKind.WITHDRAWAL_CANCELLED else TransferStatus.FAILED
    return _TRANSFER_STATUS[kind]
