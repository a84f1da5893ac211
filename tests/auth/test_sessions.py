"""Sessions and their tokens: refresh rotation, reuse, revocation, second factor."""

from __future__ import annotations

import asyncio

import jwt
import pytest
from tidebook.auth.v1 import auth_pb2 as pb

from kernel.reasons import Reason, Refused
from mesh.aio import cancel_and_wait
from mesh.config import Settings
from mesh.redis import open_redis
from mesh.revocation import EndedSessions
from mesh.tokens import TokenVerifier, decode_key
from services.auth.domain.model import Client, Tokens, User
from services.auth.session_store import SESSIONS_MAX
from services.auth.sessions import Sessions
from tests.auth.conftest import (
    PASSWORD,
    Auth,
    MailServer,
    ShiftedClock,
    bearer,
    code_of,
    refused,
    running_auth,
)
from tests.support import eventually


async def refresh(auth: Auth, refresh_token: str) -> pb.Tokens:
    answer = await auth.stub.RefreshToken(pb.RefreshTokenRequest(refresh_token=refresh_token))
    return answer.tokens


async def test_a_refresh_gives_new_tokens_for_the_same_session(auth: Auth) -> None:
    ann = await auth.sign_up()
    tokens = await refresh(auth, ann.tokens.refresh_token)
    assert tokens.refresh_token != ann.tokens.refresh_token
    me = await auth.stub.GetMe(pb.GetMeRequest(), metadata=bearer(tokens.access_token))
    assert me.user == ann.user
    listed = await auth.stub.ListSessions(pb.ListSessionsRequest(), metadata=ann.bearer)
    assert len(listed.sessions) == 1
    assert listed.sessions[0].current
    assert listed.sessions[0].ip_address == "127.0.0.1"


async def test_a_spent_refresh_token_ends_the_session_for_both_its_holders(auth: Auth) -> None:
    ann = await auth.sign_up()
    stolen = ann.tokens.refresh_token
    tokens = await refresh(auth, stolen)
    with refused(Reason.SESSION_REVOKED):
        await refresh(auth, stolen)
    with refused(Reason.SESSION_REVOKED):
        await refresh(auth, tokens.refresh_token)
    with refused(Reason.SESSION_REVOKED):
        await auth.stub.GetMe(pb.GetMeRequest(), metadata=bearer(tokens.access_token))


async def test_the_signing_key_is_replaced_and_old_tokens_stay_good_until_they_expire(
    auth: Auth,
) -> None:
    def kid_of(tokens: pb.Tokens) -> str:
        return str(jwt.get_unverified_header(tokens.access_token)["kid"])

    async def published() -> list[str]:
        answer = await auth.stub.GetSigningKeys(pb.GetSigningKeysRequest())
        return [key.kid for key in answer.keys]

    ann = await auth.sign_up()
    [first] = await published()
    # The day of the next key; the service looks every few seconds.
    auth.clock.advance(seconds=30 * 86_400 - 300)
    before = (await auth.sign_in(ann)).tokens
    auth.clock.advance(seconds=301)

    async def two() -> str:
        second, _ = await published()
        return second

    second = await eventually(two)
    # Published first, so that everybody knows it before it signs.
    assert kid_of((await auth.sign_in(ann)).tokens) == first
    auth.clock.advance(seconds=61)

    newest = before

    async def signed_by_the_second() -> None:
        nonlocal newest
        newest = await refresh(auth, newest.refresh_token)
        assert kid_of(newest) == second

    await eventually(signed_by_the_second)
    for tokens in (before, newest):
        await auth.stub.GetMe(pb.GetMeRequest(), metadata=bearer(tokens.access_token))
    auth.clock.advance(seconds=2 * 60 + auth.settings.access_token_seconds)

    async def only_the_second() -> None:
        assert await published() == [second]

    await eventually(only_the_second)


