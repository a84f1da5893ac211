"""LedgerService: decode, call, encode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
import grpc
from tidebook.settlement.v1 import ledger_pb2, ledger_pb2_grpc

from kernel.money import INT64_MAX
from kernel.reasons import Reason, Refused
from mesh.identity import require
from mesh.log import GENESIS_HASH
from services.settlement.books_report import reconciliation_to_proto
from services.settlement.catalog import Catalog
from services.settlement.domain.ledger import LedgerKind
from services.settlement.history import entry_key, entry_to_proto, timestamp, transfer_to_proto
from services.settlement.lifecycle import LifecycleWorker
from services.settlement.paging import make_token, page_size, read_token
from services.settlement.reconciliation import Reconciliation
from services.settlement.shards import ShardBooks
from services.settlement.store.archive import Link, archive_end, read_links
from services.settlement.store.pages import Span
from services.settlement.store.reading import list_balances, list_entries
from services.settlement.store.sessions import for_a_call
from services.settlement.transfers import Transfers

Context = grpc.aio.ServicerContext[Any, Any]


class LedgerServicer(ledger_pb2_grpc.LedgerServiceServicer):
    """Transfers, balances and books. The account is always the caller's."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        catalog: Catalog,
        transfers: Transfers,
        reconciliation: Reconciliation,
        shards: Sequence[ShardBooks],
        lifecycle: LifecycleWorker,
    ) -> None:
        self._pool = pool
        self._catalog = catalog
        self._transfers = transfers
        self._reconciliation = reconciliation
        self._shards = shards
        self._lifecycle = lifecycle

    async def CreateDeposit(
        self, request: ledger_pb2.CreateDepositRequest, context: Context
    ) -> ledger_pb2.CreateDepositResponse:
        account_id = require("trade").account_id
        row = await self._transfers.deposit(
            account_id, request.request_id, request.asset, request.amount, shard=request.shard
        )
        return ledger_pb2.CreateDepositResponse(
            transfer=await transfer_to_proto(self._catalog, row)
        )

    async def CreateShardTransfer(
        self, request: ledger_pb2.CreateShardTransferRequest, context: Context
    ) -> ledger_pb2.CreateShardTransferResponse:
        account_id = require("trade").account_id
        row = await self._transfers.between_shards(
            account_id,
            request.request_id,
            request.asset,
            request.amount,
            from_shard=request.from_shard,
            to_shard=request.to_shard,
        )
        return ledger_pb2.CreateShardTransferResponse(
            transfer=await transfer_to_proto(self._catalog, row)
        )

    async def CreateWithdrawal(
        self, request: ledger_pb2.CreateWithdrawalRequest, context: Context
    ) -> ledger_pb2.CreateWithdrawalResponse:
        account_id = require("withdraw").account_id
        row = await self._transfers.withdraw(
            account_id,
            request.request_id,
            request.asset,
            request.amount,
            request.address,
            shard=request.shard,
        )
        return ledger_pb2.CreateWithdrawalResponse(
            transfer=await transfer_to_proto(self._catalog, row)
        )

    async def CancelWithdrawal(
        self, request: ledger_pb2.CancelWithdrawalRequest, context: Context
    ) -> ledger_pb2.CancelWithdrawalResponse:
        account_id = require("withdraw").account_id
        row = await self._transfers.cancel_withdrawal(account_id, request.transfer_id)
        return ledger_pb2.CancelWithdrawalResponse(
            transfer=await transfer_to_proto(self._catalog, row)
        )

    async def ListTransfers(
        self, request: ledger_pb2.ListTransfersRequest, context: Context
    ) -> ledger_pb2.ListTransfersResponse:
        account_id = require("read").account_id
        query, size = f"transfers:{account_id}", page_size(request.page_size)
        (before,) = read_token(request.page_token, query, 1) or (INT64_MAX,)
        rows = await self._transfers.list(account_id, before, size + 1)
        page = rows[:size]
        return ledger_pb2.ListTransfersResponse(
            transfers=[await transfer_to_proto(self._catalog, row) for row in page],
            next_page_token=(
                make_token(query, (page[-1]["transfer_id"],)) if len(rows) > size else ""
            ),
        )

    async def ListBalances(
        self, request: ledger_pb2.ListBalancesRequest, context: Context
    ) -> ledger_pb2.ListBalancesResponse:
        account_id = require("read").account_id
        response = ledger_pb2.ListBalancesResponse()
        sums: dict[int, Counter[LedgerKind]] = {}
        async with for_a_call(self._pool) as connection:
            for books in self._shards:
                log_seq, found = await list_balances(connection, books.shard, account_id)
                for asset_id, kinds in found.items():
                    sums.setdefault(asset_id, Counter()).update(kinds)
                if books.shard == 0:
                    response.log_seq = log_seq
                if len(self._shards) > 1:
                    response.shards.add(
                        shard=books.shard, log_seq=log_seq, balances=await self._balances(found)
                    )
        response.balances.extend(await self._balances(sums))
        return response

    async def _balances(
        self, balances: Mapping[int, Mapping[LedgerKind, int]]
    ) -> list[ledger_pb2.LedgerBalance]:
        found = []
        for asset_id, kinds in sorted(balances.items()):
            asset = await self._catalog.asset(asset_id)
            found.append(
                ledger_pb2.LedgerBalance(
                    asset=asset.code,
                    free=asset.format(kinds.get(LedgerKind.CLIENT_FREE, 0)),
                    held=asset.format(kinds.get(LedgerKind.CLIENT_HELD, 0)),
                )
            )
        return found

    async def ListLedgerEntries(
        self, request: ledger_pb2.ListLedgerEntriesRequest, context: Context
    ) -> ledger_pb2.ListLedgerEntriesResponse:
        account_id = require("read").account_id
        query = f"entries:{account_id}:{request.asset}"
        size = page_size(request.page_size)
        before = read_token(request.page_token, query, 3)
        asset_id = None
        if request.asset:
            asset_id = (await self._catalog.asset_named(request.asset)).asset_id
        async with for_a_call(self._pool) as connection:
            rows = await list_entries(
                connection,
                account_id,
                asset_id=asset_id,
                span=Span(),
                before=before,
                limit=size + 1,
            )
        page = rows[:size]
        return ledger_pb2.ListLedgerEntriesResponse(
            entries=[await entry_to_proto(self._catalog, row) for row in page],
            next_page_token=(make_token(query, entry_key(page[-1])) if len(rows) > size else ""),
        )

    async def GetReconciliation(
        self, request: ledger_pb2.GetReconciliationRequest, context: Context
    ) -> ledger_pb2.GetReconciliationResponse:
        books = await self._reconciliation.books()
        overdue = self._lifecycle.overdue
        return await reconciliation_to_proto(self._catalog, books, self._shards, overdue)

    async def GetAccountReconciliation(
        self, request: ledger_pb2.GetAccountReconciliationRequest, context: Context
    ) -> ledger_pb2.GetAccountReconciliationResponse:
        account_id = require("read").account_id
        reconciler = self._shard_books(request.shard).reconciler
        outcome, engine, ledger = await reconciler.account(account_id)
        response = ledger_pb2.GetAccountReconciliationResponse(
            log_seq=outcome.log_seq, time=timestamp(outcome.time_ns), matched=outcome.matched
        )
        found = {key[1] for key in ledger.balances if key[0]} | {key[1] for key in engine.balances}
        for asset_id in sorted(found):
            asset = await self._catalog.asset(asset_id)
            free, held = (
                (account_id, asset_id, int(kind))
                for kind in (LedgerKind.CLIENT_FREE, LedgerKind.CLIENT_HELD)
            )
            has = engine.balances.get((account_id, asset_id), (0, 0))
            response.balances.add(
                asset=asset.code,
                engine_free=asset.format(has[0]),
                engine_held=asset.format(has[1]),
                ledger_free=asset.format(ledger.balances.get(free, 0)),
                ledger_held=asset.format(ledger.balances.get(held, 0)),
                entries_free=asset.format(ledger.entries.get(free, 0)),
                entries_held=asset.format(ledger.entries.get(held, 0)),
                difference=asset.format(outcome.engine_more.get(asset_id, 0)),
            )
        return response

    async def GetProof(
        self, request: ledger_pb2.GetProofRequest, context: Context
    ) -> ledger_pb2.GetProofResponse:
        shard = self._shard_books(request.shard).shard
        first = min(request.from_seq, INT64_MAX)
        # One more in front: its hash is what the range continues.
        count = page_size(request.count) + (1 if first > 1 else 0)
        async with for_a_call(self._pool) as connection:
            links = await read_links(connection, shard, max(1, first - 1), count)
            newest = await archive_end(connection, shard)
        if not links or links[-1].seq < first:
            raise Refused(
                Reason.NOT_FOUND, "the archive does not reach that far yet", field="from_seq"
            )
        before = Link(0, b"", GENESIS_HASH, GENESIS_HASH)
        if first > 1:
            before = links.pop(0)
        return ledger_pb2.GetProofResponse(
            previous_hash=before.hash,
            previous_link=before.link,
            newest_seq=newest.seq,
            links=[ledger_pb2.ProofLink(**link._asdict()) for link in links],
        )

    def _shard_books(self, shard: int) -> ShardBooks:
        for books in self._shards:
            if books.shard == shard:
                return books
        raise Refused(Reason.NOT_FOUND, f"there is no shard {shard}", field="shard")
