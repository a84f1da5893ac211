"""Recovery codes: what opens an account whose authenticator app is lost."""

from __future__ import annotations

import asyncio
import re

import grpc
from tidebook.auth.v1 import auth_pb2 as pb

from kernel.reasons import Reason
from mesh.status import refused_from
from tests.auth.conftest import PASSWORD, Auth, Person, refused
from tests.support import eventually

SHOWN = re.compile(r"([0-9a-hjkmnp-tv-z]{4}-){5}[0-9a-hjkmnp-tv-z]{4}")


async def recover(auth: Auth, ann: Person, recovery_code: str) -> pb.User:
    answer = await auth.stub.SignIn(
        pb.SignInRequest(email=ann.email, password=PASSWORD, recovery_code=recovery_code)
    )
    return answer.user


async def renew(auth: Auth, ann: Person, **proof: str) -> list[str]:
    request = pb.CreateRecoveryCodesRequest(password=PASSWORD, **proof)
    answer = await auth.stub.CreateRecoveryCodes(request, metadata=ann.bearer)
    return list(answer.recovery_codes)


async def test_each_code_opens_the_account_once_however_it_is_typed(auth: Auth) -> None:
    ann, bob = await auth.sign_up(), await auth.sign_up()
    codes = (await auth.enable_totp(ann)).recovery_codes
    await auth.enable_totp(bob)
    assert len(set(codes)) == 10
    assert all(SHOWN.fullmatch(code) for code in codes)
    typed = [
        codes[0],
        codes[1].upper(),
        codes[2].replace("-", ""),
        f" {codes[3]} ".replace("-", "  ").replace("0", "O").replace("1", "l"),
    ]
    for left, code in zip((9, 8, 7, 6), typed, strict=True):
        assert (await recover(auth, ann, code)).recovery_codes_left == left
        with refused(Reason.OTP_INVALID):
            await recover(auth, ann, code)
    with refused(Reason.OTP_INVALID):
        await recover(auth, bob, codes[4])
    me = await auth.stub.GetMe(pb.GetMeRequest(), metadata=ann.bearer)
    assert me.user.recovery_codes_left == 6

    def told() -> None:
        texts = [mail["text"] for mail in auth.mail.mails_to(ann.email)]
        assert sum("Recovery codes were made" in text for text in texts) == 1
        for left in (9, 8, 7, 6):
            assert sum(f"Codes that are left: {left}" in text for text in texts) == 1
        assert not any(code in text for text in texts for code in codes)

    await eventually(told)


async def test_of_many_sign_ins_at_once_with_one_code_exactly_one_wins(auth: Auth) -> None:
    ann = await auth.sign_up()
    codes = (await auth.enable_totp(ann)).recovery_codes
    answers = await asyncio.gather(
        *(recover(auth, ann, codes[0]) for _ in range(8)), return_exceptions=True
    )
    lost = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert len(lost) == 7
    assert {refused_from(error).reason for error in lost} == {Reason.OTP_INVALID}
    assert (await recover(auth, ann, codes[1])).recovery_codes_left == 8


async def test_wrong_codes_of_both_kinds_lock_both(auth: Auth) -> None:
    ann = await auth.sign_up()
    app = await auth.enable_totp(ann)
    codes = app.recovery_codes
    for number in range(auth.settings.signin_max_failures):
        with refused(Reason.OTP_INVALID):
            if number % 2:
                await recover(auth, ann, f"{codes[0]}0")
            else:
                await auth.sign_in(ann, totp_code="000000")
    with refused(Reason.ACCOUNT_LOCKED):
        await recover(auth, ann, codes[0])
    with refused(Reason.ACCOUNT_LOCKED):
        await renew(auth, ann, code=app.next_code())


async def test_new_codes_want_password_and_proof_and_void_the_old(auth: Auth) -> None:
    ann = await auth.sign_up()
    with refused(Reason.NOT_FOUND):
        await renew(auth, ann, code="000000")
    app = await auth.enable_totp(ann)
    first = app.recovery_codes
    with refused(Reason.BAD_CREDENTIALS):
        await auth.stub.CreateRecoveryCodes(
            pb.CreateRecoveryCodesRequest(password="another-harbour", code=app.next_code()),
            metadata=ann.bearer,
        )
    with refused(Reason.OTP_INVALID):
        await renew(auth, ann)
    with refused(Reason.INVALID_ARGUMENT):
        await renew(auth, ann, code=app.next_code(), recovery_code=first[0])
    second = await renew(auth, ann, code=app.next_code())
    third = await renew(auth, ann, recovery_code=second[0])
    assert len({*first, *second, *third}) == 30
    for code in (first[1], second[1]):
        with refused(Reason.OTP_INVALID):
            await recover(auth, ann, code)
    assert (await recover(auth, ann, third[0])).recovery_codes_left == 9


async def test_who_has_lost_the_app_gets_in_and_sets_up_another(auth: Auth) -> None:
    ann = await auth.sign_up()
    codes = (await auth.enable_totp(ann)).recovery_codes
    await recover(auth, ann, codes[0])
    await auth.stub.DisableTotp(
        pb.DisableTotpRequest(password=PASSWORD, recovery_code=codes[1]), metadata=ann.bearer
    )
    user = (await auth.sign_in(ann)).user
    assert (user.totp_enabled, user.recovery_codes_left) == (False, 0)
    app = await auth.enable_totp(ann)
    with refused(Reason.OTP_INVALID):
        await recover(auth, ann, codes[2])
    await auth.sign_in(ann, totp_code=app.next_code())
    subjects = {mail["subject"] for mail in auth.mail.mails_to(ann.email)}
    assert "The second factor of your Tidebook account is off" in subjects
