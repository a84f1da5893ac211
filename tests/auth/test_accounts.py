"""Signing up, codes, signing in, passwords: over gRPC, with real stores and a real mail server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import asyncpg
import bcrypt
import grpc
import pytest
from tidebook.auth.v1 import auth_pb2 as pb

from kernel.reasons import Reason
from mesh.config import Settings
from mesh.status import refused_from
from tests.auth.conftest import PASSWORD, Auth, MailServer, refused, running_auth
from tests.support import eventually


async def test_a_new_user_signs_up_proves_the_address_and_is_signed_in(auth: Auth) -> None:
    answer = await auth.stub.SignUp(pb.SignUpRequest(email="Ann@Example.test", password=PASSWORD))
    assert answer.otp_ttl_seconds == 600
    code = await auth.mail.code_for("ann@example.test")
    opened = await auth.stub.VerifyOtp(pb.VerifyOtpRequest(email="ann@example.test", code=code))
    assert opened.user.account_id == 1001
    assert opened.user.email_verified

    metadata = (("authorization", f"Bearer {opened.tokens.access_token}"),)
    me = await auth.stub.GetMe(pb.GetMeRequest(), metadata=metadata)
    assert me.user == opened.user
    assert list(me.scopes) == [pb.SCOPE_READ, pb.SCOPE_TRADE, pb.SCOPE_WITHDRAW]
    # Addresses are compared without case.
    again = await auth.stub.SignIn(pb.SignInRequest(email="ANN@example.test", password=PASSWORD))
    assert again.user == opened.user


async def test_accounts_are_numbered_from_1001_one_each(auth: Auth) -> None:
    people = [await auth.sign_up() for _ in range(3)]
    assert [person.user.account_id for person in people] == [1001, 1002, 1003]


async def test_of_twenty_verifications_at_once_exactly_one_wins(auth: Auth) -> None:
    email = auth.new_email()
    await auth.stub.SignUp(pb.SignUpRequest(email=email, password=PASSWORD))
    code = await auth.mail.code_for(email)
    results = await asyncio.gather(
        *(auth.stub.VerifyOtp(pb.VerifyOtpRequest(email=email, code=code)) for _ in range(20)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, pb.VerifyOtpResponse) for result in results) == 1
    lost = [refused_from(r).reason for r in results if isinstance(r, grpc.aio.AioRpcError)]
    assert len(lost) == 19
    assert set(lost) == {Reason.OTP_INVALID}


async def test_wrong_codes_at_once_count_five_and_then_the_right_one_is_too_late(
    auth: Auth,
) -> None:
    email = auth.new_email()
    await auth.stub.SignUp(pb.SignUpRequest(email=email, password=PASSWORD))
    code = await auth.mail.code_for(email)
    wrong = f"{(int(code) + 1) % 1_000_000:06}"
    results = await asyncio.gather(
        *(auth.stub.VerifyOtp(pb.VerifyOtpRequest(email=email, code=wrong)) for _ in range(12)),
        return_exceptions=True,
    )
    assert all(isinstance(result, grpc.aio.AioRpcError) for result in results)
    with refused(Reason.OTP_TOO_MANY_ATTEMPTS):
        await auth.stub.VerifyOtp(pb.VerifyOtpRequest(email=email, code=code))
    # A new code starts anew.
    await auth.stub.SignUp(pb.SignUpRequest(email=email, password=PASSWORD))
    code = await auth.mail.code_for(email, nth=2)
    await auth.stub.VerifyOtp(pb.VerifyOtpRequest(email=email, code=code))


async def test_four_wrong_codes_still_leave_the_right_one(auth: Auth) -> None:
    email = auth.new_email()
    await auth.stub.SignUp(pb.SignUpRequest(email=email, password=PASSWORD))
    code = await auth.mail.code_for(email)
    for step in range(1, 5):
        with refused(Reason.OTP_INVALID):
            wrong = f"{(int(code) + step) % 1_000_000:06}"
            await auth.stub.VerifyOtp(pb.VerifyOtpRequest(email=email, code=wrong))
    await auth.stub.VerifyOtp(pb.VerifyOtpRequest(email=email, code=code))


async def test_a_code_expires(auth: Auth) -> None:
    email = auth.new_email()
    await auth.stub.SignUp(pb.SignUpRequest(email=email, password=PASSWORD))
    code = await auth.mail.code_for(email)
    auth.clock.advance(seconds=601)
    with refused(Reason.OTP_EXPIRED):
        await auth.stub.VerifyOtp(pb.VerifyOtpRequest(email=email, code=code))


async def test_a_new_code_replaces_the_last(auth: Auth) -> None:
    email = auth.new_email()
    for _ in range(2):
        await auth.stub.SignUp(pb.SignUpRequest(email=email, password=PASSWORD))
    second = await auth.mail.code_for(email, nth=2)
    first = await auth.mail.code_for(email)
    if first != second:
        with refused(Reason.OTP_INVALID):
            await auth.stub.VerifyOtp(pb.VerifyOtpRequest(email=email, code=first))
    await auth.stub.VerifyOtp(pb.VerifyOtpRequest(email=email, code=second))


async def test_a_sign_up_that_was_never_proven_gets_a_new_code_by_signing_in(auth: Auth) -> None:
    email = auth.new_email()
    await auth.stub.SignUp(pb.SignUpRequest(email=email, password=PASSWORD))
    with refused(Reason.BAD_CREDENTIALS):
        await auth.stub.SignIn(pb.SignInRequest(email=email, password=PASSWORD + "?"))
    with refused(Reason.EMAIL_NOT_VERIFIED):
        await auth.stub.SignIn(pb.SignInRequest(email=email, password=PASSWORD))
    code = await auth.mail.code_for(email, nth=2)
    await auth.stub.VerifyOtp(pb.VerifyOtpRequest(email=email, code=code))
    await auth.stub.SignIn(pb.SignInRequest(email=email, password=PASSWORD))


async def test_signing_up_twice_answers_alike_and_tells_the_owner_by_mail(auth: Auth) -> None:
    ann = await auth.sign_up()
    known = await auth.stub.SignUp(pb.SignUpRequest(email=ann.email, password="another-password-1"))
    unknown = await auth.stub.SignUp(
        pb.SignUpRequest(email=auth.new_email(), password="another-password-1")
    )
    assert known == unknown
    await eventually(
        lambda: auth.mail.mails_to(ann.email)[0]["subject"] == "You already have a Tidebook account"
    )
    # Ann's password is still hers.
    await auth.sign_in(ann)
    with refused(Reason.BAD_CREDENTIALS):
        await auth.stub.SignIn(pb.SignInRequest(email=ann.email, password="another-password-1"))


async def test_trying_codes_tells_nothing_about_an_address(auth: Auth) -> None:
    """Known, pending and unknown addresses answer alike, wrong code by wrong code."""
    ann, stranger = (await auth.sign_up()).email, auth.new_email()
    answers = []
    for email in (ann, stranger):
        await auth.stub.SignUp(pb.SignUpRequest(email=email, password=PASSWORD))
        await auth.stub.RequestPasswordReset(pb.RequestPasswordResetRequest(email=email))
        seen = []
        for _ in range(7):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await auth.stub.VerifyOtp(pb.VerifyOtpRequest(email=email, code="000000"))
            seen.append((refused_from(caught.value).reason, caught.value.details()))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await auth.stub.ResetPassword(
                    pb.ResetPasswordRequest(email=email, code="000000", new_password=PASSWORD)
                )
            seen.append((refused_from(caught.value).reason, caught.value.details()))
        answers.append(seen)
    assert answers[0] == answers[1]


async def test_a_wrong_password_and_an_unknown_address_answer_alike(auth: Auth) -> None:
    ann = await auth.sign_up()
    details = []
    for email in (ann.email, auth.new_email()):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await auth.stub.SignIn(pb.SignInRequest(email=email, password="wrong-password-1"))
        details.append((caught.value.code(), caught.value.details()))
    assert details[0] == details[1]


class Hashing:
    """What bcrypt did: its cost and the CPU time of its thread, call by call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, int, float]] = []
        for name in ("hashpw", "checkpw"):
            monkeypatch.setattr(bcrypt, name, self._measured(name, getattr(bcrypt, name)))

    def _measured(self, name: str, real: Callable[[bytes, bytes], Any]) -> Callable[..., Any]:
        def measured(password: bytes, salt: bytes) -> Any:
            started = time.thread_time()
            try:
                return real(password, salt)
            finally:
                cost = int(salt.split(b"$")[2])
                self.calls.append((name, cost, time.thread_time() - started))

        return measured

    def taken(self) -> list[tuple[str, int, float]]:
        """The calls since the last time it was asked."""
        taken, self.calls = self.calls, []
        return taken