async def test_of_many_refreshes_with_one_token_at_most_one_wins(auth: Auth) -> None:
    ann = await auth.sign_up()
    results = await asyncio.gather(
        *(refresh(auth, ann.tokens.refresh_token) for _ in range(10)), return_exceptions=True
    )
    assert sum(isinstance(result, pb.Tokens) for result in results) == 1


async def test_a_made_up_token_does_not_end_anybodys_session(auth: Auth) -> None:
    ann = await auth.sign_up()
    user_id, session_id, _, number = ann.tokens.refresh_token.split(".")
    for forged in ("x", "a.b.c", f"{user_id}.{session_id}.guess.{number}"):
        with refused(Reason.TOKEN_INVALID):
            await refresh(auth, forged)
    await refresh(auth, ann.tokens.refresh_token)


async def test_a_revoked_session_cannot_refresh(auth: Auth) -> None:
    ann = await auth.sign_up()
    phone = await auth.sign_in(ann)
    listed = await auth.stub.ListSessions(pb.ListSessionsRequest(), metadata=ann.bearer)
    other = next(session for session in listed.sessions if not session.current)
    await auth.stub.RevokeSession(
        pb.RevokeSessionRequest(session_id=other.session_id), metadata=ann.bearer
    )
    with refused(Reason.SESSION_REVOKED):
        await refresh(auth, phone.tokens.refresh_token)
    await refresh(auth, ann.tokens.refresh_token)
    with refused(Reason.NOT_FOUND):
        await auth.stub.RevokeSession(
            pb.RevokeSessionRequest(session_id=other.session_id), metadata=ann.bearer
        )


async def test_other_peoples_sessions_are_not_found(auth: Auth) -> None:
    ann, bob = await auth.sign_up(), await auth.sign_up()
    listed = await auth.stub.ListSessions(pb.ListSessionsRequest(), metadata=bob.bearer)
    with refused(Reason.NOT_FOUND):
        await auth.stub.RevokeSession(
            pb.RevokeSessionRequest(session_id=listed.sessions[0].session_id), metadata=ann.bearer
        )
    await refresh(auth, bob.tokens.refresh_token)


async def test_signing_out_ends_this_session_or_all(auth: Auth) -> None:
    ann = await auth.sign_up()
    phone, tablet = await auth.sign_in(ann), await auth.sign_in(ann)
    await auth.stub.SignOut(pb.SignOutRequest(), metadata=bearer(phone.tokens.access_token))
    with refused(Reason.SESSION_REVOKED):
        await refresh(auth, phone.tokens.refresh_token)
    tokens = await refresh(auth, tablet.tokens.refresh_token)
    await auth.stub.SignOut(pb.SignOutRequest(all_sessions=True), metadata=ann.bearer)
    for token in (ann.tokens.refresh_token, tokens.refresh_token):
        with refused(Reason.SESSION_REVOKED):
            await refresh(auth, token)


