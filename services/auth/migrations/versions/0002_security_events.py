"""Security events."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        create table security_events (
            event_id bigint generated always as identity primary key,
            user_id text not null references users,
            happened text not null,
            at timestamptz not null,
            ip text not null,
            user_agent text not null,
            subject text not null
        )
        """
    )
    op.execute("create index security_events_user on security_events (user_id, event_id desc)")
    op.execute("create index security_events_at on security_events (at)")


def downgrade() -> None:
    op.execute("drop table security_events")
