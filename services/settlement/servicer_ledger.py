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
from services.settlement.follower import APPLY
from services.settlement.halts import Halts
from services.settlement.history import entry_key, entry_to_proto, timestamp, transfer_to_proto
from services.settlement.paging import make_token, page_size, read_token
from services.settlement.reconciler import Reconciler
from services.settlement.reconciliation import Reconciliation
from services.settlement.store.archive import Link, archive_end, read_links
from services.settlement.store.database import text_of
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
        reconciler: Reconciler,
        halts: Halts,
        reader: LogReader,
        shard: int,
    ) -> None:
        self._pool = pool
        self._catalog = catalog
        self._transfers = transfers
        self._reconciliation = reconciliation
        self._reconciler = reconciler
        self._halts = halts
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
        response = ledger_pb2.GetReconciliationResponse(
            log_seq=books.log_seq,
            newest_log_seq=max(books.log_seq, await self._newest_seq()),
            balanced=books.balanced,
            time=timestamp(books.time_ns),
        )
        totals, outcome = self._reconciler.totals, self._reconciler.newest
        response.compared, response.differing = totals.compared, totals.differing
        response.state = ledger_pb2.RECONCILIATION_STATE_WAITING
        if outcome is not None:
            response.compared_log_seq = outcome.log_seq
            response.compared_time.CopyFrom(timestamp(outcome.time_ns))
            if totals.differing or not outcome.matched:
                response.state = ledger_pb2.RECONCILIATION_STATE_DIFFERS
            elif not self._reconciler.waiting:
                response.state = ledger_pb2.RECONCILIATION_STATE_MATCHED
        if halt := self._halts.of(APPLY):
            response.stopped_log_seq = halt.log_seq
        for sums in books.assets:
            asset = await self._catalog.asset(sums.asset_id)
            response.assets.add(
                asset=asset.code,
                clients_free=asset.format(sums.clients_free),
                clients_held=asset.format(sums.clients_held),
                fees=asset.format(sums.fees),
                insurance=asset.format(sums.insurance),
                house=asset.format(sums.house),
                clearing=asset.format(sums.clearing),
                deposits=asset.format(sums.deposits),
                withdrawals=asset.format(sums.withdrawals),
                difference=asset.format(sums.difference),
                engine_difference=asset.format(totals.engine_more.get(sums.asset_id, 0)),
            )
        return response

    async def GetAccountReconciliation(
        self, request: ledger_pb2.GetAccountReconciliationRequest, context: Context
    ) -> ledger_pb2.GetAccountReconciliationResponse:
        account_id = require("read").account_id
        outcome, engine, ledger = await self._reconciler.account(account_id)
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
        first = min(request.from_seq, INT64_MAX)
        # One more in front: its hash is what the range continues.
        count = page_size(request.count) + (1 if first > 1 else 0)
        async with for_a_call(self._pool) as connection:
            links = await read_links(connection, self._shard, max(1, first - 1), count)
            newest = await archive_end(connection, self._shard)
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

    async def _newest_seq(self) -> int:
        try:
            return await self._reader.last_seq()
        except (RedisError, OSError) as error:
            # The books are what was asked for; how far behind they are is an extra.
            log.warning("log_end_unknown", error=text_of(error))
            return 0
