"""Sessions that end before their tokens do: whoever verifies tokens knows it, streams included."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from redis.asyncio import Redis
from tidebook.engine.v1 import order_pb2, order_pb2_grpc

from kernel.clock import ManualClock
from kernel.reasons import Reason, Refused
from mesh.aio import cancel_and_wait
from mesh.config import Settings
from mesh.revocation import EndedSessions, RevocationLog
from mesh.streams import renew_stream
from mesh.tokens import TokenSigner, TokenVerifier
from tests.mesh.conftest import NOW_NS, Servicer, start_host
from tests.support import eventually
from tests.support.streams import reason_of_end

TOKEN_SECONDS = 600


class RenewingServicer(Servicer):
    """Takes newer tokens on its streams of commands, as the engine does."""

    async def TradeStream(
        self, request_iterator: AsyncIterator[order_pb2.TradeStreamRequest], context: Any
    ) -> AsyncIterator[order_pb2.TradeStreamResponse]:
        async for request in request_iterator:
            if request.access_token:
                await renew_stream(request.access_token)
            yield order_pb2.TradeStreamResponse()
        yield order_pb2.TradeStreamResponse()
        self.finished.append("trade stream")


class World:
    """One service that verifies tokens, and the log of ended sessions it follows."""

    def __init__(self, settings: Settings, redis: Redis) -> None:
        self.clock = ManualClock(NOW_NS)
        self.signer = TokenSigner(Ed25519PrivateKey.generate(), "k1", clock=self.clock)
        self.log = RevocationLog(redis, self.clock, token_seconds=TOKEN_SECONDS)
        self.servicer = RenewingServicer()  # type: ignore[abstract]
        self.ended = EndedSessions(redis, self.clock)
        self.verifier = self.verifier_of(self.ended)
        self.settings = settings

    def verifier_of(self, ended: EndedSessions) -> TokenVerifier:
        async def keys() -> dict[str, bytes]:
            return {"k1": self.signer.public_key}

        return TokenVerifier(keys, clock=self.clock, ended=ended)

    def token(self, session_id: str = "s-1", *, ttl: int = TOKEN_SECONDS, **changes: Any) -> str:
        claims: dict[str, Any] = {"user_id": "u", "account_id": 7, "scopes": ["read", "trade"]}
        return self.signer.sign(session_id=session_id, ttl_seconds=ttl, **claims | changes)

    def bearer(self, *arguments: Any, **options: Any) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token(*arguments, **options)}"),)


@contextlib.asynccontextmanager
async def following(ended: EndedSessions) -> AsyncIterator[None]:
    task = asyncio.create_task(ended.run())
    try:
        yield
    finally:
        await cancel_and_wait(task)


@pytest_asyncio.fixture
async def world(settings: Settings, redis: Redis) -> AsyncIterator[World]:
    world = World(settings, redis)
    host = await start_host(settings, world.servicer, world.verifier)
    async with following(world.ended):
        yield world
    await host.drain()


@pytest_asyncio.fixture
async def stub(world: World) -> AsyncIterator[order_pb2_grpc.OrderServiceAsyncStub]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{world.settings.engine_port}") as channel:
        yield order_pb2_grpc.OrderServiceStub(channel)


async def refused(verifier: TokenVerifier, token: str) -> Reason:
    with pytest.raises(Refused) as caught:
        await verifier.verify(token)
    return caught.value.reason


async def test_an_ended_sessions_token_is_refused_and_no_other(world: World) -> None:
    token, other = world.token("s-1"), world.token("s-2")
    await world.verifier.verify(token)
    await world.log.add(["s-1"])

    async def told() -> None:
        assert await refused(world.verifier, token) is Reason.SESSION_REVOKED

    await eventually(told)
    with pytest.raises(Refused) as caught:
        world.verifier.verified(token)
    assert caught.value.reason is Reason.SESSION_REVOKED
    await world.verifier.verify(other)
    # A newer token of the same session helps nobody.
    assert await refused(world.verifier, world.token("s-1", ttl=60)) is Reason.SESSION_REVOKED


async def test_a_process_that_starts_later_knows_it_from_its_first_call_on(
    world: World, redis: Redis
) -> None:
    await world.log.add([f"s-{number}" for number in range(2500)])
    late = EndedSessions(redis, world.clock)
    verifier = world.verifier_of(late)
    async with following(late):
        for number in (0, 1700, 2499):
            assert await refused(verifier, world.token(f"s-{number}")) is Reason.SESSION_REVOKED


async def test_an_end_is_forgotten_when_no_token_can_be_alive(world: World) -> None:
    await world.log.add(["s-1"])
    await eventually(lambda: "s-1" in world.ended)
    world.clock.advance((TOKEN_SECONDS + 61) * 10**9)
    await world.log.add(["s-2"])
    await eventually(lambda: "s-2" in world.ended)
    assert len(world.ended) == 1


async def test_without_redis_tokens_are_good_until_they_expire(settings: Settings) -> None:
    """There is nobody then who could end a session: sessions are there as well."""
    nowhere = Redis.from_url("redis://127.0.0.1:1", socket_connect_timeout=0.1)
    world = World(settings, nowhere)
    async with following(world.ended):
        await world.verifier.verify(world.token())
    await nowhere.aclose()


async def test_a_watch_ends_with_its_session(
    world: World, stub: order_pb2_grpc.OrderServiceAsyncStub
) -> None:
    watch: Any = stub.WatchAccount(order_pb2.WatchAccountRequest(), metadata=world.bearer("s-1"))
    other: Any = stub.WatchAccount(order_pb2.WatchAccountRequest(), metadata=world.bearer("s-2"))
    await watch.read()
    await other.read()
    await world.log.add(["s-1"])
    assert await reason_of_end(watch) is Reason.SESSION_REVOKED
    assert world.servicer.finished == ["watch of 7"]
    assert not other.done()
    other.cancel()


async def test_a_trade_stream_ends_with_its_session_after_what_is_in_flight(
    world: World, stub: order_pb2_grpc.OrderServiceAsyncStub
) -> None:
    stream: Any = stub.TradeStream(metadata=world.bearer())
    await stream.write(order_pb2.TradeStreamRequest())
    await stream.read()
    await world.log.add(["s-1"])
    assert isinstance(await stream.read(), order_pb2.TradeStreamResponse)
    assert await reason_of_end(stream) is Reason.SESSION_REVOKED
    assert world.servicer.finished == ["trade stream"]


async def test_streams_end_when_their_token_expires(
    world: World, stub: order_pb2_grpc.OrderServiceAsyncStub
) -> None:
    watch: Any = stub.WatchAccount(order_pb2.WatchAccountRequest(), metadata=world.bearer(ttl=1))
    stream: Any = stub.TradeStream(metadata=world.bearer(ttl=1))
    assert await reason_of_end(watch) is Reason.TOKEN_EXPIRED
    assert await reason_of_end(stream) is Reason.TOKEN_EXPIRED


async def test_a_trade_stream_goes_on_with_a_newer_token(
    world: World, stub: order_pb2_grpc.OrderServiceAsyncStub
) -> None:
    renewed: Any = stub.TradeStream(metadata=world.bearer(ttl=5))
    left_alone: Any = stub.TradeStream(metadata=world.bearer(ttl=5))
    await renewed.write(order_pb2.TradeStreamRequest(access_token=world.token("s-2")))
    await renewed.read()
    assert await reason_of_end(left_alone) is Reason.TOKEN_EXPIRED
    await renewed.write(order_pb2.TradeStreamRequest())
    assert isinstance(await renewed.read(), order_pb2.TradeStreamResponse)
    # It is of the newer token's session now.
    await world.log.add(["s-2"])
    assert await reason_of_end(renewed) is Reason.SESSION_REVOKED


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"account_id": 8}, Reason.TOKEN_INVALID),
        ({"scopes": ["read"]}, Reason.SCOPE_MISSING),
        ({"ttl": 0}, Reason.TOKEN_EXPIRED),
    ],
    ids=["another account", "fewer scopes", "expired"],
)
async def test_a_stream_is_not_renewed_by_any_token(
    world: World,
    stub: order_pb2_grpc.OrderServiceAsyncStub,
    changes: dict[str, Any],
    reason: Reason,
) -> None:
    stream: Any = stub.TradeStream(metadata=world.bearer())
    await stream.write(order_pb2.TradeStreamRequest(access_token=world.token(**changes)))
    assert await reason_of_end(stream) is reason
