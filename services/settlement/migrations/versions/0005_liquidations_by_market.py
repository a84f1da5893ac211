"""Liquidations by market: an account with many would read all of them for those of a rare one.

Revision ID: 0005
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "create index liquidations_by_market on liquidations"
        " ((account_id + 0), market_id, time_ns, liquidation_id, shard)"
    )


def downgrade() -> None:
    raise NotImplementedError("a ledger is not thrown away by a migration")
