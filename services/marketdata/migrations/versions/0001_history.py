"""Trades and candles for ever, and the log position that they are true at."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Prices of CLOB candles are ticks, volumes lots, quote volumes quote units; those of index candles
# are 10**-8, 10**-8 and 10**-16.
_UP = """
create table candles (
    source smallint not null,
    market text not null,
    candle_interval smallint not null,
    open_s bigint not null,
    end_s bigint not null,
    open bigint not null,
    high bigint not null,
    low bigint not null,
    close bigint not null,
    volume numeric(40) not null,
    quote_volume numeric(40) not null,
    trades bigint not null,
    closed boolean not null,
    simulated boolean not null,
    log_seq bigint not null,
    primary key (source, market, candle_interval, open_s)
);
create table trades (
    market text not null,
    trade_id bigint not null,
    price_ticks bigint not null,
    quantity_lots bigint not null,
    notional_units bigint not null,
    taker_side smallint not null,
    time_ns bigint not null,
    log_seq bigint not null,
    primary key (market, trade_id)
);
create index trades_by_position on trades (market, log_seq);
create table positions (
    shard integer primary key,
    log_seq bigint not null,
    log_hash bytea not null
);
"""


def upgrade() -> None:
    """Make the tables."""
    for statement in _UP.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    """Drop the tables."""
    for table in ("positions", "trades", "candles"):
        op.execute(f"drop table {table}")
