"""History by month, live orders apart from ended ones; positions, CFDs; a public chain.

What grows without end is partitioned by the time of what caused it, so that its indexes stay small
and an old month can be moved elsewhere. What still changes is small and stays in one table each.

Revision ID: 0002
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_PARTITIONED = (
    "ledger_transactions",
    "ledger_entries",
    "closed_orders",
    "fills",
    "closed_positions",
    "closed_cfds",
    "liquidations",
)
# Of these nothing is ever changed; the others are written by the applier alone.
_IMMUTABLE = ("ledger_transactions", "ledger_entries")

_SET_ASIDE = """
alter table ledger_transactions rename to old_ledger_transactions;
alter table ledger_entries rename to old_ledger_entries;
alter table fills rename to old_fills;
alter table orders rename to old_orders;
drop trigger entries_sum_to_zero on old_ledger_entries;
alter table old_ledger_transactions drop constraint one_transaction_per_event;
"""

# Kind 8, clearing, stands between the winners and the losers of margin positions; it is
# zero when none is open. The house may lose. The insurance fund pays no more than it has.
_LEDGER = """
alter table ledger_accounts drop constraint ledger_accounts_kind_check;
alter table ledger_accounts add constraint ledger_accounts_kind_check check (kind between 1 and 8);
alter table ledger_accounts add constraint no_negative_insurance check (kind <> 4 or balance >= 0);

create table ledger_transactions (
    shard integer not null,
    transaction_id bigint not null,
    log_seq bigint not null,
    event_index integer not null,
    kind smallint not null,
    order_id bigint not null,
    time_ns bigint not null,
    primary key (shard, transaction_id, time_ns),
    constraint one_transaction_per_event unique (shard, log_seq, event_index, time_ns)
) partition by range (time_ns);

create table ledger_entries (
    shard integer not null,
    entry_id bigint not null,
    transaction_id bigint not null,
    time_ns bigint not null,
    account_id bigint not null,
    asset_id integer not null,
    ledger_kind smallint not null,
    amount bigint not null check (amount <> 0),
    balance_after bigint,
    order_id bigint not null,
    primary key (shard, entry_id, time_ns),
    constraint balance_after_of_clients check ((balance_after is null) = (account_id = 0))
) partition by range (time_ns);
create index entries_of_account on ledger_entries (account_id, asset_id, time_ns, entry_id, shard)
    where account_id > 0;
"""

# The status of an ended order is one of a few, so pages go by (account, status, time): a page of
# all is the newest of a page of each.
_HISTORY = """
create table open_orders (like old_orders including defaults including constraints,
    trailing_bps integer not null default 0,
    oco_order_id bigint not null default 0,
    primary key (shard, order_id)) with (fillfactor = 60);
create index open_orders_by_time on open_orders (account_id, created_ns, order_id, shard);
create index open_orders_by_end on open_orders (expire_ns) where expire_ns > 0;

create table closed_orders (like open_orders including defaults including constraints,
    constraint closed_for_good check (status in (4, 5, 6, 7)),
    primary key (shard, order_id, created_ns)) partition by range (created_ns);
create index orders_by_time on closed_orders (account_id, status, created_ns, order_id, shard);
create index orders_by_market
    on closed_orders (account_id, market_id, status, created_ns, order_id, shard);

create table fills (like old_fills including defaults including constraints,
    primary key (shard, market_id, trade_id, maker, time_ns)) partition by range (time_ns);
create index fills_by_time on fills (account_id, time_ns, market_id, trade_id, maker);
create index fills_by_market on fills (account_id, market_id, time_ns, trade_id, maker);
create index fills_by_order on fills (order_id, trade_id);

create table open_positions (
    shard integer not null,
    account_id bigint not null,
    market_id integer not null,
    quantity_lots bigint not null check (quantity_lots <> 0),
    entry_notional_units bigint not null,
    margin_units bigint not null,
    opened_lots bigint not null check (opened_lots > 0),
    opened_notional_units bigint not null,
    closed_notional_units bigint not null,
    realised_pnl_units bigint not null,
    fees_units bigint not null,
    opened_ns bigint not null,
    updated_ns bigint not null,
    log_seq bigint not null,
    primary key (shard, account_id, market_id)
) with (fillfactor = 70);

create table closed_positions (
    shard integer not null,
    account_id bigint not null,
    market_id integer not null,
    opened_lots bigint not null check (opened_lots <> 0),
    opened_notional_units bigint not null,
    closed_notional_units bigint not null,
    realised_pnl_units bigint not null,
    fees_units bigint not null,
    liquidated boolean not null,
    opened_ns bigint not null,
    closed_ns bigint not null,
    log_seq bigint not null,
    event_index integer not null,
    primary key (shard, log_seq, event_index, closed_ns)
) partition by range (closed_ns);
create index positions_by_time
    on closed_positions (account_id, closed_ns, log_seq, event_index, shard);
create index positions_by_market
    on closed_positions (account_id, market_id, closed_ns, log_seq, event_index, shard);

create table open_cfds (
    shard integer not null,
    cfd_id bigint not null,
    account_id bigint not null,
    market_id integer not null,
    client_cfd_id text not null,
    side smallint not null,
    margin_units bigint not null,
    notional_units bigint not null,
    leverage integer not null,
    entry_ticks bigint not null,
    liquidation_ticks bigint not null,
    stop_loss_ticks bigint not null,
    take_profit_ticks bigint not null,
    fees_units bigint not null,
    opened_ns bigint not null,
    log_seq bigint not null,
    primary key (shard, cfd_id)
) with (fillfactor = 70);

