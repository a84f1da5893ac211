"""The play money of a new account: once, also when settlement is away or auth is restarted."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tidebook.auth.v1 import auth_pb2 as pb
from tidebook.settlement.v1 import ledger_pb2, ledger_pb2_grpc

from kernel.reasons import Reason, Refused
from mesh.config import Settings
from mesh.identity import require
from mesh.server import ServiceHost
from mesh.tokens import TokenVerifier, decode_key
from tests.auth.conftest import Auth, MailServer, running_auth
from tests.support import eventually, free_ports


class SmallSettlement(ledger_pb2_grpc.LedgerServiceServicer):
    """Deposits by request id, as the real one has them; can be told to refuse."""

    def __init__(self) -> None:
        # (account, request id) -> (asset, amount) of what was given.
        self.given: dict[tuple[int, str], tuple[str, str]] = {}
        self.asked = 0
        self.refusing: Reason | None = None

    async def CreateDeposit(
        self, request: ledger_pb2.CreateDepositRequest, context: Any
    ) -> ledger_pb2.CreateDepositResponse:
        self.asked += 1
        key = (require("trade").account_id, request.request_id)
        wanted = (request.asset, request.amount)
        if self.refusing is not None:
            raise Refused(self.refusing)
        if self.given.setdefault(key, wanted) != wanted:
            raise Refused(Reason.IDEMPOTENCY_CONFLICT)
        return ledger_pb2.CreateDepositResponse()

    def of(self, account_id: int) -> list[tuple[str, str]]:
        return sorted(what for (account, _), what in self.given.items() if account == account_id)


@contextlib.asynccontextmanager
async def running_settlement(settings: Settings, auth: Auth) -> AsyncIterator[SmallSettlement]:
    """Settlement's listeners, with `auth`'s keys."""

    async def keys() -> dict[str, bytes]:
        published = await auth.stub.GetSigningKeys(pb.GetSigningKeysRequest())
        return {key.kid: decode_key(key.x) for key in published.keys}

    settlement = SmallSettlement()  # type: ignore[abstract]
    host = await ServiceHost.start(
        settings,
        service="settlement",
        public=[(ledger_pb2_grpc.add_LedgerServiceServicer_to_server, settlement)],
        verifier=TokenVerifier(keys, clock=auth.clock),
    )
    try:
        await host.set_serving(True)
        yield settlement
    finally:
        await host.drain()


@pytest.fixture
def giving(settings: Settings) -> Settings:
    """Settings with play money in two assets, and ports for settlement."""
    return settings.model_copy(
        update={
            "play_balance": "USDC=5000,BTC=0.1",
            "settlement_port": free_ports([0, 100]),
            "drain_seconds": 1.0,
        }
    )


BOTH = [("BTC", "0.1"), ("USDC", "5000")]


async def test_a_new_account_has_it_when_the_sign_up_is_answered(
    giving: Settings, mail_server: MailServer
) -> None:
    async with (
        running_auth(giving, mail_server) as auth,
        running_settlement(giving, auth) as settlement,
    ):
        ann = await auth.sign_up()
        assert settlement.of(ann.user.account_id) == BOTH


async def test_it_is_given_once_whatever_is_restarted_and_however_often_one_signs_in(
    giving: Settings, mail_server: MailServer
) -> None:
    async with (
        running_auth(giving, mail_server) as auth,
        running_settlement(giving, auth) as settlement,
    ):
        ann, bob = await auth.sign_up(), await auth.sign_up()
        asked = settlement.asked
        await auth.sign_in(ann)
        await eventually(lambda: settlement.asked == asked + 2)
        before = dict(settlement.given)
    # The operator has changed the amount since: who has had it gets no second one.
    changed = giving.model_copy(update={"play_balance": "USDC=7000,BTC=0.1"})
    async with (
        running_auth(changed, mail_server) as auth,
        running_settlement(changed, auth) as settlement,
    ):
        settlement.given.update(before)
        await auth.sign_in(ann)
        await auth.sign_in(bob)
        await eventually(lambda: settlement.asked == 4)
        assert settlement.given == before


async def test_without_settlement_a_sign_up_works_and_a_later_sign_in_brings_it(
    giving: Settings, mail_server: MailServer
) -> None:
    async with running_auth(giving, mail_server) as auth:
        ann = await auth.sign_up()
        assert (await auth.sign_in(ann)).user == ann.user
    # A new auth in between, so that nothing in memory is what brings it.
    async with (
        running_auth(giving, mail_server) as auth,
        running_settlement(giving, auth) as settlement,
    ):
        settlement.refusing = Reason.UNAVAILABLE
        await auth.sign_in(ann)
        await eventually(lambda: settlement.asked >= 2)
        assert settlement.of(ann.user.account_id) == []
        settlement.refusing = None

        async def brought() -> None:
            await auth.sign_in(ann)
            assert settlement.of(ann.user.account_id) == BOTH

        await eventually(brought)


# A sign-in alone, without the code that production asks for by mail.
@pytest.mark.parametrize(
    "changed",
    [{"mode": "production", "signin_email_code": False}, {"play_balance": ""}],
    ids=str,
)
async def test_there_is_none_in_production_and_when_it_is_set_to_nothing(
    giving: Settings, mail_server: MailServer, changed: dict[str, Any]
) -> None:
    settings = giving.model_copy(update=changed)
    async with (
        running_auth(settings, mail_server) as auth,
        running_settlement(settings, auth) as settlement,
    ):
        ann = await auth.sign_up("ann@example.org")
        await auth.sign_in(ann)
    assert settlement.asked == 0
