"""Indexes by market that no plan mistakes for those by time.

A page of one market could be read by either index: the one that leads by account and market, or the
one by account alone, with every other market's rows read and left out. Plans are made without
knowing the parameters, and where they expect a row or none both look the same. `account_id + 0` is
the same value, but only one of them has it.

Revision ID: 0004
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_INDEXES = {
    "orders_by_market": "closed_orders"
    " ((account_id + 0), market_id, status, created_ns, order_id, shard)",
    "fills_by_market": "fills ((account_id + 0), market_id, time_ns, trade_id, maker)",
    "positions_by_market": "closed_positions"
    " ((account_id + 0), market_id, closed_ns, log_seq, event_index, shard)",
    "cfds_by_market": "closed_cfds ((account_id + 0), market_id, closed_ns, cfd_id, shard)",
}


def upgrade() -> None:
    for name, on in _INDEXES.items():
        op.execute(f"drop index {name}")
        op.execute(f"create index {name} on {on}")


def downgrade() -> None:
    raise NotImplementedError("a ledger is not thrown away by a migration")
