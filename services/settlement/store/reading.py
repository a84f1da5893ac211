"""Reads history and books.

Every query of a client names its account. Pages go by the key of the last row, never by offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from kernel.money import INT64_MAX
from services.settlement.domain.ledger import LedgerKind
from services.settlement.store.database import Connection

Row = asyncpg.Record


@dataclass(frozen=True, slots=True)
class Span:
    """A time span in Unix nanoseconds: from `start_ns` on, before `end_ns`."""

    start_ns: int = 0
    end_ns: int = INT64_MAX


class _Query:
    """Conditions and their parameters, numbered as they come."""

    def __init__(self) -> None:
        self.parameters: list[Any] = []
        self._conditions: list[str] = []

    def where(self, condition: str, *values: object) -> None:
        """Add a condition; `{}` stands for a parameter."""
        first = len(self.parameters) + 1
        self.parameters.extend(values)
        self._conditions.append(condition.format(*(f"${first + i}" for i in range(len(values)))))

    def text(self, select: str, order_by: str, limit: int) -> str:
        conditions = " and ".join(self._conditions)
        return f"{select} where {conditions} order by {order_by} limit {limit}"


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
    """Orders of the account, newest first; `before` is (created_ns, order_id) of the last seen."""
    query = _Query()
    query.where("account_id = {} and created_ns >= {}", account_id, span.start_ns)
    query.where("(created_ns, order_id) < ({}, {})", *(before or (span.end_ns, 0)))
    if market_id is not None:
        query.where("market_id = {}", market_id)
    if status is not None:
        query.where("status = {}", status)
    text = query.text("select * from orders", "created_ns desc, order_id desc", limit)
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


async def fills_of_order(connection: Connection, account_id: int, order_id: int) -> list[Row]:
    """All fills of an order of the account, oldest first."""
    return await connection.fetch(
        "select * from fills where account_id = $1 and order_id = $2 order by trade_id",
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
    """Ledger entries of the account, newest first; `before` is (entry_id,)."""
    query = _Query()
    (entry_id,) = before or (INT64_MAX,)
    query.where("e.account_id = {} and e.entry_id < {}", account_id, entry_id)
    query.where("t.time_ns >= {} and t.time_ns < {}", span.start_ns, span.end_ns)
    if asset_id is not None:
        query.where("e.asset_id = {}", asset_id)
    text = query.text(
        "select e.*, t.kind, t.log_seq, t.time_ns from ledger_entries e"
        " join ledger_transactions t using (shard, transaction_id)",
        "e.entry_id desc",
        limit,
    )
    return await connection.fetch(text, *query.parameters)


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
