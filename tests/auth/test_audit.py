"""The audit trail: an account's owner sees what happened around its security, and nobody else."""

from __future__ import annotations

import pyotp
from tidebook.auth.v1 import auth_pb2 as pb

from kernel.reasons import Reason
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
    secret = (
        await auth.stub.EnableTotp(pb.EnableTotpRequest(password=ann.password), metadata=ann.bearer)
    ).secret
    await auth.stub.ConfirmTotp(
        pb.ConfirmTotpRequest(code=pyotp.TOTP(secret).now()), metadata=ann.bearer
    )
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
    auth.clock.advance(seconds=60)
    await auth.stub.DisableTotp(
        pb.DisableTotpRequest(
            password=ann.password, code=pyotp.TOTP(secret).at(auth.clock.now_ns() // 10**9)
        ),
        metadata=ann.bearer,
    )
    await auth.stub.ChangePassword(
        pb.ChangePasswordRequest(current_password=ann.password, new_password="a-day-by-the-sea"),
        metadata=ann.bearer,
    )
    expected = {
        "ACCOUNT_OPENED",
        "SIGNED_IN",
        "SECOND_FACTOR_ENABLED",
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
