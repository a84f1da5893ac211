"""Users, one-time codes, waiting mails, API keys and signing keys."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    # Account numbers below 1001 are kept for the house.
    "create sequence account_ids as bigint minvalue 1001",
    """
    create table users (
        user_id text primary key,
        account_id bigint not null unique default nextval('account_ids'),
        email text not null,
        email_key text not null unique,
        password_hash text not null,
        totp_secret_sealed bytea,
        totp_enabled boolean not null default false,
        totp_last_step bigint not null default 0,
        created_at timestamptz not null,
        check (totp_secret_sealed is not null or not totp_enabled)
    )
    """,
    # One live code per address and purpose: a new one replaces the last.
    """
    create table one_time_codes (
        email_key text not null,
        purpose text not null check (purpose in ('sign_up', 'password_reset')),
        email text not null,
        code_hash bytea not null,
        password_hash text,
        attempts integer not null default 0,
        created_at timestamptz not null,
        expires_at timestamptz not null,
        primary key (email_key, purpose)
    )
    """,
    "create index one_time_codes_expires_at on one_time_codes (expires_at)",
    # Mails hold codes, so they are sealed, and deleted once they are sent.
    """
    create table outbox (
        mail_id bigint generated always as identity primary key,
        sealed bytea not null,
        attempts integer not null default 0,
        due_at timestamptz not null,
        expires_at timestamptz not null
    )
    """,
    "create index outbox_due_at on outbox (due_at)",
    """
    create table api_keys (
        api_key_id text primary key,
        user_id text not null references users,
        name text not null,
        secret_hash bytea not null,
        scopes text[] not null,
        ip_allow_list text[] not null,
        created_at timestamptz not null,
        expires_at timestamptz,
        last_used_at timestamptz,
        revoked_at timestamptz
    )
    """,
    "create index api_keys_user_id on api_keys (user_id, created_at)",
    """
    create table signing_keys (
        kid text primary key,
        public_key bytea not null,
        private_key_sealed bytea not null,
        created_at timestamptz not null
    )
    """,
)


def upgrade() -> None:
    for statement in TABLES:
        op.execute(statement)


def downgrade() -> None:
    for table in ("signing_keys", "api_keys", "outbox", "one_time_codes", "users"):
        op.execute(f"drop table {table}")
    op.execute("drop sequence account_ids")