create table closed_cfds (like open_cfds,
    close_ticks bigint not null,
    pnl_units bigint not null,
    returned_units bigint not null,
    close_reason smallint not null,
    closed_ns bigint not null,
    primary key (shard, cfd_id, closed_ns)) partition by range (closed_ns);
create index cfds_by_time on closed_cfds (account_id, closed_ns, cfd_id, shard);
create index cfds_by_market on closed_cfds (account_id, market_id, closed_ns, cfd_id, shard);

create table liquidations (
    shard integer not null,
    liquidation_id bigint not null,
    account_id bigint not null,
    market_id integer not null,
    cfd_id bigint not null,
    formula_version integer not null,
    quantity_lots bigint not null,
    entry_notional_units bigint not null,
    margin_units bigint not null,
    mark_ticks bigint not null,
    bankruptcy_ticks bigint not null,
    filled_lots bigint not null,
    filled_notional_units bigint not null,
    fund_lots bigint not null,
    fund_delta_units bigint not null,
    maintenance_bps integer not null,
    fee_bps integer not null,
    fee_units bigint not null,
    returned_units bigint not null,
    order_id bigint not null,
    deleveraged_accounts bigint[] not null,
    deleveraged_lots bigint[] not null,
    deleveraged_ticks bigint[] not null,
    time_ns bigint not null,
    log_seq bigint not null,
    primary key (shard, liquidation_id, time_ns)
) partition by range (time_ns);
create index liquidations_by_time on liquidations (account_id, time_ns, liquidation_id, shard);
"""

# Returns the first nanosecond after the month. A partition is made apart and then attached, which
# does not wait for those who read.
_PARTITIONS = """
create function ensure_month(of_ns bigint) returns bigint language plpgsql as $$
declare
    month timestamp := date_trunc('month', to_timestamp(of_ns / 1000000000) at time zone 'UTC');
    from_ns bigint := extract(epoch from month)::bigint * 1000000000;
    to_ns bigint := extract(epoch from month + interval '1 month')::bigint * 1000000000;
    parent text;
    child text;
begin
    perform pg_advisory_xact_lock(1953038340);
    foreach parent in array array[{tables}] loop
        child := format('%s_%s', parent, to_char(month, 'YYYY_MM'));
        continue when to_regclass(child) is not null;
        execute format('create table %I (like %I including all)', child, parent);
        if parent in ({immutable}) then
            execute format('create trigger immutable before update or delete or truncate on %I'
                ' for each statement execute function refuse_change()', child);
        end if;
        execute format('alter table %I attach partition %I for values from (%s) to (%s)',
            parent, child, from_ns, to_ns);
    end loop;
    return to_ns;
end $$;
"""

_COPY = """
select ensure_month(time_ns) from (
    select distinct on (time_ns / 86400000000000) time_ns from old_ledger_transactions
    union select distinct on (created_ns / 86400000000000) created_ns from old_orders
    union select distinct on (time_ns / 86400000000000) time_ns from old_fills) as days;
insert into ledger_transactions table old_ledger_transactions;
insert into ledger_entries select e.shard, e.entry_id, e.transaction_id, t.time_ns, e.account_id,
    e.asset_id, e.ledger_kind, e.amount, e.balance_after, e.order_id
    from old_ledger_entries e join old_ledger_transactions t using (shard, transaction_id);
insert into open_orders select * from old_orders where status not in (4, 5, 6, 7);
insert into closed_orders select * from old_orders where status in (4, 5, 6, 7);
insert into fills table old_fills;
drop table old_ledger_entries;
drop table old_ledger_transactions;
drop table old_orders;
drop table old_fills;
create view orders as table open_orders union all table closed_orders;
"""

_TRIGGERS = """
create trigger entries_sum_to_zero after insert on ledger_entries
    referencing new table as fresh
    for each statement execute function check_entries_sum_to_zero();
create trigger immutable before update or delete or truncate on ledger_entries
    for each statement execute function refuse_change();
create trigger immutable before update or delete or truncate on ledger_transactions
    for each statement execute function refuse_change();
"""

# The log's own chain goes over the payloads, which are nobody else's business. This one goes over
# what may be published, so that anybody can check it: link = sha256(link before || sha-256 of the
# payload || hash of the log).
_LINKS = """
alter table archive add column link bytea check (length(link) = 32);
drop trigger immutable on archive;
do $$
declare
    entry record;
    last_shard integer := -1;
    last_link bytea;
begin
    for entry in select shard, seq, payload_sha256, hash from archive order by shard, seq loop
        if entry.shard <> last_shard then
            last_shard := entry.shard;
            last_link := decode(repeat('00', 32), 'hex');
        end if;
        last_link := sha256(last_link || entry.payload_sha256 || entry.hash);
        update archive set link = last_link where shard = entry.shard and seq = entry.seq;
    end loop;
end $$;
alter table archive alter column link set not null;
create trigger immutable before update or delete or truncate on archive
    for each statement execute function refuse_change();
"""


def upgrade() -> None:
    partitions = _PARTITIONS.format(tables=_quoted(_PARTITIONED), immutable=_quoted(_IMMUTABLE))
    for part in (_SET_ASIDE, _LEDGER, _HISTORY, partitions, _COPY, _TRIGGERS, _LINKS):
        for statement in _statements(part):
            op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("a ledger is not thrown away by a migration")


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names)


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
