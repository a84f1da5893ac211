"""Ledger, history, transfers and the archive of the log.

Revision ID: 0001
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Units everywhere: ticks, lots, smallest units of the asset, nanoseconds since 1970 UTC.
_CONFIGURATION = """
create table assets (
    asset_id integer primary key,
    code text not null unique,
    decimals smallint not null check (decimals between 0 and 18),
    transfer_decimals smallint not null check (transfer_decimals between 0 and decimals)
);

create table markets (
    market_id integer primary key,
    name text not null unique,
    kind smallint not null,
    base_asset_id integer not null references assets,
    quote_asset_id integer not null references assets,
    tick_size_units bigint not null check (tick_size_units > 0),
    lot_size_units bigint not null check (lot_size_units > 0)
);
"""

# Exactly once rests on `progress`: it moves in the transaction that applies the entries.
_LOG = """
create table progress (
    shard integer primary key,
    applied_seq bigint not null check (applied_seq >= 0),
    applied_hash bytea not null check (length(applied_hash) = 32),
    applied_ns bigint not null,
    last_command_seq bigint not null,
    last_transaction_id bigint not null,
    last_entry_id bigint not null
);

create table archive (
    shard integer not null,
    seq bigint not null check (seq > 0),
    codec smallint not null,
    payload bytea not null,
    payload_sha256 bytea not null check (length(payload_sha256) = 32),
    hash bytea not null check (length(hash) = 32),
    primary key (shard, seq)
);
-- Compressed by us already: PostgreSQL would only try again.
alter table archive alter column payload set storage external;
"""

# Kinds: 1 client free, 2 client held, 3 fees, 4 insurance, 5 house, 6 deposits, 7 withdrawals.
# Totals over all clients may pass 64 bits, so balances are numeric; a single posting never does.
_LEDGER = """
create table ledger_accounts (
    shard integer not null,
    account_id bigint not null,
    asset_id integer not null references assets,
    kind smallint not null check (kind between 1 and 7),
    balance numeric(38, 0) not null,
    primary key (shard, account_id, asset_id, kind),
    constraint account_of_clients check ((kind in (1, 2)) = (account_id > 0)),
    constraint no_negative_client_balance check (kind not in (1, 2) or balance >= 0)
) with (fillfactor = 70);

create table ledger_transactions (
    shard integer not null,
    transaction_id bigint not null,
    log_seq bigint not null,
    event_index integer not null,
    kind smallint not null,
    order_id bigint not null,
    time_ns bigint not null,
    primary key (shard, transaction_id),
    constraint one_transaction_per_event unique (shard, log_seq, event_index)
);

-- No foreign keys: a check per row costs more than the insert. `tidebook verify` does it instead.
create table ledger_entries (
    shard integer not null,
    entry_id bigint not null,
    transaction_id bigint not null,
    account_id bigint not null,
    asset_id integer not null,
    ledger_kind smallint not null,
    amount bigint not null check (amount <> 0),
    balance_after bigint,
    order_id bigint not null,
    primary key (shard, entry_id),
    constraint balance_after_of_clients check ((balance_after is null) = (account_id = 0))
);
create index ledger_entries_of_account on ledger_entries (account_id, entry_id)
    where account_id > 0;

create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% rows are never changed', tg_table_name using errcode = 'check_violation';
end $$;

create function check_entries_sum_to_zero() returns trigger language plpgsql as $$
begin
    if exists (
        select 1 from fresh group by shard, transaction_id, asset_id having sum(amount) <> 0
    ) then
        raise exception 'ledger entries of a transaction do not sum to zero'
            using errcode = 'check_violation';
    end if;
    return null;
end $$;

-- All entries of a transaction come in one statement, so this sees each of them whole.
create trigger entries_sum_to_zero after insert on ledger_entries
    referencing new table as fresh
    for each statement execute function check_entries_sum_to_zero();
create trigger immutable before update or delete or truncate on ledger_entries
    for each statement execute function refuse_change();
