"""API keys: scopes, networks, expiry, revocation, exchange."""

from __future__ import annotations

import asyncio
import datetime as dt

import asyncpg
import jwt
from google.protobuf.timestamp_pb2 import Timestamp
from tidebook.auth.v1 import auth_pb2 as pb
from tidebook.auth.v1 import auth_pb2_grpc

from kernel.reasons import Reason
from mesh.channel import open_channel
from tests.auth.conftest import Auth, Person, bearer, refused


async def make_key(
    auth: Auth,
    owner: Person,
    *,
    scopes: tuple[pb.Scope.ValueType, ...] = (pb.SCOPE_READ, pb.SCOPE_TRADE),
    ip_allow_list: tuple[str, ...] = (),
    expires_in_seconds: int | None = None,
) -> pb.CreateApiKeyResponse:
    expire_time = None
    if expires_in_seconds is not None:
        expire_time = Timestamp()
        expire_time.FromNanoseconds(auth.clock.now_ns() + expires_in_seconds * 1_000_000_000)
    return await auth.stub.CreateApiKey(
        pb.CreateApiKeyRequest(
            name="bot", scopes=scopes, ip_allow_list=ip_allow_list, expire_time=expire_time
        ),
        metadata=owner.bearer,
    )


async def exchange(auth: Auth, made: pb.CreateApiKeyResponse) -> pb.ExchangeApiKeyResponse:
    return await auth.stub.ExchangeApiKey(
        pb.ExchangeApiKeyRequest(api_key_id=made.api_key.api_key_id, secret=made.secret)
    )


async def test_a_key_is_exchanged_for_a_token_with_its_scopes_only(auth: Auth) -> None:
    ann = await auth.sign_up()
    made = await make_key(auth, ann)
    token = (await exchange(auth, made)).access_token
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["acc"] == ann.user.account_id
    assert claims["scp"] == ["read", "trade"]
    me = await auth.stub.GetMe(pb.GetMeRequest(), metadata=bearer(token))
    assert me.user == ann.user
    assert list(me.scopes) == [pb.SCOPE_READ, pb.SCOPE_TRADE]


async def test_a_keys_token_manages_neither_sessions_nor_keys(auth: Auth) -> None:
    ann = await auth.sign_up()
    made = await make_key(auth, ann)
    metadata = bearer((await exchange(auth, made)).access_token)
    for call in (
        auth.stub.ListSessions(pb.ListSessionsRequest(), metadata=metadata),
        auth.stub.ListApiKeys(pb.ListApiKeysRequest(), metadata=metadata),
        auth.stub.CreateApiKey(
            pb.CreateApiKeyRequest(name="more", scopes=[pb.SCOPE_WITHDRAW]), metadata=metadata
        ),
        auth.stub.SignOut(pb.SignOutRequest(all_sessions=True), metadata=metadata),
    ):
        with refused(Reason.SCOPE_MISSING):
            await call


async def test_the_secret_is_shown_once_and_listed_never(auth: Auth) -> None:
    ann = await auth.sign_up()
    made = await make_key(auth, ann, ip_allow_list=("10.0.0.7", "192.168.0.0/16"))
    listed = await auth.stub.ListApiKeys(pb.ListApiKeysRequest(), metadata=ann.bearer)
    assert list(listed.api_keys) == [made.api_key]
    assert list(made.api_key.ip_allow_list) == ["10.0.0.7/32", "192.168.0.0/16"]
    assert made.secret not in str(listed)


async def test_wrong_secrets_and_unknown_keys_are_refused_alike(auth: Auth) -> None:
    ann = await auth.sign_up()
    made = await make_key(auth, ann)
    for key_id, secret in (
        (made.api_key.api_key_id, made.secret[:-1] + "~"),
        ("tk_unknown", made.secret),
    ):
        with refused(Reason.API_KEY_INVALID):
            await auth.stub.ExchangeApiKey(
                pb.ExchangeApiKeyRequest(api_key_id=key_id, secret=secret)
            )


