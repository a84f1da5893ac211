"""Who may call what: tokens of users, certificates of services."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from tidebook.auth.v1 import auth_pb2, auth_pb2_grpc
from tidebook.engine.v1 import (
    market_pb2,
    market_pb2_grpc,
    order_pb2,
    order_pb2_grpc,
)
from tidebook.gateway.v1 import gateway_pb2
from tidebook.marketdata.v1 import marketdata_pb2
from tidebook.settlement.v1 import ledger_pb2

from kernel.reasons import Reason
from mesh.channel import open_channel
from mesh.config import Settings
from mesh.interceptors import PUBLIC_METHODS
from mesh.server import ServiceHost
from mesh.tokens import TokenSigner, TokenVerifier, encode_key, signing_keys_from
from tests.mesh.conftest import VALID_ORDER, Mesh, refusal
from tests.support import free_ports


async def test_an_open_method_needs_no_token(mesh: Mesh) -> None:
    stub = market_pb2_grpc.MarketServiceStub(await mesh.public())
    await stub.GetServerTime(market_pb2.GetServerTimeRequest())


async def test_an_open_method_ignores_a_stale_token(mesh: Mesh) -> None:
    stub = market_pb2_grpc.MarketServiceStub(await mesh.public())
    await stub.GetServerTime(
        market_pb2.GetServerTimeRequest(), metadata=(("authorization", "Bearer nonsense"),)
    )


async def test_a_missing_token_is_refused(mesh: Mesh) -> None:
    stub = order_pb2_grpc.OrderServiceStub(await mesh.public())
    refused = await refusal(stub.GetAccount(order_pb2.GetAccountRequest()))
    assert refused.reason is Reason.UNAUTHENTICATED


async def test_the_account_comes_from_the_token(mesh: Mesh) -> None:
    stub = order_pb2_grpc.OrderServiceStub(await mesh.public())
    call = stub.GetAccount(order_pb2.GetAccountRequest(), metadata=mesh.bearer(account_id=42))
    await call
    assert dict(await call.trailing_metadata()) == {"x-account": "42", "x-service": "none"}


async def test_an_expired_token_is_refused_also_when_it_was_seen_before(mesh: Mesh) -> None:
    stub = order_pb2_grpc.OrderServiceStub(await mesh.public())
    metadata = mesh.bearer(ttl=60)
    await stub.GetAccount(order_pb2.GetAccountRequest(), metadata=metadata)
    mesh.clock.advance(60 * 10**9)
    refused = await refusal(stub.GetAccount(order_pb2.GetAccountRequest(), metadata=metadata))
    assert refused.reason is Reason.TOKEN_EXPIRED


async def test_a_token_without_the_scope_is_refused(mesh: Mesh) -> None:
    stub = order_pb2_grpc.OrderServiceStub(await mesh.public())
    refused = await refusal(stub.PlaceOrder(VALID_ORDER, metadata=mesh.bearer(scopes="read")))
    assert refused.reason is Reason.SCOPE_MISSING
    assert refused.details == {"scope": "trade"}


async def test_a_token_for_some_networks_is_refused_from_elsewhere(mesh: Mesh) -> None:
    public = order_pb2_grpc.OrderServiceStub(await mesh.public())
    inside = order_pb2_grpc.OrderServiceStub(await mesh.internal("gateway"))
    request = order_pb2.GetAccountRequest()

    def bearer(*networks: str) -> tuple[tuple[str, str], ...]:
        token = mesh.signer.sign(
            user_id="u",
            account_id=7,
            session_id="s",
            scopes=["read", "trade"],
            ttl_seconds=600,
            networks=networks,
        )
        return (("authorization", f"Bearer {token}"),)

    here, there = bearer("127.0.0.0/8", "::1/128"), bearer("203.0.113.0/24")
    await public.GetAccount(request, metadata=here)
    # Anybody can write anything into a header.
    for more in ((), (("x-forwarded-for", "203.0.113.9"),)):
        refused = await refusal(public.GetAccount(request, metadata=(*there, *more)))
        assert refused.reason is Reason.IP_NOT_ALLOWED
    watch = public.WatchAccount(order_pb2.WatchAccountRequest(), metadata=there)
    with pytest.raises(grpc.RpcError):
        await watch.read()
        await watch.read()
    # The gateway says for whom it asks; a service that asks for itself has checked before.
    for forwarded in ("203.0.113.9", "198.51.100.1, 203.0.113.9"):
        await inside.GetAccount(request, metadata=(*there, ("x-forwarded-for", forwarded)))
    await inside.GetAccount(request, metadata=there)
    metadata = (*there, ("x-forwarded-for", "203.0.113.9, 198.51.100.1"))
    refused = await refusal(inside.GetAccount(request, metadata=metadata))
    assert refused.reason is Reason.IP_NOT_ALLOWED


async def test_another_scheme_than_bearer_is_refused(mesh: Mesh) -> None:
    stub = order_pb2_grpc.OrderServiceStub(await mesh.public())
    refused = await refusal(
        stub.GetAccount(order_pb2.GetAccountRequest(), metadata=(("authorization", "Basic x"),))
    )
    assert refused.reason is Reason.TOKEN_INVALID


async def test_an_allowed_service_calls_and_may_bring_a_user(mesh: Mesh) -> None:
    stub = order_pb2_grpc.OrderServiceStub(await mesh.internal("gateway"))
    call = stub.GetAccount(order_pb2.GetAccountRequest(), metadata=mesh.bearer(account_id=9))
    await call
    assert dict(await call.trailing_metadata()) == {"x-account": "9", "x-service": "gateway"}


async def test_a_service_without_a_user_has_no_account(mesh: Mesh) -> None:
    stub = order_pb2_grpc.OrderServiceStub(await mesh.internal("gateway"))
    refused = await refusal(stub.GetAccount(order_pb2.GetAccountRequest()))
    assert refused.reason is Reason.UNAUTHENTICATED


async def test_a_service_off_the_list_is_refused(mesh: Mesh) -> None:
    stub = market_pb2_grpc.MarketServiceStub(await mesh.internal("auth"))
    refused = await refusal(stub.GetServerTime(market_pb2.GetServerTimeRequest()))
    assert refused.reason is Reason.CALLER_NOT_ALLOWED


async def test_a_client_without_a_certificate_does_not_get_in(mesh: Mesh) -> None:
    authority = (mesh.settings.certificates_dir / "ca.crt").read_bytes()
    channel = grpc.aio.secure_channel(
        f"127.0.0.1:{mesh.host.internal_port}", grpc.ssl_channel_credentials(authority)
    )
    async with channel:
        stub = market_pb2_grpc.MarketServiceStub(channel)
        refused = await refusal(stub.GetServerTime(market_pb2.GetServerTimeRequest(), timeout=5))
    assert refused.reason is Reason.UNAVAILABLE


async def test_verifiers_get_the_signing_keys_from_auth(settings: Settings) -> None:
    signer = TokenSigner(Ed25519PrivateKey.generate(), "k9")

    class Auth(auth_pb2_grpc.AuthServiceServicer):
        async def GetSigningKeys(
            self, request: auth_pb2.GetSigningKeysRequest, context: Any
        ) -> auth_pb2.GetSigningKeysResponse:
            key = auth_pb2.SigningKey(kid="k9", alg="EdDSA", x=encode_key(signer.public_key))
            return auth_pb2.GetSigningKeysResponse(keys=[key])

    auth_settings = settings.model_copy(update={"auth_port": free_ports([0, 100])})
    host = await ServiceHost.start(
        auth_settings,
        service="auth",
        public=[(auth_pb2_grpc.add_AuthServiceServicer_to_server, Auth())],  # type: ignore[abstract]
    )
    try:
        async with open_channel(auth_settings, "auth", caller="engine") as channel:
            verifier = TokenVerifier(signing_keys_from(channel))
            token = signer.sign(
                user_id="u", account_id=3, session_id="s", scopes=["read"], ttl_seconds=60
            )
            assert (await verifier.verify(token)).account_id == 3
    finally:
        await host.drain()


def test_the_list_of_open_methods_names_methods_that_exist() -> None:
    files = (
        *(auth_pb2, market_pb2, marketdata_pb2, ledger_pb2),
        *(gateway_pb2, health_pb2, reflection_pb2),
    )
    services = {
        service.full_name: service
        for file in files
        for service in file.DESCRIPTOR.services_by_name.values()
    }
    for name in PUBLIC_METHODS:
        service, method = name[1:].split("/")
        assert not method or method in services[service].methods_by_name, name
        assert service in services
