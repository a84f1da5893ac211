"""Money in and out: idempotent, limited, and never lost or doubled between two services."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from redis.asyncio import Redis
from tidebook.settlement.v1 import ledger_pb2

from kernel.clock import ManualClock
from kernel.reasons import Reason, Refused
from mesh.aio import cancel_and_wait
from mesh.config import Settings
from mesh.status import refused_from
from services.settlement.catalog import Catalog
from services.settlement.domain.rows import TransferOutcome
from services.settlement.store import transfers as store
from services.settlement.store.transfer_outcomes import write_outcomes
from services.settlement.store.transfers import (
    Direction,
    OutboxMessage,
    TransferRequest,
    TransferStatus,
)
from services.settlement.transfers import Transfers, TransferWorker
from tests.settlement.rig import Rig, settlement_rig
from tests.settlement.support import USDC, LogMaker, Settlement, Wire
from tests.support import eventually


@pytest_asyncio.fixture
async def rig(settings: Settings, redis: Redis) -> AsyncIterator[Rig]:
    async with settlement_rig(settings, redis) as rig:
        yield rig


async def test_a_deposit_is_completed_by_the_log(rig: Rig) -> None:
    client = rig.client(7)
    transfer = await client.deposit("USDC", "1000.5")
    assert transfer.status == ledger_pb2.TRANSFER_STATUS_COMPLETED
    assert transfer.simulated and transfer.log_seq == rig.engine.maker.seq
    assert await client.balances() == {"USDC": ("1000.5", "0")}


async def test_repeating_a_request_gives_the_first_answer_and_no_more_money(rig: Rig) -> None:
    client = rig.client(7)
    first = await client.deposit("USDC", "100")
    again = await client.deposit("USDC", "100")
    assert again == first
    assert await client.balances() == {"USDC": ("100", "0")}
    with pytest.raises(grpc.aio.AioRpcError) as conflict:
        await client.deposit("USDC", "101")
    assert refused_from(conflict.value).reason is Reason.IDEMPOTENCY_CONFLICT
    # The same id of another account is another request.
    assert (await rig.client(8).deposit("USDC", "101")).amount == "101"


@pytest.mark.parametrize(
    ("asset", "amount", "reason"),
    [
        ("USDC", "0", Reason.AMOUNT_INVALID),
        ("USDC", "0.0000001", Reason.AMOUNT_TOO_PRECISE),
        ("USDC", "100000.000001", Reason.FAUCET_LIMIT_REACHED),
        ("XRP", "1", Reason.ASSET_NOT_FOUND),
    ],
)
async def test_a_bad_deposit_is_refused(rig: Rig, asset: str, amount: str, reason: Reason) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await rig.client(7).deposit(asset, amount)
    assert refused_from(refused.value).reason is reason
    assert rig.engine.calls == []


async def test_the_faucet_has_a_daily_limit_per_account_and_asset(rig: Rig) -> None:
    client = rig.client(7)
    for number in range(5):
        await client.deposit("USDC", "100000", f"d{number}")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.deposit("USDC", "1", "one more")
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT  # a space in the id
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.deposit("USDC", "1", "one-more")
    assert refused_from(refused.value).reason is Reason.FAUCET_LIMIT_REACHED
    assert (await client.deposit("BTC", "5", "coins")).amount == "5"
    assert (await rig.client(8).deposit("USDC", "1", "d0")).amount == "1"
    # What was given is still given.
    assert (await client.deposit("USDC", "100000", "d0")).transfer_id


async def test_a_message_that_gets_lost_is_sent_again(rig: Rig) -> None:
    """The relay's call dies before the engine acts, then after it acted: one deposit in all."""
    engine = rig.engine

    async def lost() -> None:
        if len(engine.calls) == 1:
            raise Refused(Reason.UNAVAILABLE)

    async def answer_lost() -> None:
        if len(engine.calls) == 2:
            raise Refused(Reason.INTERNAL)

    engine.before, engine.after = lost, answer_lost
    client = rig.client(7)
    await client.deposit("USDC", "100")
    await eventually(lambda: _completed(rig, 7))
    assert await client.balances() == {"USDC": ("100", "0")}
    assert len(engine.calls) >= 2 and len(set(engine.calls)) == 1


async def test_a_deposit_survives_a_restart_between_request_and_relay(rig: Rig) -> None:
    engine = rig.engine

    async def down() -> None:
        raise Refused(Reason.UNAVAILABLE)

    async def up() -> None:
        pass

    engine.before = down
    transfer = await rig.client(7).deposit("USDC", "100")
    assert transfer.status == ledger_pb2.TRANSFER_STATUS_PENDING
    await rig.stop()
    engine.before = up
    await rig.start()
    await eventually(lambda: _completed(rig, 7))
    assert await rig.client(7).balances() == {"USDC": ("100", "0")}


