"""LedgerService: decode, call, encode."""

from __future__ import annotations

from typing import Any

import asyncpg
import grpc
import structlog
from redis.exceptions import RedisError
from tidebook.settlement.v1 import ledger_pb2, ledger_pb2_grpc

from kernel.money import INT64_MAX
from kernel.reasons import Reason, Refused
from mesh.identity import require
from mesh.log import GENESIS_HASH, LogReader
from services.settlement.catalog import Catalog
from services.settlement.domain.ledger import LedgerKind
from services.settlement.history import entry_to_proto, timestamp, transfer_to_proto
from services.settlement.paging import make_token, page_size, read_token
from services.settlement.reconciliation import Reconciliation
from services.settlement.store.archive import read_links
from services.settlement.store.reading import Span, list_balances, list_entries
from services.settlement.store.sessions import for_a_call
from services.settlement.transfers import Transfers

Context = grpc.aio.ServicerContext[Any, Any]
log = structlog.get_logger()


class LedgerServicer(ledger_pb2_grpc.LedgerServiceServicer):
    """Transfers, balances and books. The account is always the caller's."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        catalog: Catalog,
        transfers: Transfers,
        reconciliation: Reconciliation,
        reader: LogReader,
        shard: int,
    ) -> None:
        self._pool = pool
        self._catalog = catalog
        self._transfers = transfers
        self._reconciliation = reconciliation
        self._reader = reader
        self._shard = shard

    async def CreateDeposit(
        self, request: ledger_pb2.CreateDepositRequest, context: Context
    ) -> ledger_pb2.CreateDepositResponse:
        account_id = require("trade").account_id
        row = await self._transfers.deposit(
            account_id, request.request_id, request.asset, request.amount
        )
        return ledger_pb2.CreateDepositResponse(
            transfer=await transfer_to_proto(self._catalog, row)
        )

    async def CreateWithdrawal(
        self, request: ledger_pb2.CreateWithdrawalRequest, context: Context
    ) -> ledger_pb2.CreateWithdrawalResponse:
        account_id = require("withdraw").account_id
        row = await self._transfers.withdraw(
            account_id, request.request_id, request.asset, request.amount, request.address
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
        async with for_a_call(self._pool) as connection:
            log_seq, balances = await list_balances(connection, self._shard, account_id)
        response = ledger_pb2.ListBalancesResponse(log_seq=log_seq)
        for asset_id, kinds in balances.items():
            asset = await self._catalog.asset(asset_id)
            response.balances.add(
                asset=asset.code,
                free=asset.format(kinds.get(LedgerKind.CLIENT_FREE, 0)),
                held=asset.format(kinds.get(LedgerKind.CLIENT_HELD, 0)),
            )
        return response

    async def ListLedgerEntries(
        self, request: ledger_pb2.ListLedgerEntriesRequest, context: Context
    ) -> ledger_pb2.ListLedgerEntriesResponse:
        account_id = require("read").account_id
        query = f"entries:{account_id}:{request.asset}"
        size = page_size(request.page_size)
        before = read_token(request.page_token, query, 1)
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
            next_page_token=(
                make_token(query, (page[-1]["entry_id"],)) if len(rows) > size else ""
            ),
        )

    async def GetReconciliation(
        self, request: ledger_pb2.GetReconciliationRequest, context: Context
    ) -> ledger_pb2.GetReconciliationResponse:
        books = await self._reconciliation.books()
        response = ledger_pb2.GetReconciliationResponse(
            log_seq=books.log_seq,
            newest_log_seq=max(books.log_seq, await self._newest_seq()),
            balanced=books.balanced,
            time=timestamp(books.time_ns),
        )
        for sums in books.assets:
            asset = await self._catalog.asset(sums.asset_id)
            response.assets.add(
                asset=asset.code,
                clients_free=asset.format(sums.clients_free),
                clients_held=asset.format(sums.clients_held),
                fees=asset.format(sums.fees),
                insurance=asset.format(sums.insurance),
                house=asset.format(sums.house),
                deposits=asset.format(sums.deposits),
                withdrawals=asset.format(sums.withdrawals),
                difference=asset.format(sums.difference),
            )
        return response

    async def GetProof(
        self, request: ledger_pb2.GetProofRequest, context: Context
    ) -> ledger_pb2.GetProofResponse:
        first = min(request.from_seq, INT64_MAX)
        # One more in front: its hash is what the range continues.
        count = page_size(request.count) + (1 if first > 1 else 0)
        async with for_a_call(self._pool) as connection:
            links = await read_links(connection, self._shard, max(1, first - 1), count)
        if not links or links[-1][0] < first:
            raise Refused(
                Reason.NOT_FOUND, "the archive does not reach that far yet", field="from_seq"
            )
        previous = GENESIS_HASH
        if first > 1:
            previous = links.pop(0)[2]
        return ledger_pb2.GetProofResponse(
            previous_hash=previous,
            links=[
                ledger_pb2.ProofLink(seq=seq, payload_sha256=payload_sha256, hash=link_hash)
                for seq, payload_sha256, link_hash in links
            ],
        )

    async def _newest_seq(self) -> int:
        try:
            return await self._reader.last_seq()
        except (RedisError, OSError) as error:
            # The books are what was asked for; how far behind they are is an extra.
            log.warning("log_end_unknown", error=str(error))
            return 0