async def test_a_revoked_key_is_refused_and_nobody_else_can_revoke_it(auth: Auth) -> None:
    ann, bob = await auth.sign_up(), await auth.sign_up()
    made = await make_key(auth, ann)
    request = pb.RevokeApiKeyRequest(api_key_id=made.api_key.api_key_id)
    with refused(Reason.NOT_FOUND):
        await auth.stub.RevokeApiKey(request, metadata=bob.bearer)
    await exchange(auth, made)
    await auth.stub.RevokeApiKey(request, metadata=ann.bearer)
    with refused(Reason.API_KEY_INVALID):
        await exchange(auth, made)
    assert not (await auth.stub.ListApiKeys(pb.ListApiKeysRequest(), metadata=ann.bearer)).api_keys


async def test_an_expired_key_is_refused_and_its_last_token_does_not_outlive_it(
    auth: Auth,
) -> None:
    ann = await auth.sign_up()
    made = await make_key(auth, ann, expires_in_seconds=120)
    token = await exchange(auth, made)
    assert token.expire_time.ToDatetime(dt.UTC) <= made.api_key.expire_time.ToDatetime(dt.UTC)
    auth.clock.advance(seconds=121)
    with refused(Reason.API_KEY_INVALID):
        await exchange(auth, made)
    with refused(Reason.TOKEN_EXPIRED):
        await auth.stub.GetMe(pb.GetMeRequest(), metadata=bearer(token.access_token))


async def test_a_key_works_from_its_networks_only(auth: Auth) -> None:
    ann = await auth.sign_up()
    await exchange(auth, await make_key(auth, ann, ip_allow_list=("127.0.0.0/8",)))
    elsewhere = await make_key(auth, ann, ip_allow_list=("203.0.113.0/24", "2001:db8::/32"))
    with refused(Reason.IP_NOT_ALLOWED):
        await exchange(auth, elsewhere)

    # The gateway, on the internal listener, says for whom it asks; the public may not.
    request = pb.ExchangeApiKeyRequest(
        api_key_id=elsewhere.api_key.api_key_id, secret=elsewhere.secret
    )
    with refused(Reason.IP_NOT_ALLOWED):
        await auth.stub.ExchangeApiKey(request, metadata=(("x-forwarded-for", "203.0.113.9"),))
    async with open_channel(auth.settings, "auth", caller="gateway") as channel:
        stub = auth_pb2_grpc.AuthServiceStub(channel)
        for address in ("203.0.113.9", "198.51.100.1, 203.0.113.9", "2001:db8::5"):
            got = await stub.ExchangeApiKey(request, metadata=(("x-forwarded-for", address),))
        # What the key was exchanged for is of no use elsewhere either.
        with refused(Reason.IP_NOT_ALLOWED):
            await auth.stub.GetMe(pb.GetMeRequest(), metadata=bearer(got.access_token))
        with refused(Reason.IP_NOT_ALLOWED):
            await stub.ExchangeApiKey(
                request, metadata=(("x-forwarded-for", "203.0.113.9, 198.51.100.1"),)
            )


async def test_bad_networks_past_expiries_and_unknown_scopes_are_refused(auth: Auth) -> None:
    ann = await auth.sign_up()
    with refused(Reason.INVALID_ARGUMENT):
        await make_key(auth, ann, ip_allow_list=("somewhere",))
    with refused(Reason.INVALID_ARGUMENT):
        await make_key(auth, ann, expires_in_seconds=-1)
    with refused(Reason.INVALID_ARGUMENT):
        await make_key(auth, ann, scopes=(pb.SCOPE_UNSPECIFIED,))


async def test_keys_made_at_once_stay_within_the_most(auth: Auth) -> None:
    ann = await auth.sign_up()
    results = await asyncio.gather(
        *(make_key(auth, ann) for _ in range(60)), return_exceptions=True
    )
    assert sum(isinstance(result, pb.CreateApiKeyResponse) for result in results) == 50
    connection = await asyncpg.connect(auth.settings.postgres_url)
    try:
        assert await connection.fetchval("select count(*) from auth.api_keys") == 50
    finally:
        await connection.close()
