"""Codes by mail for signing in."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        alter table one_time_codes drop constraint one_time_codes_purpose_check,
            add constraint one_time_codes_purpose_check
                check (purpose in ('sign_up', 'password_reset', 'sign_in'))
        """
    )


def downgrade() -> None:
    op.execute("delete from one_time_codes where purpose = 'sign_in'")
    op.execute(
        """
        alter table one_time_codes drop constraint one_time_codes_purpose_check,
            add constraint one_time_codes_purpose_check
                check (purpose in ('sign_up', 'password_reset'))
        """
    )