create trigger immutable before update or delete or truncate on ledger_transactions
    for each statement execute function refuse_change();
create trigger immutable before update or delete or truncate on archive
    for each statement execute function refuse_change();
"""

_HISTORY = """
create table orders (
    shard integer not null,
    order_id bigint not null,
    account_id bigint not null,
    market_id integer not null,
    client_order_id text not null,
    side smallint not null,
    type smallint not null,
    time_in_force smallint not null,
    status smallint not null,
    price_ticks bigint not null,
    quantity_lots bigint not null,
    quote_amount_units bigint not null,
    filled_lots bigint not null check (filled_lots >= 0),
    filled_notional_units bigint not null,
    fees_units bigint not null,
    post_only boolean not null,
    reduce_only boolean not null,
    display_quantity_lots bigint not null,
    trigger_price_ticks bigint not null,
    trigger_source smallint not null,
    self_trade_prevention smallint not null,
    expire_ns bigint not null,
    close_reason smallint not null,
    created_ns bigint not null,
    updated_ns bigint not null,
    log_seq bigint not null,
    primary key (shard, order_id)
) with (fillfactor = 80);
create index orders_of_account on orders (account_id, created_ns, order_id);

-- A trade is two fills, one for each account.
create table fills (
    shard integer not null,
    market_id integer not null,
    trade_id bigint not null,
    maker boolean not null,
    account_id bigint not null,
    order_id bigint not null,
    side smallint not null,
    price_ticks bigint not null,
    quantity_lots bigint not null,
    notional_units bigint not null,
    fee_units bigint not null,
    time_ns bigint not null,
    log_seq bigint not null,
    primary key (shard, market_id, trade_id, maker)
);
create index fills_of_account on fills (account_id, time_ns, market_id, trade_id, maker);
create index fills_of_order on fills (order_id, trade_id);
"""

# `outbox` is what the engine has still to be told. Its ids and those of `transfers` come from one
# sequence: a deposit or withdrawal is known to the engine by its own id, its reversal by another.
_TRANSFERS = """
create sequence transfer_ids;

create table transfers (
    transfer_id bigint primary key default nextval('transfer_ids'),
    account_id bigint not null check (account_id > 0),
    request_id text not null,
    direction smallint not null check (direction in (1, 2)),
    asset_id integer not null references assets,
    amount_units bigint not null check (amount_units > 0),
    address text not null,
    status smallint not null check (status between 1 and 5),
    failure smallint not null default 0,
    simulated boolean not null,
    cancelling boolean not null default false,
    log_seq bigint not null default 0,
    created_ns bigint not null,
    updated_ns bigint not null,
    constraint one_transfer_per_request unique (account_id, request_id)
);
create index transfers_of_account on transfers (account_id, transfer_id);
-- Withdrawals that wait for their payout.
create index transfers_held on transfers (updated_ns) where status = 5;

create table outbox (
    engine_transfer_id bigint primary key,
    transfer_id bigint not null references transfers,
    kind smallint not null,
    amount_units bigint not null check (amount_units <> 0),
    traceparent text not null,
    attempts integer not null default 0,
    next_attempt_ns bigint not null,
    last_error text not null default '',
    done_ns bigint not null default 0,
    constraint one_message_of_a_kind unique (transfer_id, kind)
);
create index outbox_waiting on outbox (next_attempt_ns) where done_ns = 0;
"""


def upgrade() -> None:
    for part in (_CONFIGURATION, _LOG, _LEDGER, _HISTORY, _TRANSFERS):
        for statement in _statements(part):
            op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("a ledger is not thrown away by a migration")


def _statements(script: str) -> list[str]:
    """The statements of a script; `;` inside `$$ ... $$` does not end one."""
    statements, current = [], ""
    for part in script.split(";"):
        current += part
        if current.count("$$") % 2:
            current += ";"
        else:
            statements.append(current.strip())
            current = ""
    return [statement for statement in statements if statement]
