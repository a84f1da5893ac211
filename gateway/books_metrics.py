"""The books as metrics: how far ledger and archive are, and whether everything still agrees."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

import grpc
from tidebook.settlement.v1 import ledger_pb2, ledger_pb2_grpc

from gateway.metrics import Family, Sample
from kernel.reasons import Refused

Shard = ledger_pb2.ShardPosition
_KEEP_SECONDS = 1.0
# A scrape waits no longer for settlement than this.
_TIMEOUT_SECONDS = 2.0


class BooksMetrics:
    """Asks settlement for its reconciliation, at most once a second."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        self._asking = asyncio.Lock()
        self._known: list[Family] = []
        self._known_at = 0.0

    async def __call__(self) -> Iterable[Family]:
        """What there is to say now; only that it is down of a settlement that does not answer."""
        async with self._asking:
            if not self._known or time.monotonic() - self._known_at > _KEEP_SECONDS:
                self._known = await self._ask()
                self._known_at = time.monotonic()
            return self._known

    async def _ask(self) -> list[Family]:
        try:
            books = await self._stub.GetReconciliation(
                ledger_pb2.GetReconciliationRequest(), timeout=_TIMEOUT_SECONDS
            )
        except (grpc.RpcError, Refused):
            return [_up(0)]
        return [_up(1), _overdue(books.overdue), *_of_assets(books), *_of_shards(books)]


def _up(value: int) -> Family:
    text = "Whether settlement answers; without it the other metrics of the books are missing"
    return Family("tidebook_settlement_up", "gauge", text, (Sample({}, value),))


def _overdue(count: int) -> Family:
    text = "Transfers and orders that should have ended by now and have not"
    return Family("tidebook_overdue", "gauge", text, (Sample({}, count),))


def _of_assets(books: ledger_pb2.GetReconciliationResponse) -> list[Family]:
    wrong = {asset.asset: asset.difference != "0" for asset in books.assets}
    differs = {asset.asset: asset.engine_difference != "0" for asset in books.assets}
    return [
        Family(name, "gauge", text, [Sample({"asset": code}, int(bad)) for code, bad in by.items()])
        for name, text, by in (
            ("tidebook_books_unbalanced", "1 for an asset whose books do not add up", wrong),
            (
                "tidebook_engine_differs",
                "1 for an asset that engine and ledger differ in",
                differs,
            ),
        )
    ]


def _of_shards(books: ledger_pb2.GetReconciliationResponse) -> list[Family]:
    now = books.time.ToNanoseconds() / 1e9
    rows: tuple[tuple[str, str, Callable[[Shard], int | float | None]], ...] = (
        ("log_position", "Newest entry of the log", lambda shard: shard.newest_log_seq),
        ("ledger_position", "Log entry the ledger is at", lambda shard: shard.log_seq),
        ("archive_position", "Newest entry archived", lambda shard: shard.archived_log_seq),
        (
            "ledger_lag_entries",
            "Log entries that the ledger has not got",
            lambda shard: shard.newest_log_seq - shard.log_seq,
        ),
        (
            "ledger_lag_seconds",
            "Age of the oldest log entry that the ledger has not got",
            lambda shard: shard.behind_ms / 1000,
        ),
        (
            "ledger_halted",
            "1 when ledger or archive have stopped for good and wait for an operator",
            lambda shard: int(bool(shard.halted)),
        ),
        (
            "reconciliation_matched",
            "1 when engine, ledger and archive were the same the last time, 0 when they differ",
            lambda shard: int(shard.state != ledger_pb2.RECONCILIATION_STATE_DIFFERS),
        ),
        (
            "reconciliation_differences",
            "Balances that are not the same everywhere",
            lambda shard: shard.differing,
        ),
        (
            "reconciliation_compared",
            "Balances compared in the current pass",
            lambda shard: shard.compared,
        ),
        (
            "reconciliation_age_seconds",
            "Time since some accounts were compared",
            lambda shard: _since(now, shard, "compared_time"),
        ),
        (
            "reconciliation_pass_age_seconds",
            "Time since all accounts had been compared",
            lambda shard: _since(now, shard, "whole_pass_time"),
        ),
    )
    return [
        Family(
            f"tidebook_{name}",
            "gauge",
            text,
            [
                Sample({"shard": str(shard.shard)}, value)
                for shard in books.shards
                if (value := read(shard)) is not None
            ],
        )
        for name, text, read in rows
    ]


def _since(now: float, shard: Shard, field: str) -> float | None:
    if not shard.HasField(field):  # type: ignore[arg-type]
        return None
    then: float = getattr(shard, field).ToNanoseconds() / 1e9
    return round(max(0.0, now - then), 3)
