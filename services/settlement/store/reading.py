"""Reads history and books.

Every query of a client names its account. Pages go by the key of the last row, never by offset.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from kernel.money import INT64_MAX
from services.settlement.domain.ledger import LedgerKind
from services.settlement.store.database import Connection

Row = asyncpg.Record
# What an order is for good, see `tidebook.engine.v1.OrderStatus`.
ENDED = (4, 5, 6, 7)


@dataclass(frozen=True, slots=True)
class Span:
    """A time span in Unix nanoseconds: from `start_ns` on, before `end_ns`."""

    start_ns: int = 0
    end_ns: int = INT64_MAX


class _Query:
    """Conditions and their parameters, numbered as they come.

    An index leads by what a page may be narrowed to (status, market, asset) and then by time. So a
    page of everything is put together from a page of each: every branch reads no more rows than
    the page has.
    """

    def __init__(self) -> None:
        self.parameters: list[Any] = []
        self._conditions: list[str] = []

    def where(self, condition: str, *values: object) -> None:
        """Add a condition; `{}` stands for a parameter."""
        first = len(self.parameters) + 1
        self.parameters.extend(values)
        self._conditions.append(condition.format(*(f"${first + i}" for i in range(len(values)))))

    def text(self, select: str, order_by: str, limit: int) -> str:
        """The rows that meet the conditions."""
        conditions = " and ".join(self._conditions)
        return f"{select} where {conditions} order by {order_by} limit {limit}"

    def union(self, branches: Iterable[tuple[str, str]], order_by: str, limit: int) -> str:
        """The same of each branch, (select, its own condition), put together."""
        conditions = " and ".join(self._conditions)
        parts = (
            f"({select} where {own} and {conditions} order by {order_by} limit {limit})"
            for select, own in branches
        )
        page = " union all ".join(parts)
        return f"select * from ({page}) page order by {order_by} limit {limit}"


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
    query = _Query()
    query.where("account_id = {} and created_ns >= {}", account_id, span.start_ns)
    # The first is what the second says already, in words that leave out whole months.
    created_ns, order_id, shard = before or (span.end_ns, 0, 0)
    query.where("created_ns <= {}", created_ns)
    query.where("(created_ns, order_id, shard) < ({}, {}, {})", created_ns, order_id, shard)
    if market_id is not None:
        query.where("market_id = {}", market_id)
    branches = []
    if status not in ENDED:
        only = "true" if status is None else f"status = {int(status)}"
        branches.append(("select * from open_orders", only))
    branches += [
        ("select * from closed_orders", f"status = {ended}")
        for ended in ENDED
        if status in (None, ended)
    ]
    text = query.union(branches, "created_ns desc, order_id desc, shard desc", limit)
    return await connection.fetch(text, *query.parameters)


async def get_order(
    connection: Connection, shard: int, account_id: int, order_id: int
) -> Row | None:
    """An order of the account."""
    return await connection.fetchrow(
        "select * from orders where shard = $1 and order_id = $2 and account_id = $3",
        shard,
        order_id,
        account_id,
    )


async def fills_of_order(
    connection: Connection, shard: int, account_id: int, order_id: int
) -> list[Row]:
    """All fills of an order of the account, oldest first."""
    return await connection.fetch(
        "select * from fills where shard = $1 and account_id = $2 and order_id = $3"
        " order by trade_id",
        shard,
        account_id,
        order_id,
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
    time_ns, market, trade_id, maker = before or (span.end_ns, 0, 0, 0)
    query = _Query()
    query.where("account_id = {} and time_ns >= {}", account_id, span.start_ns)
    query.where("time_ns <= {}", time_ns)
    query.where(
        "(time_ns, market_id, trade_id, maker) < ({}, {}, {}, {})",
        time_ns,
        market,
        trade_id,
        bool(maker),
    )
    if market_id is not None:
        query.where("market_id = {}", market_id)
    if order_id is not None:
        query.where("order_id = {}", order_id)
    text = query.text(
        "select * from fills",
        "time_ns desc, market_id desc, trade_id desc, maker desc",
        limit,
    )
    return await connection.fetch(text, *query.parameters)


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
    query = _Query()
    time_ns, entry_id, shard = before or (span.end_ns, 0, 0)
    query.where("account_id = {} and time_ns >= {}", account_id, span.start_ns)
    query.where("time_ns <= {}", time_ns)
    query.where("(time_ns, entry_id, shard) < ({}, {}, {})", time_ns, entry_id, shard)
    order = "time_ns desc, entry_id desc, shard desc"
    page = query.union(
        [("select * from ledger_entries", f"asset_id = {int(one)}") for one in asset_ids],
        order,
        limit,
    )
    return await connection.fetch(
        "select e.*, t.kind, t.log_seq from"
        f" ({page}) e join ledger_transactions t using (shard, transaction_id, time_ns)"
        f" order by {order}",
        *query.parameters,
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
    """Closed CFDs of the account, newest first; `before` is (closed_ns, cfd_id, shard)."""
    return await _closed(
        connection,
        "closed_cfds",
        ("closed_ns", "cfd_id", "shard"),
        account_id,
        market_id=market_id,
        span=span,
        before=before,
        limit=limit,
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
) -> list[Row]:
    """Rows of a table whose key begins with a time, newest first."""
    query = _Query()
    values = tuple(before or (span.end_ns, *(0 for _ in key[1:])))
    query.where(f"account_id = {{}} and {key[0]} >= {{}}", account_id, span.start_ns)
    query.where(f"{key[0]} <= {{}}", values[0])
    query.where(f"({', '.join(key)}) < ({', '.join('{}' for _ in key)})", *values)
    if market_id is not None:
        query.where("market_id = {}", market_id)
    order = ", ".join(f"{name} desc" for name in key)
    return await connection.fetch(
        query.text(f"select * from {table}", order, limit), *query.parameters
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
