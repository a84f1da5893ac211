"""Commands of many senders in one message: what happens to one is nobody else's trouble."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tidebook.engine.v1 import internal_pb2, order_pb2

from kernel.clock import ManualClock
from kernel.reasons import Reason
from mesh.config import load_settings
from mesh.log import log_key
from mesh.redis import open_redis
from mesh.telemetry import SpanRecorder
from mesh.tokens import TokenSigner, TokenVerifier
from ops.embedded import EmbeddedValkey
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.service import Engine
from services.engine.shared_stream import SharedStream
from tests.support.engine import limit
from tests.support.waiting import eventually

NOW_NS = 1_700_000_000 * 10**9
USDC = 1


class World:
    """An engine without listeners, and tokens for it."""

    def __init__(self, data_dir: Path, url: str) -> None:
        self.clock = ManualClock(NOW_NS)
        settings = load_settings(data_dir=data_dir, redis_url=url)
        self.redis = open_redis(settings)
        self.recorder = SpanRecorder("engine", self.redis, settings)
        self.engine = Engine(settings, self.redis, self.recorder, self.clock)
        self.signer = TokenSigner(Ed25519PrivateKey.generate(), "k", clock=self.clock)
        self.verifier = TokenVerifier(self._keys, clock=self.clock)
        self._transfers = 0

    async def _keys(self) -> dict[str, bytes]:
        return {self.signer.kid: self.signer.public_key}

    def token(self, account_id: int, *scopes: str, ttl: int = 600) -> str:
        return self.signer.sign(
            user_id="u",
            account_id=account_id,
            session_id=f"s-{account_id}",
            scopes=scopes or ("read", "trade"),
            ttl_seconds=ttl,
        )

    async def fund(self, *account_ids: int) -> None:
        for account_id in account_ids:
            self._transfers += 1
            command = c.Transfer(account_id, self._transfers, USDC, 10**15, k.TRANSFER_KIND_DEPOSIT)
            await self.engine.do("fund", command, lambda events: None)

    def open_of(self, account_id: int) -> list[str]:
        """Client ids of an account's open orders."""
        orders = self.engine.projection.open_orders_of(account_id)
        return [order.request.client_order_id for order in orders]


@pytest_asyncio.fixture
async def stopped(short_dir: Path, valkey_server: EmbeddedValkey) -> AsyncIterator[World]:
    """With an engine that was not started."""
    world = World(short_dir, valkey_server.url)
    yield world
    await world.engine.close(5)
    await world.recorder.close()
    await world.redis.aclose()


@pytest_asyncio.fixture
async def world(stopped: World) -> World:
    """With an engine that leads, and accounts 1 to 3 with money."""
    await stopped.engine.start()
    await stopped.fund(1, 2, 3)
    return stopped


class Client:
    """The other end of one stream."""

    def __init__(self, world: World) -> None:
        self._sent: asyncio.Queue[internal_pb2.SubmitCommandsRequest | None] = asyncio.Queue()
        self._responses: AsyncGenerator[Any, None] = SharedStream(
            world.engine, world.verifier
        ).responses(self._requests())
        self._next: asyncio.Task[Any] | None = None

    async def _requests(self) -> AsyncIterator[internal_pb2.SubmitCommandsRequest]:
        while (request := await self._sent.get()) is not None:
            yield request

    def send(self, *commands: tuple[str, order_pb2.TradeCommand]) -> None:
        """One message."""
        request = internal_pb2.SubmitCommandsRequest(
            commands=[
                internal_pb2.SubmittedCommand(access_token=token, command=command)
                for token, command in commands
            ]
        )
        self._sent.put_nowait(request)
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._responses))

    def end(self) -> None:
        """No more messages."""
        self._sent.put_nowait(None)

    async def answer(self) -> dict[int, order_pb2.TradeResult]:
        """The next message's results by request id."""
        response = await (self._next or anext(self._responses))
        self._next = None
        results = {result.request_id: result for result in response.results}
        assert len(results) == len(response.results), "each command is answered once"
        return results

    async def cut(self) -> None:
        """The connection is lost."""
        assert self._next is not None
        self._next.cancel()
        await asyncio.wait([self._next])
        await self._responses.aclose()


def place(request_id: int, name: str, **fields: Any) -> order_pb2.TradeCommand:
    order = limit(client_order_id=name, **fields)
    return order_pb2.TradeCommand(request_id=request_id, place=order)


def cancel(request_id: int, name: str) -> order_pb2.TradeCommand:
    request = order_pb2.CancelOrderRequest(client_order_id=name)
    return order_pb2.TradeCommand(request_id=request_id, cancel=request)


def reasons(results: dict[int, order_pb2.TradeResult]) -> dict[int, Reason]:
    """Of those that were refused."""
    return {i: Reason(r.error.reason) for i, r in results.items() if r.HasField("error")}