async def test_a_relay_that_dies_while_sending_has_only_delayed_the_message(
    settings: Settings, settlement: Settlement, maker: LogMaker, wire: Wire
) -> None:
    await wire.append(maker.begin())
    async with settlement.following():
        await eventually(lambda: _configured(settlement))
    clock = ManualClock(10**18)
    catalog = Catalog(settlement.pool)
    asking = asyncio.create_task(
        Transfers(settlement.pool, catalog, settings, clock).deposit(7, "one", "USDC", "100")
    )
    sent: list[OutboxMessage] = []
    hangs = asyncio.Event()

    class HangingEngine:
        async def apply_transfer(self, message: OutboxMessage, asset: str) -> None:
            sent.append(message)
            hangs.set()
            await asyncio.sleep(3600)

    def relay() -> TransferWorker:
        return TransferWorker(
            settlement.pool, catalog, HangingEngine(), settings, clock, asyncio.Event()
        )

    await eventually(lambda: _waiting(settlement))
    dying = asyncio.create_task(relay().run())
    await hangs.wait()
    await cancel_and_wait(dying, asking)
    assert not await relay().run_once()
    assert len(sent) == 1
    clock.advance(10**9)
    hangs.clear()
    dying = asyncio.create_task(relay().run())
    await hangs.wait()
    await cancel_and_wait(dying)
    first, second = sent
    assert second.engine_transfer_id == first.engine_transfer_id
    assert (first.attempts, second.attempts) == (1, 2)


async def test_a_withdrawal_is_held_paid_and_then_final(rig: Rig) -> None:
    client = rig.client(7)
    await client.deposit("USDC", "100")
    held = await client.withdraw("USDC", "60")
    assert held.status == ledger_pb2.TRANSFER_STATUS_HELD
    assert await client.balances() == {"USDC": ("40", "0")}
    await eventually(lambda: _completed(rig, 7))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _cancel(rig, 7, held.transfer_id)
    assert refused_from(refused.value).reason is Reason.TRANSFER_NOT_CANCELLABLE
    books = await client.call(
        client.ledger.GetReconciliation, ledger_pb2.GetReconciliationRequest()
    )
    (usdc,) = (asset for asset in books.assets if asset.asset == "USDC")
    assert (usdc.deposits, usdc.withdrawals, usdc.clients_free) == ("100", "60", "40")
    assert books.balanced and usdc.difference == "0"


async def test_a_withdrawal_called_back_gives_the_money_back_once(rig: Rig) -> None:
    client = rig.client(7)
    await client.deposit("USDC", "100")
    held = await client.withdraw("USDC", "60")
    cancelled = await _cancel(rig, 7, held.transfer_id)
    assert cancelled.status == ledger_pb2.TRANSFER_STATUS_CANCELLED
    assert (await _cancel(rig, 7, held.transfer_id)).status == cancelled.status
    assert await client.balances() == {"USDC": ("100", "0")}
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _cancel(rig, 8, held.transfer_id)
    assert refused_from(refused.value).reason is Reason.TRANSFER_NOT_FOUND


async def test_a_withdrawal_beyond_the_balance_fails_and_moves_nothing(rig: Rig) -> None:
    client = rig.client(7)
    await client.deposit("USDC", "100")
    failed = await client.withdraw("USDC", "100.01")
    assert failed.status == ledger_pb2.TRANSFER_STATUS_FAILED
    assert failed.failure == "INSUFFICIENT_BALANCE"
    # Asked once: asked again it could succeed after the client was told that it failed.
    assert rig.engine.calls.count(failed.transfer_id) == 1
    assert await client.balances() == {"USDC": ("100", "0")}


async def test_withdrawals_have_a_daily_limit_and_what_failed_does_not_count(rig: Rig) -> None:
    client = rig.client(7)
    await client.deposit("BTC", "5")
    failed = await client.withdraw("BTC", "49", "w1")
    assert failed.status == ledger_pb2.TRANSFER_STATUS_FAILED
    await client.withdraw("BTC", "2", "w2")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.withdraw("BTC", "48.1", "w3")
    reached = refused_from(refused.value)
    assert reached.reason is Reason.WITHDRAWAL_LIMIT_REACHED
    assert reached.details["left"] == "48"
    # Asked again it is the same request, not one more.
    assert (await client.withdraw("BTC", "2", "w2")).transfer_id


async def test_money_needs_the_right_scope(rig: Rig) -> None:
    client = rig.client(7, scopes="read")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.deposit("USDC", "1")
    assert refused_from(refused.value).reason is Reason.SCOPE_MISSING
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await rig.client(7, scopes="read trade").withdraw("USDC", "1")
    assert refused_from(refused.value).reason is Reason.SCOPE_MISSING


async def _configured(settlement: Settlement) -> bool:
    return await settlement.count("assets") > 0


async def _waiting(settlement: Settlement) -> bool:
    return await settlement.count("outbox") > 0


async def _completed(rig: Rig, account_id: int) -> bool:
    transfers = await rig.client(account_id).transfers()
    return all(t.status == ledger_pb2.TRANSFER_STATUS_COMPLETED for t in transfers)


