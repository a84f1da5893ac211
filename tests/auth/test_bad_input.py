"""Input that no form would send: each is refused for what it is, and nothing is changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from tidebook.auth.v1 import auth_pb2 as pb

from kernel.reasons import Reason
from mesh.status import refused_from
from tests.auth.conftest import PASSWORD, Auth, Person, bearer

Call = Callable[[Auth, Person], Awaitable[Any]]
INVALID, KEY_INVALID = Reason.INVALID_ARGUMENT, Reason.API_KEY_INVALID
NOT_FOUND, TOKEN_INVALID = Reason.NOT_FOUND, Reason.TOKEN_INVALID
ENDED = Reason.SESSION_REVOKED


def sign_in(email: str = "a@example.test", password: str = PASSWORD, code: str = "") -> Call:
    request = pb.SignInRequest(email=email, password=password, totp_code=code)
    return lambda auth, _: auth.stub.SignIn(request)


def sign_up(email: str, password: str = PASSWORD) -> Call:
    request = pb.SignUpRequest(email=email, password=password)
    return lambda auth, _: auth.stub.SignUp(request)


def verify(code: str) -> Call:
    request = pb.VerifyOtpRequest(email="a@example.test", code=code)
    return lambda auth, _: auth.stub.VerifyOtp(request)


def refresh(token: str) -> Call:
    request = pb.RefreshTokenRequest(refresh_token=token)
    return lambda auth, _: auth.stub.RefreshToken(request)


def revoke_session(session_id: str) -> Call:
    request = pb.RevokeSessionRequest(session_id=session_id)
    return lambda auth, ann: auth.stub.RevokeSession(request, metadata=ann.bearer)


def create_key(**fields: Any) -> Call:
    request = pb.CreateApiKeyRequest(**{"name": "bot", "scopes": [pb.SCOPE_READ]} | fields)
    return lambda auth, ann: auth.stub.CreateApiKey(request, metadata=ann.bearer)


def revoke_key(api_key_id: str) -> Call:
    request = pb.RevokeApiKeyRequest(api_key_id=api_key_id)
    return lambda auth, ann: auth.stub.RevokeApiKey(request, metadata=ann.bearer)


def exchange(api_key_id: str, secret: str) -> Call:
    request = pb.ExchangeApiKeyRequest(api_key_id=api_key_id, secret=secret)
    return lambda auth, _: auth.stub.ExchangeApiKey(request)


def events(**fields: Any) -> Call:
    request = pb.ListSecurityEventsRequest(**fields)
    return lambda auth, ann: auth.stub.ListSecurityEvents(request, metadata=ann.bearer)


def me(token: str) -> Call:
    return lambda auth, _: auth.stub.GetMe(pb.GetMeRequest(), metadata=bearer(token))


CASES: dict[str, tuple[Call, Reason]] = {
    "no password": (sign_in(password=""), INVALID),
    "a password of a book's length": (sign_in(password="x" * 129), INVALID),
    "no address": (sign_in(email=""), INVALID),
    "an address of a book's length": (sign_in(email="a" * 250 + "@example.test"), INVALID),
    "a zero byte in the address": (sign_in(email="a\0b@example.test"), Reason.EMAIL_INVALID),
    "a line break in the address": (
        sign_up("a@example.test\r\nBcc: b@example.test"),
        Reason.EMAIL_INVALID,
    ),
    "two addresses": (sign_up("a@example.test, b@example.test"), Reason.EMAIL_INVALID),
    "a code of letters": (verify("abcdef"), INVALID),
    "a code of other digits": (verify("١٢٣٤٥٦"), INVALID),
    "a code that ends its line": (verify("123456\n"), INVALID),
    "a second factor of letters": (sign_in(code="abcdef"), INVALID),
    "no refresh token": (refresh(""), TOKEN_INVALID),
    "a refresh token of dots": (refresh("..."), ENDED),
    "a refresh token with a star": (refresh("*.*.*.*"), ENDED),
    "a refresh token with a zero byte": (refresh("a\0.b.c.d"), ENDED),
    "a refresh token of a book's length": (refresh("x" * 201), INVALID),
    "a session of no name": (revoke_session(""), INVALID),
    "a session with a zero byte": (revoke_session("a\0b"), INVALID),
    "a session with a star": (revoke_session("*"), INVALID),
    "nobody's session": (revoke_session("nobodys-session"), NOT_FOUND),
    "a key with a zero byte in its name": (create_key(name="a\0b"), INVALID),
    "a key with a line break in its name": (create_key(name="a\nb"), INVALID),
    "a key without scopes": (create_key(scopes=[]), INVALID),
    "a key with a scope twice": (create_key(scopes=[pb.SCOPE_READ] * 2), INVALID),
    "a key with an unknown scope": (create_key(scopes=[99]), INVALID),
    "a key for 51 networks": (create_key(ip_allow_list=["10.0.0.1"] * 51), INVALID),
    "a key for half a network": (create_key(ip_allow_list=["10.0.0"]), INVALID),
    "a key for a zero byte": (create_key(ip_allow_list=["\0"]), INVALID),
    "a key that expires before all time": (
        create_key(expire_time=Timestamp(seconds=-(2**62))),
        INVALID,
    ),
    "a key that expires after all time": (
        create_key(expire_time=Timestamp(seconds=2**62)),
        INVALID,
    ),
    "a key that expires in no second": (
        create_key(expire_time=Timestamp(seconds=2**31, nanos=-5)),
        INVALID,
    ),
    "nobody's key": (revoke_key("tk_00000000000000000000"), NOT_FOUND),
    "a key's id with a zero byte": (revoke_key("tk_\0"), INVALID),
    "an exchange with a zero byte": (exchange("tk_\0", "secret"), INVALID),
    "an exchange with a zero byte in the secret": (exchange("tk_0", "\0"), KEY_INVALID),
    "a page that is none": (events(page_token="-1"), INVALID),
    "a page beyond all": (events(page_token="9" * 20), INVALID),
    "a page of a whole book": (events(page_size=501), INVALID),
    "no token at all": (me(""), TOKEN_INVALID),
    "a token of dots": (me(".."), TOKEN_INVALID),
    "a token of another world": (me("e30.e30.e30"), TOKEN_INVALID),
    "a token of a book's length": (me("x" * 4000), TOKEN_INVALID),
}


async def test_each_is_refused_for_what_it_is_and_changes_nothing(auth: Auth) -> None:
    ann = await auth.sign_up()

    async def state() -> tuple[Any, ...]:
        listed = await auth.stub.ListSessions(pb.ListSessionsRequest(), metadata=ann.bearer)
        keys = await auth.stub.ListApiKeys(pb.ListApiKeysRequest(), metadata=ann.bearer)
        trail = await auth.stub.ListSecurityEvents(
            pb.ListSecurityEventsRequest(), metadata=ann.bearer
        )
        return len(listed.sessions), len(keys.api_keys), len(trail.events)

    before = await state()
    wrong = {}
    for name, (call, reason) in CASES.items():
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(auth, ann)
        found = refused_from(caught.value).reason
        if found is not reason:
            wrong[name] = (found.name, caught.value.details())
    assert wrong == {}
    assert await state() == before