async def settled() -> None:
    """Until what was sent has been submitted and the writer has taken its batch."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_each_command_of_a_message_is_done_or_refused_by_itself(world: World) -> None:
    client = Client(world)
    known, new, old = world.token(1), world.token(2), world.token(3, ttl=60)
    for token in (known, old):
        await world.verifier.verify(token)
    world.clock.advance(60 * 10**9)
    commands = [
        (known, place(1, "a")),
        (old, place(2, "b")),
        (new, place(3, "c")),
        ("made up", place(4, "d")),
        (world.token(3, "read"), place(5, "e")),
        (known, place(6, "f", market="NO_SUCH")),
        (known, order_pb2.TradeCommand(request_id=7)),
        (known, cancel(8, "a")),
        (new, place(9, "g")),
    ]
    refused = {
        2: Reason.TOKEN_EXPIRED,
        4: Reason.TOKEN_INVALID,
        5: Reason.SCOPE_MISSING,
        6: Reason.MARKET_NOT_FOUND,
        7: Reason.INVALID_ARGUMENT,
    }
    client.send(*commands)
    results = await client.answer()
    assert reasons(results) == refused
    assert results[8].cancelled.order.client_order_id == "a", "one sender's commands in turn"
    assert (world.open_of(1), world.open_of(2), world.open_of(3)) == ([], ["c", "g"], [])
    # With every good token known, a message waits for nothing but the log.
    client.send((new, cancel(1, "c")), (known, place(2, "h")), (new, place(3, "i")))
    assert reasons(await client.answer()) == {}
    assert (world.open_of(1), world.open_of(2)) == (["h"], ["g", "i"])
    client.end()
    with pytest.raises(StopAsyncIteration):
        await client.answer()


async def test_a_message_without_commands_is_answered(world: World) -> None:
    client = Client(world)
    client.send()
    assert await client.answer() == {}


async def test_orders_of_a_stream_that_was_cut_are_not_placed_but_its_cancels_are_done(
    world: World, valkey_server: EmbeddedValkey
) -> None:
    token, other = world.token(1), world.token(2)
    client, stays = Client(world), Client(world)
    for one in (token, other):
        await world.verifier.verify(one)
    client.send((token, place(1, "resting")))
    await client.answer()
    await valkey_server.stop()
    client.send((token, place(1, "taken")))
    await settled()
    client.send((token, place(2, "gone")), (token, cancel(3, "resting")), (other, place(4, "go")))
    stays.send((other, place(1, "stays")))
    await eventually(lambda: world.engine.writer.queued == 4)
    await client.cut()
    await valkey_server.start()
    await asyncio.wait_for(stays.answer(), 60)
    assert (world.open_of(1), world.open_of(2)) == (["taken"], ["stays"])


async def test_an_engine_that_loses_its_log_answers_each_command(world: World) -> None:
    token, reader = world.token(1), world.token(2, "read")
    client = Client(world)
    seq = world.engine.projection.seq
    await world.redis.xadd(log_key(0), {"p": b"another's", "h": b""}, id=f"{seq + 1}-0")
    client.send((token, place(1, "a")), (reader, place(2, "b")), (token, cancel(3, "a")))
    lost = {1: Reason.FENCED, 2: Reason.SCOPE_MISSING, 3: Reason.FENCED}
    assert reasons(await client.answer()) == lost
    client.send((token, place(1, "a")), (reader, place(2, "b")))
    assert reasons(await client.answer()) == {1: Reason.FENCED, 2: Reason.SCOPE_MISSING}
    assert world.open_of(1) == []


async def test_an_engine_that_does_not_lead_says_so_to_each_sender(stopped: World) -> None:
    client = Client(stopped)
    token, reader = stopped.token(1), stopped.token(2, "read")
    client.send((token, place(1, "a")), (reader, place(2, "b")), (token, place(3, "c")))
    assert reasons(await client.answer()) == {
        1: Reason.UNAVAILABLE,
        2: Reason.SCOPE_MISSING,
        3: Reason.UNAVAILABLE,
    }


async def test_an_answer_that_cannot_be_written_hurts_only_its_sender(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = world.engine.encoder
    write = encoder.write_result

    def broken(result: Any, request_id: int, command: Any, outcome: Any) -> None:
        write(result, request_id, command, outcome)
        if request_id == 1:
            raise ZeroDivisionError

    monkeypatch.setattr(encoder, "write_result", broken)
    client = Client(world)
    client.send((world.token(1), place(1, "a")), (world.token(2), place(2, "b")))
    results = await client.answer()
    assert reasons(results) == {1: Reason.INTERNAL}
    assert results[2].placed.order.client_order_id == "b"
    assert (world.open_of(1), world.open_of(2)) == (["a"], ["b"]), "both are in the log"