async def _cancel(rig: Rig, account_id: int, transfer_id: int) -> ledger_pb2.Transfer:
    client = rig.client(account_id)
    request = ledger_pb2.CancelWithdrawalRequest(transfer_id=transfer_id)
    answer = await client.call(client.ledger.CancelWithdrawal, request)
    transfer: ledger_pb2.Transfer = answer.transfer
    return transfer


async def test_every_state_of_a_transfer_is_visible(rig: Rig) -> None:
    client, engine = rig.client(7), rig.engine
    await client.deposit("USDC", "100")
    away = True

    async def maybe_away() -> None:
        if away:
            raise Refused(Reason.UNAVAILABLE)

    engine.before = maybe_away
    waiting = await client.withdraw("USDC", "60", "w1")
    also_waiting = await client.withdraw("USDC", "30", "w2")
    assert waiting.status == also_waiting.status == ledger_pb2.TRANSFER_STATUS_PENDING
    assert (waiting.address, waiting.cancelling) == ("somewhere", False)
    # Not yet sent, so it can be called back; that shows until it is done.
    called_back = await _cancel(rig, 7, waiting.transfer_id)
    assert called_back.status == ledger_pb2.TRANSFER_STATUS_PENDING and called_back.cancelling
    too_much = await client.withdraw("USDC", "1000", "w3")
    away = False
    wanted = {
        "one": ledger_pb2.TRANSFER_STATUS_COMPLETED,
        "w1": ledger_pb2.TRANSFER_STATUS_CANCELLED,
        "w2": ledger_pb2.TRANSFER_STATUS_COMPLETED,
        "w3": ledger_pb2.TRANSFER_STATUS_FAILED,
    }
    seen: set[int] = set()

    async def ended() -> bool:
        transfers = await client.transfers()
        seen.update(transfer.status for transfer in transfers)
        return {transfer.request_id: transfer.status for transfer in transfers} == wanted

    await eventually(ended, timeout_s=120)
    assert ledger_pb2.TRANSFER_STATUS_HELD in seen, "held until it is paid"
    failed = next(t for t in await client.transfers() if t.transfer_id == too_much.transfer_id)
    assert failed.failure == "INSUFFICIENT_BALANCE"
    assert await client.balances() == {"USDC": ("70", "0")}


async def test_a_limit_holds_for_requests_at_the_same_moment(rig: Rig) -> None:
    client = rig.client(7)
    asked = [client.deposit("USDC", "100000", f"d{number}") for number in range(8)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert {refused_from(error).reason for error in refused} == {Reason.FAUCET_LIMIT_REACHED}
    assert len(answers) - len(refused) == 5
    await eventually(lambda: _completed(rig, 7))
    assert await client.balances() == {"USDC": ("500000", "0")}


async def test_a_withdrawal_is_paid_or_called_back_and_never_both(
    settings: Settings, settlement: Settlement, maker: LogMaker, wire: Wire
) -> None:
    """Payout and call-back at the same moment, again and again."""
    await wire.append(maker.begin(7))
    await settlement.settle(maker)
    outcomes = set()
    for number in range(30):
        request = TransferRequest(7, f"w{number}", Direction.WITHDRAWAL, USDC, 5, "somewhere")
        async with settlement.pool.acquire() as one, settlement.pool.acquire() as other:
            transfer_id = await settlement.ask(request, 1)
            await one.execute(
                "update transfers set status = $1 where transfer_id = $2",
                *(TransferStatus.HELD, transfer_id),
            )
            both = [store.pay_out(other, 10, 10), store.call_back(one, 7, transfer_id, 10)]
            if number % 2:
                both.reverse()
            done = await asyncio.gather(*both)
            after = await store.get_transfer(one, 7, transfer_id)
            assert after is not None
            status, cancelling = after["status"], after["cancelling"]
            reversals = await store.reverse_called_back(one, 10)
        assert sorted(map(int, done)) == [0, 1]
        assert (status == TransferStatus.COMPLETED) is not cancelling
        assert reversals == cancelling
        outcomes.add(bool(cancelling))
    assert outcomes == {True, False}


async def test_no_new_transfer_gets_an_id_that_a_log_has_had(
    settlement: Settlement,
) -> None:
    """Not while the log that has several of them is being read, either."""

    class Meanwhile:
        """Somebody else wants an id whenever the ledger looks for an outcome."""

        def __init__(self, connection: Any) -> None:
            self.execute = connection.execute
            self._fetchrow = connection.fetchrow
            self.taken: list[int] = []

        async def fetchrow(self, *query: Any) -> Any:
            self.taken.append(await settlement.pool.fetchval("select nextval('transfer_ids')"))
            return await self._fetchrow(*query)

    outcomes = [TransferOutcome(number, 0, 1, 1) for number in (10_003, 10_001, 10_002)]
    async with settlement.pool.acquire() as connection, connection.transaction():
        meanwhile: Any = Meanwhile(connection)
        await write_outcomes(meanwhile, 0, outcomes)
    assert meanwhile.taken == [10_004, 10_005, 10_006]
