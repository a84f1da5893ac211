"""Recovery codes of the second factor."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        alter table users add column recovery_code_hashes bytea[] not null default '{}',
            add check (totp_enabled or recovery_code_hashes = '{}')
        """
    )


def downgrade() -> None:
    op.execute("alter table users drop column recovery_code_hashes")
