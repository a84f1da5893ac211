"""Receipts of liquidations say of a CFD where it opened and which side it was, as the engine's do.

Revision ID: 0006
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "alter table liquidations add column entry_ticks bigint not null default 0,"
        " add column side smallint not null default 0"
    )
    op.execute(
        "update liquidations l set entry_ticks = c.entry_ticks, side = c.side from closed_cfds c"
        " where l.cfd_id > 0 and (c.shard, c.cfd_id) = (l.shard, l.cfd_id)"
    )


def downgrade() -> None:
    raise NotImplementedError("a ledger is not thrown away by a migration")
