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
    TransferKind.SHARD: TransferStatus.COMPLETED,
}


async def write_outcomes(connection: Connection, outcomes: list[TransferOutcome]) -> None:
    """Each transfer becomes what the engine made of it; call it inside the transaction."""
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
