"""The play money that a new account begins with, while there is a faucet.

It is an ordinary deposit from settlement's faucet, asked for with the account's own new token and
one fixed request id for each asset, so it happens once however often it is asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import grpc
import structlog
from tidebook.settlement.v1 import ledger_pb2, ledger_pb2_grpc

from kernel.reasons import Reason, Refused
from mesh.aio import cancel_and_wait
from mesh.status import refused_from

_REQUEST_ID = "play-balance-"
_TIMEOUT_SECONDS = 3.0
log = structlog.get_logger("tidebook.auth.welcome")


class Welcome:
    """Gives `amounts` (asset code -> decimal string) to accounts; with none it does nothing."""

    def __init__(
        self, ledger: ledger_pb2_grpc.LedgerServiceAsyncStub, amounts: Mapping[str, str]
    ) -> None:
        self._ledger = ledger
        self._amounts = amounts
        self._giving: set[asyncio.Task[None]] = set()

    async def give(self, access_token: str) -> None:
        """Give what the account has not had; without settlement that waits for the next sign-in."""
        for asset, amount in self._amounts.items():
            request = ledger_pb2.CreateDepositRequest(
                asset=asset, amount=amount, request_id=_REQUEST_ID + asset
            )
            try:
                await self._ledger.CreateDeposit(
                    request,
                    metadata=(("authorization", f"Bearer {access_token}"),),
                    timeout=_TIMEOUT_SECONDS,
                )
            except (grpc.RpcError, Refused) as error:
                refused = error if isinstance(error, Refused) else refused_from(error)
                # A conflict: it was given before, when the amount was another.
                if refused.reason is not Reason.IDEMPOTENCY_CONFLICT:
                    log.warning("play_balance_waits", asset=asset, reason=refused.reason.name)

    def give_later(self, access_token: str) -> None:
        """The same, without keeping anybody waiting."""
        if self._amounts:
            task = asyncio.create_task(self.give(access_token))
            self._giving.add(task)
            task.add_done_callback(self._giving.discard)

    async def close(self) -> None:
        """Stop giving; the next sign-in goes on."""
        await cancel_and_wait(*self._giving)
