"""The audit trail: an account's owner sees what happened around its security, and nobody else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tidebook.auth.v1 import auth_pb2 as pb

from kernel.reasons import Reason
from ops import sessions
from services.auth.audit import Happened
from tests.auth.conftest import Auth, Person, bearer, refused
from tests.support import eventually

PREFIX = "SECURITY_EVENT_KIND_"


async def events(auth: Auth, person: Person, **page: object) -> pb.ListSecurityEventsResponse:
    request = pb.ListSecurityEventsRequest(**page)  # type: ignore[arg-type]
    return await auth.stub.ListSecurityEvents(request, metadata=person.bearer)


async def kinds(auth: Auth, person: Person) -> list[str]:
    """Newest first."""
    answer = await events(auth, person, page_size=500)
    return [pb.SecurityEventKind.Name(e.kind).removeprefix(PREFIX) for e in answer.events]


async def test_everything_that_changes_an_account_is_there_with_its_origin(auth: Auth) -> None:
    ann = await auth.sign_up()
    ann.tokens = (await auth.sign_in(ann)).tokens
    app = await auth.enable_totp(ann)
    key = await auth.stub.CreateApiKey(
        pb.CreateApiKeyRequest(name="bot", scopes=[pb.SCOPE_READ], ip_allow_list=["192.0.2.0/24"]),
        metadata=ann.bearer,
    )
    with refused(Reason.IP_NOT_ALLOWED):
        await auth.stub.ExchangeApiKey(
            pb.ExchangeApiKeyRequest(api_key_id=key.api_key.api_key_id, secret=key.secret)
        )
    await auth.stub.RevokeApiKey(
        pb.RevokeApiKeyRequest(api_key_id=key.api_key.api_key_id), metadata=ann.bearer
    )
    await auth.stub.DisableTotp(
        pb.DisableTotpRequest(password=ann.password, code=app.next_code()), metadata=ann.bearer
    )
    await auth.stub.ChangePassword(
        pb.ChangePasswordRequest(current_password=ann.password, new_password="a-day-by-the-sea"),
        metadata=ann.bearer,
    )
    expected = {
        "ACCOUNT_OPENED",
        "SIGNED_IN",
        "SECOND_FACTOR_ENABLED",
        "RECOVERY_CODES_CREATED",
        "API_KEY_CREATED",
        "API_KEY_REFUSED",
        "API_KEY_REVOKED",
        "SECOND_FACTOR_DISABLED",
        "PASSWORD_CHANGED",
    }

    async def all_there() -> None:
        assert set(await kinds(auth, ann)) == expected

    await eventually(all_there)
    answer = await events(auth, ann)
    assert {event.ip_address for event in answer.events} == {"127.0.0.1"}
    about_the_key = [e for e in answer.events if e.subject == key.api_key.api_key_id]
    assert len(about_the_key) == 3


async def wrong_password(auth: Auth, ann: Person) -> None:
    with refused(Reason.BAD_CREDENTIALS):
        await auth.stub.SignIn(pb.SignInRequest(email=ann.email, password="not the password"))


async def wrong_password_inside(auth: Auth, ann: Person) -> None:
    with refused(Reason.BAD_CREDENTIALS):
        await auth.stub.EnableTotp(
            pb.EnableTotpRequest(password="not the password"), metadata=ann.bearer
        )


async def locked(auth: Auth, ann: Person) -> None:
    for _ in range(auth.settings.signin_max_failures):
        await wrong_password(auth, ann)


async def locked_by_codes(auth: Auth, ann: Person) -> None:
    code = (await auth.enable_totp(ann)).spent_code
    for _ in range(auth.settings.signin_max_failures):
        with refused(Reason.OTP_INVALID):
            await auth.sign_in(ann, totp_code=code)


async def wrong_code(auth: Auth, ann: Person) -> None:
    code = (await auth.enable_totp(ann)).spent_code
    with refused(Reason.OTP_INVALID):
        await auth.sign_in(ann, totp_code=code)


async def wrong_recovery_code(auth: Auth, ann: Person) -> None:
    await auth.enable_totp(ann)
    with refused(Reason.OTP_INVALID):
        await auth.stub.SignIn(
            pb.SignInRequest(email=ann.email, password=ann.password, recovery_code="no such code")
        )


async def recovered(auth: Auth, ann: Person) -> None:
    recovery_code = (await auth.enable_totp(ann)).recovery_codes[0]
    await auth.stub.SignIn(
        pb.SignInRequest(email=ann.email, password=ann.password, recovery_code=recovery_code)
    )


async def recovery_codes_renewed(auth: Auth, ann: Person) -> None:
    recovery_code = (await auth.enable_totp(ann)).recovery_codes[0]
    await auth.stub.CreateRecoveryCodes(
        pb.CreateRecoveryCodesRequest(password=ann.password, recovery_code=recovery_code),
        metadata=ann.bearer,
    )


async def wrong_code_inside(auth: Auth, ann: Person) -> None:
    code = (await auth.enable_totp(ann)).spent_code
    with refused(Reason.OTP_INVALID):
        await auth.stub.DisableTotp(
            pb.DisableTotpRequest(password=ann.password, code=code), metadata=ann.bearer
        )


async def second_factor_ended(auth: Auth, ann: Person) -> None:
    app = await auth.enable_totp(ann)
    await auth.stub.DisableTotp(
        pb.DisableTotpRequest(password=ann.password, code=app.next_code()), metadata=ann.bearer
    )


async def signed_in(auth: Auth, ann: Person) -> None:
    await auth.sign_in(ann)


async def signed_out(auth: Auth, ann: Person) -> None:
    other = (await auth.sign_in(ann)).tokens
    await auth.stub.SignOut(pb.SignOutRequest(), metadata=bearer(other.access_token))


async def session_revoked(auth: Auth, ann: Person) -> None:
    await auth.sign_in(ann)
    listed = await auth.stub.ListSessions(pb.ListSessionsRequest(), metadata=ann.bearer)
    [other] = [session for session in listed.sessions if not session.current]
    await auth.stub.RevokeSession(
        pb.RevokeSessionRequest(session_id=other.session_id), metadata=ann.bearer
    )


async def refresh_token_reused(auth: Auth, ann: Person) -> None:
    other = (await auth.sign_in(ann)).tokens
    request = pb.RefreshTokenRequest(refresh_token=other.refresh_token)
    await auth.stub.RefreshToken(request)
    with refused(Reason.SESSION_REVOKED):
        await auth.stub.RefreshToken(request)


async def password_changed(auth: Auth, ann: Person) -> None:
    await auth.stub.ChangePassword(
        pb.ChangePasswordRequest(current_password=ann.password, new_password="a-day-by-the-sea"),
        metadata=ann.bearer,
    )


async def reset_requested(auth: Auth, ann: Person) -> None:
    await auth.stub.RequestPasswordReset(pb.RequestPasswordResetRequest(email=ann.email))


async def password_reset(auth: Auth, ann: Person) -> None:
    await reset_requested(auth, ann)
    code = await auth.mail.code_for(ann.email, nth=2)
    await auth.stub.ResetPassword(
        pb.ResetPasswordRequest(email=ann.email, code=code, new_password=ann.password)
    )
    ann.tokens = (await auth.sign_in(ann)).tokens


async def key_made(auth: Auth, ann: Person) -> None:
    await auth.stub.CreateApiKey(
        pb.CreateApiKeyRequest(name="bot", scopes=[pb.SCOPE_READ]), metadata=ann.bearer
    )


async def key_revoked(auth: Auth, ann: Person) -> None:
    await key_made(auth, ann)
    listed = await auth.stub.ListApiKeys(pb.ListApiKeysRequest(), metadata=ann.bearer)
    await auth.stub.RevokeApiKey(
        pb.RevokeApiKeyRequest(api_key_id=listed.api_keys[0].api_key_id), metadata=ann.bearer
    )


async def key_refused(auth: Auth, ann: Person) -> None:
    made = await auth.stub.CreateApiKey(
        pb.CreateApiKeyRequest(name="bot", scopes=[pb.SCOPE_READ], ip_allow_list=["192.0.2.1"]),
        metadata=ann.bearer,
    )
    with refused(Reason.IP_NOT_ALLOWED):
        await auth.stub.ExchangeApiKey(
            pb.ExchangeApiKeyRequest(api_key_id=made.api_key.api_key_id, secret=made.secret)
        )


async def ended_by_operator(auth: Auth, ann: Person) -> None:
    await sessions.end(auth.settings, sessions.Whose(email=ann.email), api_keys=False)
    ann.tokens = (await auth.sign_in(ann)).tokens


async def nothing(auth: Auth, ann: Person) -> None:
    """Signing up was enough."""


Deed = Callable[[Auth, Person], Awaitable[None]]
# What each kind stands for: somebody does it, in one way or in several.
DEEDS: dict[str, tuple[Deed, ...]] = {
    "ACCOUNT_OPENED": (nothing,),
    "SIGNED_IN": (signed_in,),
    "SIGN_IN_FAILED": (wrong_password, wrong_password_inside),
    "SECOND_FACTOR_FAILED": (wrong_code, wrong_code_inside, wrong_recovery_code),
    "ACCOUNT_LOCKED": (locked, locked_by_codes),
    "SIGNED_OUT": (signed_out,),
    "SESSION_REVOKED": (session_revoked,),
    "REFRESH_TOKEN_REUSED": (refresh_token_reused,),
    "PASSWORD_CHANGED": (password_changed,),
    "PASSWORD_RESET_REQUESTED": (reset_requested,),
    "PASSWORD_RESET": (password_reset,),
    "SECOND_FACTOR_ENABLED": (wrong_code,),
    "SECOND_FACTOR_DISABLED": (second_factor_ended,),
    "API_KEY_CREATED": (key_made,),
    "API_KEY_REVOKED": (key_revoked,),
    "API_KEY_REFUSED": (key_refused,),
    "RECOVERY_CODES_CREATED": (wrong_code, recovery_codes_renewed),
    "RECOVERY_CODE_USED": (recovered, recovery_codes_renewed),
    "ENDED_BY_OPERATOR": (ended_by_operator,),
}
# From where, and with what, where it was not done by a client.
ORIGINS = {"ENDED_BY_OPERATOR": ("", "operator")}


def test_every_kind_of_the_contract_has_a_deed() -> None:
    known = {name.removeprefix(PREFIX) for name, _ in pb.SecurityEventKind.items()}
    assert set(DEEDS) == known - {"UNSPECIFIED"} == {kind.value for kind in Happened}


async def test_every_kind_is_written_and_read_by_its_owner_alone(auth: Auth) -> None:
    bob = await auth.sign_up()
    for kind, deeds in DEEDS.items():
        for deed in deeds:
            ann = await auth.sign_up()
            await deed(auth, ann)

            async def written(ann: Person = ann, kind: str = kind) -> pb.SecurityEvent:
                answer = await events(auth, ann, page_size=500)
                wanted = pb.SecurityEventKind.Value(PREFIX + kind)
                return next(event for event in answer.events if event.kind == wanted)

            event = await eventually(written)
            address, program = ORIGINS.get(kind, ("127.0.0.1", "grpc-python"))
            assert event.ip_address == address, kind
            assert event.user_agent.startswith(program), kind
            assert abs(event.time.seconds - auth.clock.now_ns() // 10**9) < 120, kind
    assert await kinds(auth, bob) == ["ACCOUNT_OPENED"]


async def test_failed_sign_ins_are_seen_by_the_owner_alone(auth: Auth) -> None:
    ann, bob = await auth.sign_up(), await auth.sign_up()
    for _ in range(2):
        with refused(Reason.BAD_CREDENTIALS):
            await auth.stub.SignIn(pb.SignInRequest(email=ann.email, password="not the password"))

    async def both() -> None:
        assert (await kinds(auth, ann)).count("SIGN_IN_FAILED") == 2

    await eventually(both)
    assert await kinds(auth, bob) == ["ACCOUNT_OPENED"]


async def test_a_stolen_refresh_token_leaves_a_trace(auth: Auth) -> None:
    ann = await auth.sign_up()
    request = pb.RefreshTokenRequest(refresh_token=ann.tokens.refresh_token)
    await auth.stub.RefreshToken(request)
    with refused(Reason.SESSION_REVOKED):
        await auth.stub.RefreshToken(request)
    ann.tokens = (await auth.sign_in(ann)).tokens
    assert await kinds(auth, ann) == ["SIGNED_IN", "REFRESH_TOKEN_REUSED", "ACCOUNT_OPENED"]


async def test_the_trail_comes_in_pages(auth: Auth) -> None:
    ann = await auth.sign_up()
    for _ in range(4):
        ann.tokens = (await auth.sign_in(ann)).tokens
    seen: list[int] = []
    token = ""
    while True:
        page = await events(auth, ann, page_size=2, page_token=token)
        seen += [event.kind for event in page.events]
        token = page.next_page_token
        if not token:
            break
        assert len(page.events) == 2
    assert seen == [pb.SECURITY_EVENT_KIND_SIGNED_IN] * 4 + [pb.SECURITY_EVENT_KIND_ACCOUNT_OPENED]
    with refused(Reason.INVALID_ARGUMENT):
        await events(auth, ann, page_token="12x")


async def test_an_api_key_may_not_read_the_trail(auth: Auth) -> None:
    ann = await auth.sign_up()
    key = await auth.stub.CreateApiKey(
        pb.CreateApiKeyRequest(name="bot", scopes=[pb.SCOPE_READ]), metadata=ann.bearer
    )
    token = (
        await auth.stub.ExchangeApiKey(
            pb.ExchangeApiKeyRequest(api_key_id=key.api_key.api_key_id, secret=key.secret)
        )
    ).access_token
    with refused(Reason.SCOPE_MISSING):
        await auth.stub.ListSecurityEvents(pb.ListSecurityEventsRequest(), metadata=bearer(token))
