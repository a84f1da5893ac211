"""Money in and out: the demo faucet, simulated withdrawals, and the relay that tells the engine."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

import asyncpg
import structlog

from kernel.clock import Clock
from kernel.markets import Asset
from kernel.money import INT64_MAX, parse_units
from kernel.reasons import Reason, Refused
from mesh.aio import Backoff
from mesh.calls import current_call
from mesh.config import Settings
from mesh.status import RETRYABLE
from mesh.telemetry import current_trace, format_traceparent
from services.settlement.catalog import Catalog
from services.settlement.store import transfers as store
from services.settlement.store.database import is_passing, text_of
from services.settlement.store.sessions import for_a_call
from services.settlement.store.transfers import (
    Direction,
    OutboxMessage,
    TransferRequest,
    TransferStatus,
)

_DAY_NS = 86_400 * 10**9
_MS_NS = 10**6
# How long a call waits for the log to confirm a transfer, and how often it looks.
_CONFIRM_SECONDS = 3.0
_LOOK_SECONDS = 0.02
# What is kept of a caller's deadline to answer in.
_ANSWER_SECONDS = 0.1
_RELAY_AT_ONCE = 50
# After an answer the log is waited for; only if it never confirms is the message repeated.
_ANSWERED_NS = 120 * 10**9
# Refusals that leave open whether the engine has applied the transfer or will.
_NO_ANSWER = RETRYABLE | {Reason.INTERNAL, Reason.UNSPECIFIED, Reason.DEADLINE_PASSED}
_RELAY_SECONDS = 0.5

log = structlog.get_logger()


class EnginePort(Protocol):
    """The engine, as far as transfers go."""

    async def apply_transfer(self, message: OutboxMessage, asset: str) -> None:
        """Have a transfer applied, at most once per id.

        Returning means that it is on its way into the log; only the log confirms it. Raises
        `Refused`, which does not mean that it will not be applied.
        """
        ...


class Transfers:
    """What clients can do with transfers."""

    def __init__(
        self, pool: asyncpg.Pool, catalog: Catalog, settings: Settings, clock: Clock
    ) -> None:
        # Set when there is something new for the relay.
        self.written = asyncio.Event()
        self._pool = pool
        self._catalog = catalog
        self._shards = settings.shard_map
        self._simulated = settings.faucet_enabled
        self._per_deposit, self._per_day = settings.faucet_limits()
        self._withdrawn_per_day = settings.withdrawal_limits()
        self._clock = clock

    async def deposit(
        self, account_id: int, request_id: str, asset: str, amount: str, *, shard: int = 0
    ) -> asyncpg.Record:
        """Bring money in from the faucet; the transfer, completed if the log is quick.

        Raises `Refused`: NOT_FOUND (shard), ASSET_NOT_FOUND, AMOUNT_INVALID, AMOUNT_TOO_PRECISE,
        FAUCET_LIMIT_REACHED, IDEMPOTENCY_CONFLICT, UNSUPPORTED outside demo and dev mode.
        """
        self._check_simulated("deposits need an on-ramp, and none is connected")
        self._shards.check(shard)
        of = await self._catalog.asset_named(asset)
        units = _parse_amount(of, amount)
        request = TransferRequest(
            account_id, request_id, Direction.DEPOSIT, of.asset_id, units, shard=shard
        )
        return await self._request(request, of)

    async def between_shards(
        self,
        account_id: int,
        request_id: str,
        asset: str,
        amount: str,
        *,
        from_shard: int,
        to_shard: int,
    ) -> asyncpg.Record:
        """Move a trading balance: debited on the one shard, then credited on the other.

        Raises `Refused`: NOT_FOUND for a shard, INVALID_ARGUMENT for the same one twice,
        ASSET_NOT_FOUND, AMOUNT_INVALID, AMOUNT_TOO_PRECISE, IDEMPOTENCY_CONFLICT. Too little money
        makes a FAILED transfer.
        """
        self._shards.check(from_shard, "from_shard")
        self._shards.check(to_shard, "to_shard")
        if from_shard == to_shard:
            raise Refused(Reason.INVALID_ARGUMENT, "it is there already", field="to_shard")
        of = await self._catalog.asset_named(asset)
        # It stays in the house: the engine's precision, not that of money in and out.
        units = of.parse(amount)
        if not units:
            raise Refused(Reason.AMOUNT_INVALID, "must be more than zero", field="amount")
        request = TransferRequest(
            account_id,
            request_id,
            Direction.SHARD,
            of.asset_id,
            units,
            shard=from_shard,
            to_shard=to_shard,
        )
        return await self._request(request, of)

    async def withdraw(
        self,
        account_id: int,
        request_id: str,
        asset: str,
        amount: str,
        address: str,
        *,
        shard: int = 0,
    ) -> asyncpg.Record:
        """Take money out, after a while in which it can be called back. The payout is simulated.

        Raises `Refused`: ASSET_NOT_FOUND, AMOUNT_INVALID, AMOUNT_TOO_PRECISE,
        WITHDRAWAL_LIMIT_REACHED, IDEMPOTENCY_CONFLICT, UNSUPPORTED outside demo and dev mode. Too
        little money makes a FAILED transfer.
        """
        self._check_simulated("withdrawals need a payout provider, and none is connected")
        self._shards.check(shard)
        of = await self._catalog.asset_named(asset)
        units = _parse_amount(of, amount)
        request = TransferRequest(
            account_id, request_id, Direction.WITHDRAWAL, of.asset_id, units, address, shard
        )
        return await self._request(request, of)

    async def cancel_withdrawal(self, account_id: int, transfer_id: int) -> asyncpg.Record:
        """Call a withdrawal back.

        Raises `Refused`: TRANSFER_NOT_FOUND, TRANSFER_NOT_CANCELLABLE.
        """
        # PostgreSQL would not even take it.
        if transfer_id > INT64_MAX:
            raise Refused(Reason.TRANSFER_NOT_FOUND, field="transfer_id")
        async with for_a_call(self._pool) as connection:
            now_ns = self._clock.now_ns()
            marked = await store.call_back(connection, account_id, transfer_id, now_ns)
            row = await store.get_transfer(connection, account_id, transfer_id)
        if row is None or row["direction"] != Direction.WITHDRAWAL:
            raise Refused(Reason.TRANSFER_NOT_FOUND, field="transfer_id")
        if not marked and row["status"] != TransferStatus.CANCELLED:
            raise Refused(Reason.TRANSFER_NOT_CANCELLABLE, "the withdrawal has been sent")
        self.written.set()
        return await self._confirmed(row, {TransferStatus.PENDING, TransferStatus.HELD})

    async def list(self, account_id: int, before_id: int, limit: int) -> list[asyncpg.Record]:
        """Transfers of the account with a smaller id, newest first."""
        async with for_a_call(self._pool) as connection:
            return await store.list_transfers(connection, account_id, before_id, limit)

    def _check_simulated(self, otherwise: str) -> None:
        if not self._simulated:
            raise Refused(Reason.UNSUPPORTED, otherwise)

    async def _request(self, request: TransferRequest, asset: Asset) -> asyncpg.Record:
        trace = current_trace()
        async with for_a_call(self._pool) as connection, connection.transaction():
            await store.lock_account(connection, request.account_id)
            row = await store.find_request(connection, request.account_id, request.request_id)
            if row is not None:
                _check_same(row, request)
            else:
                now_ns = self._clock.now_ns()
                taken = await store.asked_since(
                    connection,
                    request.account_id,
                    request.direction,
                    request.asset_id,
                    now_ns - _DAY_NS,
                )
                if request.direction is Direction.DEPOSIT:
                    self._check_faucet(asset, request.amount_units, taken)
                elif request.direction is Direction.WITHDRAWAL:
                    self._check_withdrawals(asset, request.amount_units, taken)
                row = await store.add_transfer(
                    connection,
                    request,
                    traceparent=format_traceparent(trace) if trace else "",
                    now_ns=now_ns,
                )
        self.written.set()
        waiting = {TransferStatus.PENDING}
        if request.direction is Direction.SHARD:
            waiting.add(TransferStatus.HELD)
        return await self._confirmed(row, waiting)

    def _check_faucet(self, asset: Asset, units: int, taken: int) -> None:
        most = asset.parse(self._per_deposit.get(asset.code, "0"))
        if units > most:
            raise Refused(
                Reason.FAUCET_LIMIT_REACHED,
                f"the faucet gives at most {asset.format(most)} {asset.code} at once",
                field="amount",
                limit=asset.format(most),
            )
        self._check_day(
            Reason.FAUCET_LIMIT_REACHED, "the faucet gives", self._per_day, asset, units, taken
        )

    def _check_withdrawals(self, asset: Asset, units: int, taken: int) -> None:
        self._check_day(
            Reason.WITHDRAWAL_LIMIT_REACHED,
            "an account may withdraw",
            self._withdrawn_per_day,
            asset,
            units,
            taken,
        )

    @staticmethod
    def _check_day(
        reason: Reason, what: str, limits: dict[str, str], asset: Asset, units: int, taken: int
    ) -> None:
        most = asset.parse(limits.get(asset.code, "0"))
        if taken + units > most:
            left = asset.format(max(0, most - taken))
            raise Refused(
                reason,
                f"{what} at most {asset.format(most)} {asset.code} in 24 hours: {left} is left",
                field="amount",
                limit=asset.format(most),
                left=left,
            )

    async def _confirmed(self, row: asyncpg.Record, waiting: set[TransferStatus]) -> asyncpg.Record:
        """The transfer as the log confirms it, or as it is when that takes too long."""
        left = current_call().remaining_seconds()
        patience = (
            _CONFIRM_SECONDS if left is None else min(_CONFIRM_SECONDS, left - _ANSWER_SECONDS)
        )
        deadline = time.monotonic() + patience
        while row["status"] in waiting and time.monotonic() < deadline:
            await asyncio.sleep(_LOOK_SECONDS)
            # The applier may be in another process, so its work is looked for where it lands.
            async with for_a_call(self._pool) as connection:
                row = (
                    await store.get_transfer(connection, row["account_id"], row["transfer_id"])
                    or row
                )
        return row


class TransferWorker:
    """Sends what is in the outbox, for one `shard` or for all (None), pays withdrawals out, and
    reverses those called back.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        catalog: Catalog,
        engine: EnginePort,
        settings: Settings,
        clock: Clock,
        written: asyncio.Event,
        *,
        shard: int | None = None,
    ) -> None:
        self._shard = shard
        self._pool = pool
        self._catalog = catalog
        self._engine = engine
        self._payout_delay_ns = settings.payout_delay_ms * _MS_NS
        self._clock = clock
        self._written = written

    async def run(self) -> None:
        """For ever, through any failure of the database or the engine."""
        backoff = Backoff(first_seconds=0.2, most_seconds=5.0)
        while True:
            self._written.clear()
            try:
                busy = await self.run_once()
            except Exception as error:
                if not is_passing(error) and not isinstance(error, Refused):
                    raise
                log.warning("transfers_wait_for_database", error=text_of(error))
                await backoff.wait()
                continue
            backoff.reset()
            if not busy:
                try:
                    await asyncio.wait_for(self._written.wait(), _RELAY_SECONDS)
                except TimeoutError:
                    continue

    async def run_once(self) -> bool:
        """One round; whether there may be more to do at once."""
        now_ns = self._clock.now_ns()
        async with for_a_call(self._pool) as connection:
            paid = await store.pay_out(connection, now_ns - self._payout_delay_ns, now_ns)
            reversed_ = await store.reverse_called_back(connection, now_ns)
            messages = await store.claim_messages(connection, now_ns, _RELAY_AT_ONCE, self._shard)
        if paid or reversed_:
            log.info("withdrawals_moved", paid_simulated=paid, called_back=reversed_)
        await asyncio.gather(*(self._send(message) for message in messages))
        return len(messages) == _RELAY_AT_ONCE

    async def _send(self, message: OutboxMessage) -> None:
        asset = await self._catalog.asset(message.asset_id)
        error, answered = "", True
        try:
            await self._engine.apply_transfer(message, asset.code)
        except Refused as refused:
            error, answered = text_of(refused), refused.reason not in _NO_ANSWER
            log.warning(
                "transfer_not_accepted",
                engine_transfer_id=message.engine_transfer_id,
                attempts=message.attempts,
                error=error,
            )
        # An answer is in the log as well, which says it to the applier. Asking again meanwhile
        # could make a refusal that a client has seen into a payment. Without one the engine may or
        # may not have got the message: the backoff goes on.
        patience_ns = self._clock.now_ns() + _ANSWERED_NS if answered else 0
        async with for_a_call(self._pool) as connection:
            await store.note_answer(connection, message.engine_transfer_id, error, patience_ns)


def _parse_amount(asset: Asset, amount: str) -> int:
    """Decimal string -> units, with no more decimals than transfers of the asset have."""
    steps = parse_units(amount, asset.transfer_decimals, field="amount")
    if not steps:
        raise Refused(Reason.AMOUNT_INVALID, "must be more than zero", field="amount")
    return asset.parse(amount)


def _check_same(row: asyncpg.Record, request: TransferRequest) -> None:
    names = ("direction", "asset_id", "amount_units", "address", "shard", "to_shard")
    if any(row[name] != getattr(request, name) for name in names):
        raise Refused(
            Reason.IDEMPOTENCY_CONFLICT,
            "this request_id was used for another transfer",
            field="request_id",
        )
