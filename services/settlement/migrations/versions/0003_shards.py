"""Transfers of several engine shards, and between them.

Revision ID: 0003
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# A transfer from shard to shard is two messages of one kind, the debit and the credit.
_STATEMENTS = (
    "alter table transfers add column shard integer not null default 0,"
    " add column to_shard integer not null default 0",
    "alter table transfers drop constraint transfers_direction_check",
    "alter table transfers add constraint transfers_direction_check"
    " check (direction in (1, 2) or (direction = 3 and shard <> to_shard))",
    "alter table outbox add column shard integer not null default 0",
    "alter table outbox drop constraint one_message_of_a_kind",
    "alter table outbox add constraint one_message_of_a_kind unique (transfer_id, kind, shard)",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("a ledger is not thrown away by a migration")
