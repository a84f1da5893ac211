"""Pages of what is kept by month: newest first, by the key of the last row, never by offset.

A page is looked for in the newest month first and further back only while it is not full, so what
it costs does not grow with the years. Each look is one statement that PostgreSQL prunes to the
partitions of its window.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from kernel.money import INT64_MAX
from services.settlement.store.database import Connection

_FIRST_WINDOW_NS = 14 * 86_400 * 10**9
_WIDER = 8
_LOOKS = 4
# A limit is part of the statement: the planner must know that few rows are wanted. These few, so
# that every connection has met each statement soon.
_LIMITS = (2, 26, 101, 251, 501)


@dataclass(frozen=True, slots=True)
class Span:
    """A time span in Unix nanoseconds: from `start_ns` on, before `end_ns`."""

    start_ns: int = 0
    end_ns: int = INT64_MAX


class Conditions:
    """What all rows of a page meet, and the parameters of it, numbered as they come."""

    def __init__(self) -> None:
        self.parameters: list[Any] = []
        self._texts: list[str] = []

    def where(self, condition: str, *values: object) -> None:
        """Add a condition; `{}` stands for a parameter."""
        first = len(self.parameters) + 1
        self.parameters.extend(values)
        self._texts.append(condition.format(*(f"${first + i}" for i in range(len(values)))))

    def of_account(self, account_id: int, market_id: int | None) -> None:
        """Only rows of an account, which is the first parameter, and of a market if one is given.

        The index with the market in it has `account_id + 0` where the other one has the account.
        Either could serve, and a planner that has no good idea how many rows there are (for a month
        that has just begun) took the one that reads all of them.
        """
        if market_id is None:
            self.where("account_id = {}", account_id)
        else:
            self.where("account_id + 0 = {} and market_id = {}", account_id, market_id)

    def __str__(self) -> str:
        return " and ".join(self._texts)


# (select, a condition of its own). An index leads by what a page may be narrowed to and then by
# time. So a page of all is put together from a page of each: no branch reads more than a page has.
Branch = tuple[str, str]


async def read_page(
    connection: Connection,
    branches: Sequence[Branch],
    conditions: Conditions,
    key: Mapping[str, type[int]],
    *,
    span: Span,
    before: Sequence[int] | None,
    limit: int,
    columns: str = "*",
    join: str = "",
) -> list[asyncpg.Record]:
    """At most `limit` rows, newest first.

    `key` are the columns that a list goes by, a time in nanoseconds first, and their types;
    `before` are those of the last row of the page before. `columns` are read of the finished `page`
    and what it is joined with; `{window}` in there stands for "between" two times.
    """
    order = ", ".join(f"{name} desc" for name in key)
    text_limit = next((size for size in _LIMITS if size >= limit), limit)
    time_column = next(iter(key))
    if before is None:
        before = (span.end_ns, *[0] * (len(key) - 1))
    after = [kind(value) for kind, value in zip(key.values(), before, strict=True)]
    first = len(conditions.parameters) + 1
    places = ", ".join(f"${first + 2 + i}" for i in range(len(key)))
    # The times say what the key says already, in words that leave out whole months.
    common = (
        f"{conditions} and {time_column} >= ${first} and {time_column} <= ${first + 1}"
        f" and ({', '.join(key)}) < ({places})"
    )
    parts = [
        f"({select} where {own} and {common} order by {order} limit {text_limit})"
        for select, own in branches
    ]
    page = f"({' union all '.join(parts)}) page"
    joined = join.format(window=f"between ${first} and ${first + 1}")
    text = f"select {columns} from {page} {joined} order by {order} limit {text_limit}"
    rows: list[asyncpg.Record] = []
    for start_ns, end_ns in windows(span.start_ns, min(after[0], span.end_ns)):
        rows += await connection.fetch(text, *conditions.parameters, start_ns, end_ns, *after)
        if len(rows) >= limit:
            break
    return rows[:limit]


def windows(start_ns: int, end_ns: int) -> Iterator[tuple[int, int]]:
    """Times from `start_ns` to `end_ns`, both included, in ever longer pieces, newest first."""
    oldest_ns, width_ns = min(end_ns, time.time_ns()), _FIRST_WINDOW_NS
    for _ in range(_LOOKS - 1):
        oldest_ns -= width_ns
        if oldest_ns <= start_ns:
            break
        yield oldest_ns, end_ns
        end_ns, width_ns = oldest_ns - 1, width_ns * _WIDER
    if start_ns <= end_ns:
        yield start_ns, end_ns
