"""Reads history and books.

Every query of a client names its account. Pages go by the key of the last row, never by offset.
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from kernel.money import INT64_MAX
from services.settlement.domain.ledger import LedgerKind
from services.settlement.store.database import Connection
from services.settlement.store.pages import Conditions, Span, read_page, windows

Row = asyncpg.Record
# What an order is for good, see `tidebook.engine.v1.OrderStatus`.
ENDED = (4, 5, 6, 7)


async def list_orders(
    connection: Connection,
    account_id: int,
    *,
    market_id: int | None,
    status: int | None,
    span: Span,
    before: Sequence[int] | None,
    limit: int,
) -> list[Row]:
    """Orders of the account, newest first; `before` is (created_ns, order_id, shard) of the last
    seen.
    """
    conditions = Conditions()
    conditions.of_account(account_id, market_id)
    # Live orders are few and have one index; $1 is the account.
    live = ("select * from open_orders", "account_id = $1")
    if status is None:
        branches = [live, *(("select * from closed_orders", f"status = {one}") for one in ENDED)]
    else:
        # With only one status there is only one branch, and one statement for them all.
        conditions.where("status = {}", int(status))
        branches = [("select * from closed_orders", "true") if status in ENDED else live]
    return await read_page(
        connection,
        branches,
        conditions,
        {"created_ns": int, "order_id": int, "shard": int},
        span=span,
        before=before,
        limit=limit,
    )


async def get_order(
    connection: Connection, shard: int, account_id: int, order_id: int
) -> Row | None:
    """An order of the account; it is most likely live, or else of late."""
    wanted = (shard, order_id, account_id)
    of_order = "where shard = $1 and order_id = $2 and account_id = $3"
    row = await connection.fetchrow(f"select * from open_orders {of_order}", *wanted)
    for window in windows(0, INT64_MAX):
        row = row or await connection.fetchrow(
            f"select * from closed_orders {of_order} and created_ns between $4 and $5",
            *wanted,
            *window,
        )
    return row


async def fills_of_order(connection: Connection, order: Row, limit: int) -> list[Row]:
    """The first `limit` fills of an order, oldest first."""
    return await connection.fetch(
        "select * from fills where shard = $1 and order_id = $2 and account_id + 0 = $3"
        " and time_ns between $4 and $5 order by trade_id limit $6",
        order["shard"],
        order["order_id"],
        order["account_id"],
        # It was filled while it lived, so other months need not be looked at.
        order["created_ns"],
        order["updated_ns"],
        limit,
    )


async def list_fills(
    connection: Connection,
    account_id: int,
    *,
    market_id: int | None,
    order_id: int | None,
    span: Span,
    before: Sequence[int] | None,
    limit: int,
) -> list[Row]:
    """Fills of the account, newest first; `before` is (time_ns, market_id, trade_id, maker)."""
    conditions = Conditions()
    if order_id is None:
        conditions.of_account(account_id, market_id)
    else:
        # An order has few fills, and an index of its own: none of the others may be taken for it.
        conditions.where("order_id = {} and account_id + 0 = {}", order_id, account_id)
        if market_id is not None:
            conditions.where("market_id + 0 = {}", market_id)
    return await read_page(
        connection,
        [("select * from fills", "true")],
        conditions,
        {"time_ns": int, "market_id": int, "trade_id": int, "maker": bool},
        span=span,
        before=before,
        limit=limit,
    )


async def list_entries(
    connection: Connection,
    account_id: int,
    *,
    asset_id: int | None,
    span: Span,
    before: Sequence[int] | None,
    limit: int,
) -> list[Row]:
    """Ledger entries of the account, newest first; `before` is (time_ns, entry_id, shard) of the
    last seen.
    """
    if asset_id is None:
        rows = await connection.fetch(
            "select distinct asset_id from ledger_accounts where account_id = $1", account_id
        )
        asset_ids = [row[0] for row in rows]
    else:
        asset_ids = [asset_id]
    if not asset_ids:
        return []
    conditions = Conditions()
    conditions.where("account_id = {}", account_id)
    return await read_page(
        connection,
        [("select * from ledger_entries", f"asset_id = {int(one)}") for one in asset_ids],
        conditions,
        {"time_ns": int, "entry_id": int, "shard": int},
        span=span,
        before=before,
        limit=limit,
        columns="page.*, t.kind, t.log_seq",
        join="join ledger_transactions t using (shard, transaction_id, time_ns)"
        " where t.time_ns {window}",
    )


async def list_positions(
    connection: Connection,
    account_id: int,
    *,
    market_id: int | None,
    span: Span,
    before: Sequence[int] | None,
    limit: int,
) -> list[Row]:
    """Closed positions of the account, newest first; `before` is (closed_ns, log_seq, event_index,
    shard) of the last seen.
    """
    return await _closed(
        connection,
        "closed_positions",
        ("closed_ns", "log_seq", "event_index", "shard"),
        account_id,
        market_id=market_id,
        span=span,
        before=before,
        limit=limit,
    )


async def list_cfds(
    connection: Connection,
    account_id: int,
    *,
    market_id: int | None,
    span: Span,
    before: Sequence[int] | None,
    limit: int,
) -> list[Row]:
    """Closed CFDs of the account, newest first; `before` is (closed_ns, cfd_id, shard).

    `left_units` is what the owner got of a liquidated one, null for others.
    """
    return await _closed(
        connection,
        "closed_cfds",
        ("closed_ns", "cfd_id", "shard"),
        account_id,
        market_id=market_id,
        span=span,
        before=before,
        limit=limit,
        columns="page.*, receipt.left_units",
        join="left join lateral (select l.returned_units as left_units from liquidations l"
        " where l.account_id = page.account_id and l.time_ns = page.closed_ns"
        " and l.time_ns {window} and l.shard = page.shard and l.cfd_id = page.cfd_id)"
        " receipt on true",
    )


async def list_liquidations(
    connection: Connection,
    account_id: int,
    *,
    market_id: int | None,
    span: Span,
    before: Sequence[int] | None,
    limit: int,
) -> list[Row]:
    """Liquidations of the account, newest first; `before` is (time_ns, liquidation_id, shard)."""
    return await _closed(
        connection,
        "liquidations",
        ("time_ns", "liquidation_id", "shard"),
        account_id,
        market_id=market_id,
        span=span,
        before=before,
        limit=limit,
    )


async def _closed(
    connection: Connection,
    table: str,
    key: tuple[str, ...],
    account_id: int,
    *,
    market_id: int | None,
    span: Span,
    before: Sequence[int] | None,
    limit: int,
    columns: str = "*",
    join: str = "",
) -> list[Row]:
    conditions = Conditions()
    conditions.of_account(account_id, market_id)
    return await read_page(
        connection,
        [(f"select * from {table}", "true")],
        conditions,
        dict.fromkeys(key, int),
        span=span,
        before=before,
        limit=limit,
        columns=columns,
        join=join,
    )


async def list_balances(
    connection: Connection, shard: int, account_id: int
) -> tuple[int, dict[int, dict[LedgerKind, int]]]:
    """(log position, asset id -> free and held) of an account, both of the same moment."""
    rows = await connection.fetch(
        "select p.applied_seq, b.asset_id, b.kind, b.balance from"
        " (select coalesce(max(applied_seq), 0) as applied_seq from progress where shard = $1) p"
        " left join ledger_accounts b on b.shard = $1 and b.account_id = $2"
        " order by b.asset_id",
        shard,
        account_id,
    )
    balances: dict[int, dict[LedgerKind, int]] = {}
    for _, asset_id, kind, balance in rows:
        if asset_id is not None:
            balances.setdefault(asset_id, {})[LedgerKind(kind)] = int(balance)
    return rows[0]["applied_seq"], balances


async def totals(
    connection: Connection, shard: int
) -> tuple[int, dict[int, dict[LedgerKind, int]]]:
    """(log position, asset id -> sum of the balances of each kind), both of the same moment."""
    rows = await connection.fetch(
        "select p.applied_seq, b.asset_id, b.kind, b.total from"
        " (select coalesce(max(applied_seq), 0) as applied_seq from progress where shard = $1) p"
        " left join (select asset_id, kind, sum(balance) as total from ledger_accounts"
        "  where shard = $1 group by asset_id, kind) b on true order by b.asset_id",
        shard,
    )
    sums: dict[int, dict[LedgerKind, int]] = {}
    for _, asset_id, kind, total in rows:
        if asset_id is not None:
            sums.setdefault(asset_id, {})[LedgerKind(kind)] = int(total)
    return rows[0]["applied_seq"], sums
