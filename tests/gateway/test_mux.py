"""One order stream over several shards: what all of them must hear."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from tidebook.engine.v1 import order_pb2

from gateway.shards.mux import TradeMux
from gateway.shards.routing import ShardRouter
from mesh.shards import ShardMap


class ShardCall:
    """A stream to one shard that answers each message with nothing."""

    def __init__(self, token: str) -> None:
        self.opened_with = token
        self.tokens: list[str] = []
        self._answers: asyncio.Queue[Any] = asyncio.Queue()

    async def write(self, message: order_pb2.TradeStreamRequest) -> None:
        self.tokens.append(message.access_token)
        results = [
            order_pb2.TradeResult(request_id=command.request_id) for command in message.commands
        ]
        self._answers.put_nowait(order_pb2.TradeStreamResponse(results=results))

    async def done_writing(self) -> None:
        self._answers.put_nowait(grpc.aio.EOF)

    async def __aiter__(self) -> Any:
        while (answer := await self._answers.get()) is not grpc.aio.EOF:
            yield answer

    def cancel(self) -> bool:
        return True


async def test_a_newer_token_goes_to_every_shard_and_to_those_opened_later() -> None:
    calls: dict[int, ShardCall] = {}

    def open_(shard: int, token: str) -> ShardCall:
        calls[shard] = ShardCall(token)
        return calls[shard]

    router = ShardRouter(ShardMap.parse("0=BTC_*;1=ETH_*;2=*"))
    mux = TradeMux(router, open_, lambda data: data, lambda message: message)

    async def send(*markets: str, token: str = "") -> list[int]:
        request = order_pb2.TradeStreamRequest(access_token=token)
        for number, market in enumerate(markets):
            command = request.commands.add(request_id=number)
            command.place.market = market
        await mux.write(request)
        return [result.request_id for result in (await mux.read()).results]

    assert await send("ETH_USDC", "BTC_USDC") == [0, 1]
    assert await send("BTC_USDC", token="newer") == [0]
    assert await send(token="newest") == []
    assert await send("SOL_USDC") == [0]
    assert calls[0].tokens == ["", "newer", "newest"]
    assert calls[1].tokens == ["", "newer", "newest"]
    assert [calls[shard].opened_with for shard in (0, 1, 2)] == ["", "", "newest"]
    await mux.done_writing()
    assert await mux.read() is grpc.aio.EOF
