"""The history in PostgreSQL, row by row and field by field, against the replay."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Hashable, Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, TypeVar

from ops.audit import Audit, FillOutcome, OrderOutcome
from ops.audit_positions import CfdEnd, ClosedPosition, Liquidation, OpenCfd, OpenPosition
from ops.findings import Check, Report
from services.settlement.store.database import Connection

Key = TypeVar("Key", bound=Hashable)
Row = TypeVar("Row")
_ROWS_AT_ONCE = 1000
_OUTCOME = tuple(field.name for field in fields(OrderOutcome) if field.name != "request")
_REQUEST = (
    *("client_order_id", "type", "time_in_force", "quote_amount_units", "post_only"),
    *("reduce_only", "display_quantity_lots", "trigger_source", "self_trade_prevention"),
    *("expire_ns", "trailing_bps"),
)
_order_values = attrgetter(*_OUTCOME, *(f"request.{name}" for name in _REQUEST))


@dataclass(frozen=True, slots=True)
class Table:
    """A table, what a row of it is called, what it is found by, and what it says."""

    name: str
    noun: str
    key: tuple[str, ...]
    columns: tuple[str, ...]

    def query(self) -> str:
        """All of a shard's rows, key first."""
        keys = ", ".join(self.key)
        return (
            f"select {keys}, {', '.join(self.columns)} from {self.name}"
            f" where shard = $1 order by {keys}"
        )

    def call(self, key: Any) -> str:
        """A row in words: by what it is found by."""
        values = key if len(self.key) > 1 else (key,)
        by = ", ".join(f"{name} {value}" for name, value in zip(self.key, values, strict=True))
        return f"{self.noun} ({by})"


_ORDERS = Table("orders", "order", ("order_id",), (*_OUTCOME, *_REQUEST))
_FILLS = Table("fills", "fill", ("market_id", "trade_id", "maker"), FillOutcome._fields)
_OPEN_POSITIONS = Table(
    "open_positions", "open position", ("account_id", "market_id"), OpenPosition._fields
)
_CLOSED_POSITIONS = Table(
    "closed_positions", "closed position", ("log_seq", "event_index"), ClosedPosition._fields
)
_OPEN_CFDS = Table("open_cfds", "open CFD", ("cfd_id",), OpenCfd._fields)
_CLOSED_CFDS = Table("closed_cfds", "closed CFD", ("cfd_id",), (*OpenCfd._fields, *CfdEnd._fields))
_LIQUIDATIONS = Table("liquidations", "liquidation", ("liquidation_id",), Liquidation._fields)
TABLES = (
    *(_ORDERS, _FILLS, _OPEN_POSITIONS, _CLOSED_POSITIONS),
    *(_OPEN_CFDS, _CLOSED_CFDS, _LIQUIDATIONS),
)


async def compare_history(report: Report, connection: Connection, shard: int, audit: Audit) -> None:
    """Orders, fills, positions, CFDs and liquidations against the replay that stands where they do.

    Call it in a transaction of one snapshot.
    """
    trail = audit.positions

    async def compare(
        check: Check,
        table: Table,
        expected: Mapping[Key, Row],
        values_of: Callable[[Any], tuple[Any, ...]] = tuple,
    ) -> None:
        rows = connection.cursor(table.query(), shard, prefetch=_ROWS_AT_ONCE)
        await _compare(check, rows, table, expected, values_of)

    orders = report.check("order history = replay")
    await compare(orders, _ORDERS, audit.orders, _order_values)
    await compare(report.check("fill history = replay"), _FILLS, audit.fills)
    positions = report.check("position history = replay")
    await compare(positions, _OPEN_POSITIONS, trail.open_positions)
    await compare(positions, _CLOSED_POSITIONS, trail.closed_positions)
    cfds = report.check("CFD history = replay")
    await compare(cfds, _OPEN_CFDS, trail.open_cfds)
    await compare(cfds, _CLOSED_CFDS, trail.closed_cfds, lambda row: (*row[0], *row[1]))
    await compare(report.check("liquidations = replay"), _LIQUIDATIONS, trail.liquidations)


async def _compare(
    check: Check,
    rows: AsyncIterable[Any],
    table: Table,
    expected: Mapping[Key, Row],
    values_of: Callable[[Row], tuple[Any, ...]],
) -> None:
    """Every row of a table; `expected` has what it must say by its key."""
    missing = set(expected)
    keys = len(table.key)
    async for record in rows:
        check.compared += 1
        stored = tuple(record)
        key: Any = stored[0] if keys == 1 else stored[:keys]
        row = expected.get(key)
        if row is None:
            check.differences.append(f"{table.call(key)}: is not in the replay")
            continue
        if key not in missing:
            check.differences.append(f"{table.call(key)}: is there more than once")
        missing.discard(key)
        wanted = values_of(row)
        if stored[keys:] != wanted:
            check.differences += [
                f"{table.call(key)}: {column} is {has!r}, by the replay {wants!r}"
                for column, has, wants in zip(table.columns, stored[keys:], wanted, strict=True)
                if has != wants
            ]
    check.differences += [
        f"{table.call(key)}: is not in the history"
        for key in sorted(missing)  # type: ignore[type-var]
    ]