async def test_an_access_token_expires_and_can_be_checked_with_the_published_keys(
    auth: Auth,
) -> None:
    ann = await auth.sign_up()
    published = await auth.stub.GetSigningKeys(pb.GetSigningKeysRequest())
    keys = {key.kid: decode_key(key.x) for key in published.keys}
    assert [(key.kty, key.crv, key.alg) for key in published.keys] == [("OKP", "Ed25519", "EdDSA")]

    async def fetch() -> dict[str, bytes]:
        return keys

    caller = await TokenVerifier(fetch).verify(ann.tokens.access_token)
    assert caller.account_id == ann.user.account_id
    assert caller.scopes == {"read", "trade", "withdraw"}
    claims = jwt.decode(ann.tokens.access_token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == auth.settings.access_token_seconds
    auth.clock.advance(seconds=auth.settings.access_token_seconds + 1)
    with refused(Reason.TOKEN_EXPIRED):
        await auth.stub.GetMe(pb.GetMeRequest(), metadata=ann.bearer)


async def test_sessions_and_signing_keys_survive_a_restart(
    settings: Settings, mail_server: MailServer
) -> None:
    async with running_auth(settings, mail_server) as auth:
        ann = await auth.sign_up()
        before = await auth.stub.GetSigningKeys(pb.GetSigningKeysRequest())
    async with running_auth(settings, mail_server, ShiftedClock()) as auth:
        assert await auth.stub.GetSigningKeys(pb.GetSigningKeysRequest()) == before
        await auth.stub.GetMe(pb.GetMeRequest(), metadata=ann.bearer)
        await refresh(auth, ann.tokens.refresh_token)


async def test_methods_for_people_refuse_calls_without_a_token(auth: Auth) -> None:
    for call in (
        auth.stub.GetMe(pb.GetMeRequest()),
        auth.stub.ListSessions(pb.ListSessionsRequest()),
        auth.stub.SignOut(pb.SignOutRequest()),
        auth.stub.ListApiKeys(pb.ListApiKeysRequest()),
        auth.stub.GetMe(pb.GetMeRequest(), metadata=bearer("no.such.token")),
    ):
        with refused(Reason.UNAUTHENTICATED, Reason.TOKEN_INVALID):
            await call


async def test_a_second_factor_is_asked_for_and_each_of_its_codes_counts_once(auth: Auth) -> None:
    ann = await auth.sign_up()
    with refused(Reason.BAD_CREDENTIALS):
        await auth.stub.EnableTotp(
            pb.EnableTotpRequest(password="wrong-password-1"), metadata=ann.bearer
        )
    begun = await auth.stub.EnableTotp(pb.EnableTotpRequest(password=PASSWORD), metadata=ann.bearer)
    assert begun.otpauth_url.startswith("otpauth://totp/Tidebook")
    # Not in force before the app has proven itself.
    await auth.sign_in(ann)

    def code() -> str:
        return code_of(begun.secret, auth.clock)

    await auth.stub.ConfirmTotp(pb.ConfirmTotpRequest(code=code()), metadata=ann.bearer)
    with refused(Reason.TOTP_REQUIRED):
        await auth.sign_in(ann)
    with refused(Reason.OTP_INVALID):
        await auth.sign_in(ann, totp_code=code())  # the one that confirmed
    auth.clock.advance(seconds=60)
    opened = await auth.sign_in(ann, totp_code=code())
    assert opened.user.totp_enabled
    with refused(Reason.OTP_INVALID):
        await auth.sign_in(ann, totp_code=code())
    with refused(Reason.ALREADY_EXISTS):
        await auth.stub.EnableTotp(pb.EnableTotpRequest(password=PASSWORD), metadata=ann.bearer)
    auth.clock.advance(seconds=60)
    await auth.stub.DisableTotp(
        pb.DisableTotpRequest(password=PASSWORD, code=code()), metadata=ann.bearer
    )
    await auth.sign_in(ann)


async def test_a_password_reset_leaves_the_second_factor_on(auth: Auth) -> None:
    """Who has the mailbox alone must not get in."""
    ann = await auth.sign_up()
    app = await auth.enable_totp(ann)
    await auth.stub.RequestPasswordReset(pb.RequestPasswordResetRequest(email=ann.email))
    mailed = await auth.mail.code_for(ann.email, nth=2)
    await auth.stub.ResetPassword(
        pb.ResetPasswordRequest(email=ann.email, code=mailed, new_password="new-harbour-1")
    )
    ann.password = "new-harbour-1"
    with refused(Reason.TOTP_REQUIRED):
        await auth.sign_in(ann)
    await auth.sign_in(ann, totp_code=app.next_code())


async def test_guessing_the_second_factor_locks_it(auth: Auth) -> None:
    ann = await auth.sign_up()
    app = await auth.enable_totp(ann)
    for _ in range(auth.settings.signin_max_failures):
        with refused(Reason.OTP_INVALID):
            await auth.sign_in(ann, totp_code=app.spent_code)
    with refused(Reason.ACCOUNT_LOCKED):
        await auth.sign_in(ann, totp_code=app.next_code())


async def test_in_production_one_machine_cannot_ask_without_end(
    settings: Settings, mail_server: MailServer
) -> None:
    strict = settings.model_copy(update={"mode": "production", "rate_limit_auth": "5/minute"})
    async with running_auth(strict, mail_server) as auth:
        for attempt in range(5):
            await auth.stub.SignUp(
                pb.SignUpRequest(email=f"ann{attempt}@example.org", password=PASSWORD)
            )
        with refused(Reason.RATE_LIMITED):
            await auth.stub.SignUp(pb.SignUpRequest(email="bob@example.org", password=PASSWORD))


async def test_in_production_one_address_is_not_mailed_without_end(
    settings: Settings, mail_server: MailServer
) -> None:
    strict = settings.model_copy(update={"mode": "production"})
    async with running_auth(strict, mail_server) as auth:
        request = pb.SignUpRequest(email="ann@example.org", password=PASSWORD)
        await auth.stub.SignUp(request)
        await auth.stub.SignUp(request)
        with refused(Reason.RATE_LIMITED):
            await auth.stub.SignUp(request)


async def test_a_forwarded_address_is_not_believed_from_the_public(auth: Auth) -> None:
    ann = await auth.sign_up()
    metadata = (*ann.bearer, ("x-forwarded-for", "203.0.113.7"))
    await auth.stub.SignIn(pb.SignInRequest(email=ann.email, password=PASSWORD), metadata=metadata)
    listed = await auth.stub.ListSessions(pb.ListSessionsRequest(), metadata=ann.bearer)
    assert {session.ip_address for session in listed.sessions} == {"127.0.0.1"}
    assert all("grpc-python" in session.user_agent for session in listed.sessions)


async def test_whatever_ends_a_session_ends_its_access_token_everywhere(auth: Auth) -> None:
    """Seen by somebody who verifies tokens alone, as the engine and the gateway do."""
    redis = open_redis(auth.settings)
    ended = EndedSessions(redis, auth.clock)
    following = asyncio.create_task(ended.run())

    async def keys() -> dict[str, bytes]:
        published = await auth.stub.GetSigningKeys(pb.GetSigningKeysRequest())
        return {key.kid: decode_key(key.x) for key in published.keys}

    verifier = TokenVerifier(keys, clock=auth.clock, ended=ended)

    async def dead(token: str) -> None:
        async def is_refused() -> None:
            with pytest.raises(Refused) as caught:
                await verifier.verify(token)
            assert caught.value.reason is Reason.SESSION_REVOKED

        await eventually(is_refused)

    try:
        ann = await auth.sign_up()
        bob = await auth.sign_up()
        for tokens in (ann.tokens, bob.tokens):
            await verifier.verify(tokens.access_token)

        phone = (await auth.sign_in(ann)).tokens
        await auth.stub.SignOut(pb.SignOutRequest(), metadata=bearer(phone.access_token))
        await dead(phone.access_token)

        phone = (await auth.sign_in(ann)).tokens
        listed = await auth.stub.ListSessions(pb.ListSessionsRequest(), metadata=ann.bearer)
        other = next(session for session in listed.sessions if not session.current)
        await auth.stub.RevokeSession(
            pb.RevokeSessionRequest(session_id=other.session_id), metadata=ann.bearer
        )
        await dead(phone.access_token)

        phone = (await auth.sign_in(ann)).tokens
        renewed = await refresh(auth, phone.refresh_token)
        with refused(Reason.SESSION_REVOKED):
            await refresh(auth, phone.refresh_token)
        await dead(phone.access_token)
        await dead(renewed.access_token)

        key = await auth.stub.CreateApiKey(
            pb.CreateApiKeyRequest(name="bot", scopes=[pb.SCOPE_TRADE]), metadata=ann.bearer
        )
        token = await auth.stub.ExchangeApiKey(
            pb.ExchangeApiKeyRequest(api_key_id=key.api_key.api_key_id, secret=key.secret)
        )
        await verifier.verify(token.access_token)
        await auth.stub.RevokeApiKey(
            pb.RevokeApiKeyRequest(api_key_id=key.api_key.api_key_id), metadata=ann.bearer
        )
        await dead(token.access_token)

        phone = (await auth.sign_in(ann)).tokens
        await auth.stub.ChangePassword(
            pb.ChangePasswordRequest(current_password=PASSWORD, new_password="new-harbour-1"),
            metadata=ann.bearer,
        )
        await dead(phone.access_token)
        await verifier.verify(ann.tokens.access_token)

        await auth.stub.RequestPasswordReset(pb.RequestPasswordResetRequest(email=ann.email))
        code = await auth.mail.code_for(ann.email, nth=2)
        await auth.stub.ResetPassword(
            pb.ResetPasswordRequest(email=ann.email, code=code, new_password=PASSWORD)
        )
        await dead(ann.tokens.access_token)

        ann.tokens = (await auth.sign_in(ann)).tokens
        phone = (await auth.sign_in(ann)).tokens
        await auth.stub.SignOut(pb.SignOutRequest(all_sessions=True), metadata=ann.bearer)
        for tokens in (ann.tokens, phone):
            await dead(tokens.access_token)
        await verifier.verify(bob.tokens.access_token)
    finally:
        await cancel_and_wait(following)
        await redis.aclose()


async def test_a_session_ends_some_day_however_often_it_is_refreshed(
    settings: Settings, mail_server: MailServer
) -> None:
    day = 86_400
    short = settings.model_copy(
        update={"session_max_days": 3, "refresh_token_seconds": 2 * day, "signing_key_days": 0}
    )
    async with running_auth(short, mail_server) as auth:
        ann = await auth.sign_up()
        opened = ann.user.create_time.seconds
        tokens = ann.tokens
        for _ in range(2):
            auth.clock.advance(seconds=day)
            tokens = await refresh(auth, tokens.refresh_token)
        assert tokens.refresh_expire_time.seconds <= opened + 3 * day + 1
        # What is left of the session is less than an access token's life.
        auth.clock.advance(seconds=day - 60)
        tokens = await refresh(auth, tokens.refresh_token)
        assert tokens.access_expire_time.seconds <= opened + 3 * day + 1
        auth.clock.advance(seconds=61)
        with refused(Reason.SESSION_REVOKED):
            await refresh(auth, tokens.refresh_token)


async def test_a_sign_in_that_meets_a_password_reset_opens_nothing(
    auth: Auth, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old password was right a moment ago; its session must not outlive the reset."""
    ann = await auth.sign_up()
    await auth.stub.RequestPasswordReset(pb.RequestPasswordResetRequest(email=ann.email))
    code = await auth.mail.code_for(ann.email, nth=2)
    opening = Sessions.open

    async def reset_first(sessions: Sessions, user: User, client: Client) -> Tokens:
        monkeypatch.setattr(Sessions, "open", opening)
        await auth.stub.ResetPassword(
            pb.ResetPasswordRequest(email=ann.email, code=code, new_password="new-harbour-1")
        )
        return await opening(sessions, user, client)

    monkeypatch.setattr(Sessions, "open", reset_first)
    with refused(Reason.BAD_CREDENTIALS):
        await auth.sign_in(ann)
    opened = await auth.stub.SignIn(pb.SignInRequest(email=ann.email, password="new-harbour-1"))
    listed = await auth.stub.ListSessions(
        pb.ListSessionsRequest(), metadata=bearer(opened.tokens.access_token)
    )
    assert [session.current for session in listed.sessions] == [True]


async def test_the_oldest_session_makes_room_for_one_too_many(auth: Auth) -> None:
    ann = await auth.sign_up()
    for _ in range(SESSIONS_MAX):
        auth.clock.advance(seconds=1)
        newest = (await auth.sign_in(ann)).tokens
    with refused(Reason.SESSION_REVOKED):
        await auth.stub.GetMe(pb.GetMeRequest(), metadata=ann.bearer)
    listed = await auth.stub.ListSessions(
        pb.ListSessionsRequest(), metadata=bearer(newest.access_token)
    )
    assert len(listed.sessions) == SESSIONS_MAX
