"""Positions, CFDs and liquidations of a batch."""

from __future__ import annotations

from dataclasses import astuple, fields

from services.settlement.domain.batch import Batch
from services.settlement.domain.ledger import PoisonEntry
from services.settlement.domain.positions import ClosedPosition, Key, OpenPosition, follow
from services.settlement.domain.rows import (
    CfdClosing,
    CfdOpening,
    CfdTriggers,
    LiquidationRow,
    PositionChange,
)
from services.settlement.store.database import Connection

_OPEN_POSITION = tuple(field.name for field in fields(OpenPosition))
_CLOSED_CFD = (*CfdOpening._fields, "close_ticks", "pnl_units", "returned_units")


async def write_positions(connection: Connection, shard: int, batch: Batch) -> None:
    """Write them; call it inside the transaction.

    Raises `PoisonEntry` when a CFD changes that is not open.
    """
    if batch.position_changes:
        await _write_margin(connection, shard, batch.position_changes, batch.liquidated)
    if batch.cfds:
        await _write_cfds(connection, shard, batch)
    if batch.liquidations:
        await connection.copy_records_to_table(
            "liquidations",
            records=[(shard, *row) for row in batch.liquidations],
            columns=("shard", *LiquidationRow._fields),
        )


async def _write_margin(
    connection: Connection,
    shard: int,
    changes: list[PositionChange],
    liquidated: set[tuple[int, int]],
) -> None:
    keys = {(change.account_id, change.market_id) for change in changes}
    of_keys = (
        "using unnest($2::bigint[], $3::integer[]) as k(account_id, market_id)"
        " where p.shard = $1 and p.account_id = k.account_id and p.market_id = k.market_id"
    )
    # Taken out and put back: most of them change more than once in a batch, and some end.
    rows = await connection.fetch(
        f"delete from open_positions p {of_keys}"
        f" returning {', '.join('p.' + name for name in _OPEN_POSITION)}",
        shard,
        [account_id for account_id, _ in keys],
        [market_id for _, market_id in keys],
    )
    positions: dict[Key, OpenPosition] = {
        (row["account_id"], row["market_id"]): OpenPosition(*row) for row in rows
    }
    ended = follow(positions, changes, liquidated)
    if positions:
        await connection.copy_records_to_table(
            "open_positions",
            records=[(shard, *astuple(position)) for position in positions.values()],
            columns=("shard", *_OPEN_POSITION),
        )
    if ended:
        await connection.copy_records_to_table(
            "closed_positions",
            records=[(shard, *row) for row in ended],
            columns=("shard", *ClosedPosition._fields),
        )


async def _write_cfds(connection: Connection, shard: int, batch: Batch) -> None:
    touched = {row.cfd_id for row in batch.cfds}
    rows = await connection.fetch(
        f"delete from open_cfds where shard = $1 and cfd_id = any($2)"
        f" returning {', '.join(CfdOpening._fields)}",
        shard,
        list(touched),
    )
    cfds = {row["cfd_id"]: CfdOpening(*row) for row in rows}
    closed: list[tuple[object, ...]] = []
    for row in batch.cfds:
        if isinstance(row, CfdOpening):
            cfds[row.cfd_id] = row
            continue
        cfd = cfds.pop(row.cfd_id, None)
        if cfd is None:
            raise PoisonEntry(batch.log_seq, f"CFD {row.cfd_id} changes, but it is not open")
        if isinstance(row, CfdTriggers):
            cfds[row.cfd_id] = cfd._replace(
                stop_loss_ticks=row.stop_loss_ticks, take_profit_ticks=row.take_profit_ticks
            )
        else:
            closed.append((shard, *_closed(cfd, row)))
    if cfds:
        await connection.copy_records_to_table(
            "open_cfds",
            records=[(shard, *cfd) for cfd in cfds.values()],
            columns=("shard", *CfdOpening._fields),
        )
    if closed:
        await connection.copy_records_to_table(
            "closed_cfds",
            records=closed,
            columns=("shard", *_CLOSED_CFD, "close_reason", "closed_ns"),
        )


def _closed(cfd: CfdOpening, closing: CfdClosing) -> tuple[object, ...]:
    cfd = cfd._replace(fees_units=cfd.fees_units + closing.fee_units)
    return (
        *cfd,
        closing.close_ticks,
        closing.pnl_units,
        closing.returned_units,
        closing.close_reason,
        closing.closed_ns,
    )
