"""A code by mail beside the password, where the operator wants one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
from tidebook.auth.v1 import auth_pb2 as pb

from kernel.reasons import Reason
from mesh.config import Settings
from mesh.status import refused_from
from tests.auth.conftest import PASSWORD, Auth, MailServer, Person, refused, running_auth


@pytest_asyncio.fixture
async def asking(settings: Settings, mail_server: MailServer) -> AsyncIterator[Auth]:
    wanted = settings.model_copy(update={"signin_email_code": True})
    async with running_auth(wanted, mail_server) as running:
        yield running


async def sign_in(auth: Auth, person: Person, code: str = "", **proof: str) -> pb.SignInResponse:
    return await auth.stub.SignIn(
        pb.SignInRequest(email=person.email, password=PASSWORD, email_code=code, **proof)
    )


def other(code: str) -> str:
    return f"{(int(code) + 1) % 1_000_000:06}"


async def test_the_password_alone_opens_nothing_and_the_mailed_code_counts_once(
    asking: Auth,
) -> None:
    ann = await asking.sign_up()
    with refused(Reason.EMAIL_CODE_REQUIRED):
        await sign_in(asking, ann)
    code = await asking.mail.code_for(ann.email, nth=2)
    assert "for signing in" in asking.mail.mails_to(ann.email)[0]["subject"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await sign_in(asking, ann, other(code))
    error = refused_from(caught.value)
    assert (error.reason, error.field) == (Reason.OTP_INVALID, "email_code")
    with refused(Reason.BAD_CREDENTIALS):
        await asking.stub.SignIn(
            pb.SignInRequest(email=ann.email, password="not-hers-at-all", email_code=code)
        )
    assert (await sign_in(asking, ann, code)).user.user_id == ann.user.user_id
    with refused(Reason.OTP_INVALID):
        await sign_in(asking, ann, code)


async def test_codes_run_out_of_time_and_of_tries_and_a_new_one_replaces_them(asking: Auth) -> None:
    ann = await asking.sign_up()
    codes: list[str] = []
    for number in (2, 3, 4):
        with refused(Reason.EMAIL_CODE_REQUIRED):
            await sign_in(asking, ann)
        codes.append(await asking.mail.code_for(ann.email, nth=number))
        if number == 2:
            asking.clock.advance(seconds=601)
            with refused(Reason.OTP_EXPIRED):
                await sign_in(asking, ann, codes[-1])
        if number == 3:
            for _ in range(4):
                with refused(Reason.OTP_INVALID):
                    await sign_in(asking, ann, other(codes[-1]))
            for code in (other(codes[-1]), codes[-1]):
                with refused(Reason.OTP_TOO_MANY_ATTEMPTS):
                    await sign_in(asking, ann, code)
    await sign_in(asking, ann, codes[-1])


async def test_of_many_at_once_one_spends_the_code(asking: Auth) -> None:
    ann = await asking.sign_up()
    with refused(Reason.EMAIL_CODE_REQUIRED):
        await sign_in(asking, ann)
    code = await asking.mail.code_for(ann.email, nth=2)
    answers = await asyncio.gather(
        *(sign_in(asking, ann, code) for _ in range(4)), return_exceptions=True
    )
    assert sum(isinstance(answer, pb.SignInResponse) for answer in answers) == 1


async def test_whoever_has_the_app_is_asked_for_its_code_instead(asking: Auth) -> None:
    ann = await asking.sign_up()
    factor = await asking.enable_totp(ann)
    with refused(Reason.TOTP_REQUIRED):
        await sign_in(asking, ann)
    await sign_in(asking, ann, totp_code=factor.next_code())


async def test_a_wrong_password_mails_no_code(asking: Auth) -> None:
    ann = await asking.sign_up()
    for email in (ann.email, asking.new_email()):
        with refused(Reason.BAD_CREDENTIALS):
            await asking.stub.SignIn(pb.SignInRequest(email=email, password="wrong-password-1"))
    with refused(Reason.EMAIL_CODE_REQUIRED):
        await sign_in(asking, ann)
    await asking.mail.code_for(ann.email, nth=2)
    assert len(asking.mail.mails_to(ann.email)) == 2


def test_production_asks_unless_the_operator_says_otherwise() -> None:
    assert not Settings(mode="demo").asks_for_sign_in_code
    assert Settings(mode="production").asks_for_sign_in_code
    assert not Settings(mode="production", signin_email_code=False).asks_for_sign_in_code
