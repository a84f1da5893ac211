"""One channel to a service that each shard has its own of: every call finds the right one.

Only a system with several shards has it; with one, calls go straight to the one service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from tidebook.engine.v1 import order_pb2

from gateway.shards.calls import ComposedUnary, MergedStream, gather, search
from gateway.shards.merging import merge
from gateway.shards.mux import Batch, SubscribeMux, TradeMux
from gateway.shards.routing import ShardRouter
from kernel.reasons import Reason, Refused
from mesh.calls import AUTHORIZATION
from mesh.shards import ShardMap

_MUXES: dict[str, type[TradeMux] | type[SubscribeMux]] = {
    "TradeStream": TradeMux,
    "Subscribe": SubscribeMux,
}


class ShardedChannel(grpc.aio.Channel):
    """Calls to whichever of `channels` (by shard) has what they are about."""

    def __init__(self, channels: Mapping[int, grpc.aio.Channel], shards: ShardMap) -> None:
        self.channels = dict(channels)
        self._router = ShardRouter(shards)

    def shards_of(self, command: order_pb2.TradeCommand) -> tuple[int, ...]:
        """The shards that a command of a batch or stream is for."""
        return self._router.of_command(command)

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _Unary(_Method(self.channels, self._router, "unary_unary", method, *args, **kwargs))

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _Stream(
            _Method(self.channels, self._router, "unary_stream", method, *args, **kwargs)
        )

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self.channels[0].stream_unary(method, *args, **kwargs)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _Mux(_Method(self.channels, self._router, "stream_stream", method, *args, **kwargs))

    async def close(self, grace: float | None = None) -> None:
        await asyncio.gather(*(channel.close(grace) for channel in self.channels.values()))

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self.channels[0].get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self.channels[0].wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await asyncio.gather(*(channel.channel_ready() for channel in self.channels.values()))

    async def __aenter__(self) -> ShardedChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class _Method:
    """One method on every shard: as the caller's serializers have it, and in messages."""

    def __init__(
        self,
        channels: Mapping[int, grpc.aio.Channel],
        router: ShardRouter,
        kind: str,
        path: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        **_: Any,
    ) -> None:
        descriptor = _descriptor(path)
        request_type = message_factory.GetMessageClass(descriptor.input_type)
        response_type = message_factory.GetMessageClass(descriptor.output_type)
        self.name = descriptor.name
        self.router = router
        self._raw = request_serializer is None
        self._request_type = request_type
        self.given = {
            shard: getattr(channel, kind)(
                path,
                request_serializer=request_serializer,
                response_deserializer=response_deserializer,
            )
            for shard, channel in channels.items()
        }
        self.typed = {
            shard: getattr(channel, kind)(
                path,
                request_serializer=request_type.SerializeToString,
                response_deserializer=response_type.FromString,
            )
            for shard, channel in channels.items()
        }

    def decode(self, request: Any) -> Any:
        """The message of a request; raises `Refused(INVALID_ARGUMENT)` for bytes that are none."""
        if not self._raw:
            return request
        try:
            return self._request_type.FromString(request)
        except DecodeError as error:
            raise Refused(
                Reason.INVALID_ARGUMENT, "the request is not a message of this method"
            ) from error

    def encode(self, message: Message) -> Any:
        """A message as the caller wants it."""
        return message.SerializeToString() if self._raw else message


class _Unary:
    def __init__(self, method: _Method) -> None:
        self._method = method

    def __call__(self, request: Any, **kwargs: Any) -> Any:
        method = self._method
        message = method.decode(request)
        if isinstance(message, order_pb2.BatchOrdersRequest):
            return ComposedUnary(self._batch(message, kwargs), method.encode)
        parts = method.router.parts(method.name, message)
        if len(parts) == 1:
            [(shard, part)] = parts.items()
            return method.given[shard](
                request if part is message else method.encode(part), **kwargs
            )
        if method.router.is_searched(message):
            searching = search(
                tuple(parts), lambda shard: method.typed[shard](parts[shard], **kwargs)
            )
            return ComposedUnary(searching, method.encode)
        return ComposedUnary(self._gathered(parts, kwargs), method.encode)

    async def _gathered(self, parts: Mapping[int, Message], kwargs: Any) -> Message:
        typed = self._method.typed
        return merge(
            await gather({shard: typed[shard](part, **kwargs) for shard, part in parts.items()})
        )

    async def _batch(self, request: order_pb2.BatchOrdersRequest, kwargs: Any) -> Message:
        method = self._method
        batch = Batch([method.router.of_command(command) for command in request.commands])
        # Without commands, the refusal is that of any shard.
        parts = batch.parts(request.commands) or {0: []}
        calls = {
            shard: method.typed[shard](order_pb2.BatchOrdersRequest(commands=commands), **kwargs)
            for shard, commands in parts.items()
        }
        for shard, answer in (await gather(calls)).items():
            batch.answered(shard, answer.results)
        return order_pb2.BatchOrdersResponse(results=batch.merged())


class _Stream:
    def __init__(self, method: _Method) -> None:
        self._method = method

    def __call__(self, request: Any, **kwargs: Any) -> Any:
        method = self._method
        message = method.decode(request)
        parts = method.router.parts(method.name, message)
        if len(parts) == 1:
            [(shard, part)] = parts.items()
            return method.given[shard](
                request if part is message else method.encode(part), **kwargs
            )
        return MergedStream(
            parts, lambda shard, part: method.typed[shard](part, **kwargs), method.encode
        )


class _Mux:
    def __init__(self, method: _Method) -> None:
        self._method = method

    def __call__(self, *_: Any, **kwargs: Any) -> Any:
        method = self._method
        return _MUXES[method.name](
            method.router,
            lambda shard, token: method.typed[shard](**_with_token(kwargs, token)),
            method.decode,
            method.encode,
        )


def _with_token(kwargs: dict[str, Any], token: str) -> dict[str, Any]:
    """The same call with a newer access token; with none, as it was."""
    if not token:
        return kwargs
    kept = [pair for pair in kwargs.get("metadata") or () if pair[0] != AUTHORIZATION]
    return kwargs | {"metadata": (*kept, (AUTHORIZATION, f"Bearer {token}"))}


def _descriptor(path: str) -> MethodDescriptor:
    """The method of `/package.Service/Method`."""
    service, _, name = path[1:].partition("/")
    return descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
