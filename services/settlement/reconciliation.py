"""The books on one page: what clients have and the exchange took is what came in and stayed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from services.settlement.domain.ledger import LedgerKind
from services.settlement.store.reading import totals
from services.settlement.store.sessions import for_a_call

# The question is open to everyone, and answering it reads every balance.
_KEEP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class AssetBooks:
    """Totals of one asset in units. `difference` is what does not add up: always 0."""

    asset_id: int
    clients_free: int
    clients_held: int
    fees: int
    insurance: int
    house: int
    clearing: int
    deposits: int
    withdrawals: int

    @property
    def difference(self) -> int:
        clients = self.clients_free + self.clients_held
        inside = clients + self.fees + self.insurance + self.house + self.clearing
        return inside - (self.deposits - self.withdrawals)


@dataclass(frozen=True, slots=True)
class Books:
    """All assets over all shards, each at one position of its log (`log_seqs`), and when (Unix ns)
    that was worked out.
    """

    log_seqs: dict[int, int]
    time_ns: int
    assets: tuple[AssetBooks, ...]

    @property
    def balanced(self) -> bool:
        return not any(asset.difference for asset in self.assets)


def books_of(asset_id: int, sums: Mapping[LedgerKind, int]) -> AssetBooks:
    """The books of an asset from the sum of balances of each kind."""
    return AssetBooks(
        asset_id=asset_id,
        clients_free=sums.get(LedgerKind.CLIENT_FREE, 0),
        clients_held=sums.get(LedgerKind.CLIENT_HELD, 0),
        fees=sums.get(LedgerKind.FEES, 0),
        insurance=sums.get(LedgerKind.INSURANCE, 0),
        house=sums.get(LedgerKind.HOUSE, 0),
        clearing=sums.get(LedgerKind.CLEARING, 0),
        deposits=-sums.get(LedgerKind.DEPOSITS, 0),
        withdrawals=sums.get(LedgerKind.WITHDRAWALS, 0),
    )


class Reconciliation:
    """Adds the books up, at most once a second."""

    def __init__(self, pool: asyncpg.Pool, shards: Sequence[int]) -> None:
        self._pool = pool
        self._shards = shards
        self._adding = asyncio.Lock()
        self._books: Books | None = None
        self._expires = 0.0

    async def books(self) -> Books:
        """The books, at most a second old."""
        async with self._adding:
            if self._books is None or time.monotonic() >= self._expires:
                log_seqs: dict[int, int] = {}
                sums: dict[int, Counter[LedgerKind]] = {}
                async with for_a_call(self._pool) as connection:
                    # What is under way between two shards is in the books of neither, and each
                    # shard's books add up by themselves: their sum does whatever the moment.
                    for shard in self._shards:
                        log_seqs[shard], found = await totals(connection, shard)
                        for asset_id, kinds in found.items():
                            sums.setdefault(asset_id, Counter()).update(kinds)
                assets = tuple(books_of(asset_id, sums[asset_id]) for asset_id in sorted(sums))
                self._books = Books(log_seqs, time.time_ns(), assets)
                self._expires = time.monotonic() + _KEEP_SECONDS
            return self._books