async def test_an_unknown_address_costs_as_much_hashing_as_a_known_one(
    settings: Settings, mail_server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither answer is the quick one, of a sign-in or of anything else that hashes.

    The same calls of bcrypt at the same cost, and as much CPU time in its threads: the time on the
    wall says more about who else uses the machine.
    """
    hashing = Hashing(monkeypatch)
    settings = settings.model_copy(update={"bcrypt_cost": 9, "signin_max_failures": 1000})
    async with running_auth(settings, mail_server) as auth:
        known, pending, unknown = (await auth.sign_up()).email, auth.new_email(), auth.new_email()
        await auth.stub.SignUp(pb.SignUpRequest(email=pending, password=PASSWORD))

        async def sign_in(email: str) -> None:
            with refused(Reason.BAD_CREDENTIALS):
                await auth.stub.SignIn(pb.SignInRequest(email=email, password="wrong-password-1"))

        async def sign_up(email: str) -> None:
            await auth.stub.SignUp(pb.SignUpRequest(email=email, password="another-password-1"))

        async def ask_for_reset(email: str) -> None:
            await auth.stub.RequestPasswordReset(pb.RequestPasswordResetRequest(email=email))

        async def reset(email: str) -> None:
            with refused(Reason.OTP_INVALID, Reason.OTP_TOO_MANY_ATTEMPTS):
                await auth.stub.ResetPassword(
                    pb.ResetPasswordRequest(email=email, code="000000", new_password=PASSWORD)
                )

        for ask in (sign_in, ask_for_reset, reset, sign_up):
            seen: dict[str, list[tuple[str, int]]] = {}
            fastest: dict[str, float] = {}
            for email in (known, pending, unknown):
                hashing.taken()
                rounds = []
                for _ in range(3):
                    await ask(email)
                    rounds.append(hashing.taken())
                seen[email] = [(name, cost) for name, cost, _ in rounds[0]]
                fastest[email] = min(sum(seconds for _, _, seconds in calls) for calls in rounds)
            assert seen[known] == seen[pending] == seen[unknown], ask.__name__
            if ask is ask_for_reset:
                assert seen[known] == []
                continue
            assert [cost for _, cost in seen[known]] == [9], ask.__name__
            for email in (pending, unknown):
                assert 0.5 < fastest[known] / fastest[email] < 2, ask.__name__


async def test_what_is_written_for_an_unknown_address_is_what_is_for_a_known_one(
    auth: Auth,
) -> None:
    """One code and one mail each; a code that no digits match, and a mail that never leaves."""
    known, unknown = (await auth.sign_up()).email, auth.new_email()
    connection = await asyncpg.connect(auth.settings.postgres_url)
    try:

        async def written(email: str, purpose: str) -> tuple[int, list[tuple[int, int]]]:
            mails = await connection.fetchval("select last_value from auth.outbox_mail_id_seq")
            codes = await connection.fetch(
                """
                select length(code_hash), attempts from auth.one_time_codes
                 where email_key = $1 and purpose = $2
                """,
                email,
                purpose,
            )
            return mails, [(row[0], row[1]) for row in codes]

        for email in (known, unknown):
            mails, _ = await written(email, "sign_up")
            await auth.stub.SignUp(pb.SignUpRequest(email=email, password=PASSWORD))
            assert await written(email, "sign_up") == (mails + 1, [(32, 0)])
            await auth.stub.RequestPasswordReset(pb.RequestPasswordResetRequest(email=email))
            assert await written(email, "password_reset") == (mails + 2, [(32, 0)])
    finally:
        await connection.close()


async def test_ten_wrong_passwords_lock_known_and_unknown_addresses_alike(auth: Auth) -> None:
    ann = await auth.sign_up()
    for email in (ann.email, auth.new_email()):
        for _ in range(10):
            with refused(Reason.BAD_CREDENTIALS):
                await auth.stub.SignIn(pb.SignInRequest(email=email, password="wrong-password-1"))
        with refused(Reason.ACCOUNT_LOCKED):
            await auth.stub.SignIn(pb.SignInRequest(email=email, password=PASSWORD))


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("short", "10 to 128 characters"),
        ("aaaaaaaaaaaa", "repeats"),
        ("1234567890", "repeats a few characters or follows"),
        ("qwertyuiop", "follows a row of keys"),
        ("password12345", "most common"),
        ("P@ssw0rd2024!", "most common"),
        ("1q2w3e4r5t6y", "most common"),
        ("manchester2!", "most common"),
        ("christopher", "most common"),
        ("!!tidebook99", "most common"),
        ("eth3r3um2024", "most common"),
        ("bob.the.builder99", "e-mail address"),
    ],
)
async def test_weak_passwords_are_refused(auth: Auth, password: str, why: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await auth.stub.SignUp(
            pb.SignUpRequest(email="bob.the.builder@example.test", password=password)
        )
    error = refused_from(caught.value)
    assert (error.reason, error.field) == (Reason.PASSWORD_TOO_WEAK, "password")
    assert why in error.message


@pytest.mark.parametrize("email", ["nobody", "a@b@c.test", "a b@example.test", "@example.test"])
async def test_what_is_not_an_address_is_refused(auth: Auth, email: str) -> None:
    with refused(Reason.EMAIL_INVALID):
        await auth.stub.SignUp(pb.SignUpRequest(email=email, password=PASSWORD))


async def test_a_long_password_counts_to_its_last_character(auth: Auth) -> None:
    """bcrypt alone would look at the first 72 bytes only."""
    email, long = auth.new_email(), "0123456789abcdef" * 7 + "tail"
    await auth.stub.SignUp(pb.SignUpRequest(email=email, password=long))
    await auth.stub.VerifyOtp(
        pb.VerifyOtpRequest(email=email, code=await auth.mail.code_for(email))
    )
    with refused(Reason.BAD_CREDENTIALS):
        await auth.stub.SignIn(pb.SignInRequest(email=email, password=long[:-1] + "L"))
    await auth.stub.SignIn(pb.SignInRequest(email=email, password=long))


@pytest.mark.parametrize(
    "password",
    [
        "quiet\0harbour\0dusk",
        "  leading and trailing  ",
        "тихая-гавань-ночью",
        "🌊⚓🌙⛵🐚🪸🦀🐟🌅🗺️",
        "x1" + "é" * 4 + "wide" * 30,
    ],
    ids=["zero bytes", "spaces", "cyrillic", "emoji", "126 wide characters"],
)
async def test_a_password_counts_whatever_it_is_made_of(auth: Auth, password: str) -> None:
    email = auth.new_email()
    await auth.stub.SignUp(pb.SignUpRequest(email=email, password=password))
    code = await auth.mail.code_for(email)
    await auth.stub.VerifyOtp(pb.VerifyOtpRequest(email=email, code=code))
    await auth.stub.SignIn(pb.SignInRequest(email=email, password=password))
    # Nothing is cut off at either end, nor at a zero byte.
    for other in (password[:-1], password.strip() + "!", password.split("\0")[0] + "?"):
        with refused(Reason.BAD_CREDENTIALS):
            await auth.stub.SignIn(pb.SignInRequest(email=email, password=other))


async def test_a_mail_server_that_is_down_delays_a_code_but_does_not_lose_it(auth: Auth) -> None:
    await auth.mail.stop()
    email = auth.new_email()
    await auth.stub.SignUp(pb.SignUpRequest(email=email, password=PASSWORD))
    connection = await asyncpg.connect(auth.settings.postgres_url)
    try:
        await eventually(
            lambda: connection.fetchval("select attempts > 1 from auth.outbox"), timeout_s=15
        )
        await auth.mail.start()
        code = await auth.mail.code_for(email)
        await auth.stub.VerifyOtp(pb.VerifyOtpRequest(email=email, code=code))

        async def empty() -> bool:
            return not await connection.fetchval("select count(*) from auth.outbox")

        await eventually(empty)
    finally:
        await connection.close()


async def test_a_code_that_waits_to_be_mailed_survives_a_restart(
    settings: Settings, mail_server: MailServer
) -> None:
    await mail_server.stop()
    async with running_auth(settings, mail_server) as auth:
        email = auth.new_email()
        await auth.stub.SignUp(pb.SignUpRequest(email=email, password=PASSWORD))
    await mail_server.start()
    async with running_auth(settings, mail_server) as auth:
        # Past the time that the first process may have claimed the mail for.
        auth.clock.advance(seconds=120)
        code = await auth.mail.code_for(email)
        await auth.stub.VerifyOtp(pb.VerifyOtpRequest(email=email, code=code))


async def test_a_password_is_changed_and_other_sessions_end(auth: Auth) -> None:
    ann = await auth.sign_up()
    other = await auth.sign_in(ann)
    with refused(Reason.BAD_CREDENTIALS):
        await auth.stub.ChangePassword(
            pb.ChangePasswordRequest(current_password="wrong-one-1", new_password="new-harbour-1"),
            metadata=ann.bearer,
        )
    await auth.stub.ChangePassword(
        pb.ChangePasswordRequest(current_password=PASSWORD, new_password="new-harbour-1"),
        metadata=ann.bearer,
    )
    with refused(Reason.SESSION_REVOKED):
        await auth.stub.RefreshToken(
            pb.RefreshTokenRequest(refresh_token=other.tokens.refresh_token)
        )
    await auth.stub.GetMe(pb.GetMeRequest(), metadata=ann.bearer)
    with refused(Reason.BAD_CREDENTIALS):
        await auth.sign_in(ann)
    await auth.stub.SignIn(pb.SignInRequest(email=ann.email, password="new-harbour-1"))
    await eventually(
        lambda: auth.mail.mails_to(ann.email)[0]["subject"] == "Your Tidebook password was changed"
    )


async def test_a_forgotten_password_is_set_anew_with_a_code_and_all_sessions_end(
    auth: Auth,
) -> None:
    ann = await auth.sign_up()
    for email in (ann.email, auth.new_email()):
        answer = await auth.stub.RequestPasswordReset(pb.RequestPasswordResetRequest(email=email))
        assert answer.otp_ttl_seconds == 600
    code = await auth.mail.code_for(ann.email, nth=2)
    # A code is for one thing only.
    with refused(Reason.OTP_INVALID):
        await auth.stub.VerifyOtp(pb.VerifyOtpRequest(email=ann.email, code=code))
    request = pb.ResetPasswordRequest(email=ann.email, code=code, new_password="new-harbour-1")
    await auth.stub.ResetPassword(request)
    with refused(Reason.OTP_INVALID):
        await auth.stub.ResetPassword(request)
    with refused(Reason.SESSION_REVOKED):
        await auth.stub.GetMe(pb.GetMeRequest(), metadata=ann.bearer)
    await auth.stub.SignIn(pb.SignInRequest(email=ann.email, password="new-harbour-1"))


async def test_nobody_is_mailed_for_an_unknown_address(auth: Auth) -> None:
    stranger, ann = auth.new_email(), await auth.sign_up()
    await auth.stub.RequestPasswordReset(pb.RequestPasswordResetRequest(email=stranger))
    await auth.stub.RequestPasswordReset(pb.RequestPasswordResetRequest(email=ann.email))
    await auth.mail.code_for(ann.email, nth=2)
    assert auth.mail.mails_to(stranger) == []
