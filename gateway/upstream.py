"""Calls to the services behind the gateway, one channel each, for routes and raw methods."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.services import UPSTREAM_SERVICES, rpc_path
from gateway.shards.channel import ShardedChannel
from gateway.transcode import Route
from mesh.config import Settings

Metadata = tuple[tuple[str, str | bytes], ...]
_HEALTH_TIMEOUT_SECONDS = 2.0
# Between a service and its shard in what health says.
SHARD_MARK = "-shard"


class Upstreams:
    """The channels, by service; `channels` has one for each key of `UPSTREAM_SERVICES`."""

    def __init__(self, settings: Settings, channels: Mapping[str, grpc.aio.Channel]) -> None:
        self.channels = dict(channels)
        self.max_seconds = settings.rpc_timeout_ms / 1000
        self._by_service = {
            service.full_name: self.channels[name]
            for name, services in UPSTREAM_SERVICES.items()
            for service in services
        }
        self._calls: dict[str, Any] = {}
        self._raw: dict[str, Any] = {}
        for services in UPSTREAM_SERVICES.values():
            for service in services:
                for method in service.methods:
                    self._raw[rpc_path(method)] = _multicallable(
                        self._by_service[service.full_name],
                        rpc_path(method),
                        method.client_streaming,
                        method.server_streaming,
                    )

    def serves(self, service: str) -> bool:
        """Whether a service (full name) is behind one of the channels."""
        return service in self._by_service

    def call(
        self, route: Route, message: Message, *, metadata: Metadata, timeout: float | None
    ) -> Any:
        """Start the call of a route: a gRPC call object, to be awaited or read."""
        multicallable = self._calls.get(route.rpc_path)
        if multicallable is None:
            multicallable = self._calls[route.rpc_path] = _multicallable(
                self._by_service[route.service],
                route.rpc_path,
                route.descriptor.client_streaming,
                route.descriptor.server_streaming,
                serializer=route.request_type.SerializeToString,
                deserializer=route.response_type.FromString,
            )
        return multicallable(message, metadata=metadata, timeout=timeout)

    def raw(self, path: str) -> Any:
        """The method `/package.Service/Method` in bytes; raises `KeyError` for others."""
        return self._raw[path]

    async def health(self) -> dict[str, bool]:
        """Which services answer their health check with SERVING; those of shards one by one."""
        parts: dict[str, grpc.aio.Channel] = {}
        for name, channel in self.channels.items():
            if isinstance(channel, ShardedChannel):
                for shard, of_shard in channel.channels.items():
                    parts[f"{name}{SHARD_MARK}{shard}"] = of_shard
            else:
                parts[name] = channel
        healthy = await asyncio.gather(*map(_is_healthy, parts.values()))
        return dict(zip(parts, healthy, strict=True))

    async def close(self) -> None:
        """Close all channels."""
        await asyncio.gather(*(channel.close() for channel in self.channels.values()))


def can_serve(health: Mapping[str, bool]) -> bool:
    """Whether every service is healthy. One shard that is not must not take the others out of
    service: of those that each shard has, one is enough.
    """
    services: dict[str, bool] = {}
    for part, healthy in health.items():
        name = part.partition(SHARD_MARK)[0]
        services[name] = services.get(name, False) or healthy
    return all(services.values())


async def _is_healthy(channel: grpc.aio.Channel) -> bool:
    stub = health_pb2_grpc.HealthStub(channel)
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_HEALTH_TIMEOUT_SECONDS)
    except grpc.RpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _multicallable(
    channel: grpc.aio.Channel,
    path: str,
    client_streaming: bool,
    server_streaming: bool,
    *,
    serializer: Any = None,
    deserializer: Any = None,
) -> Any:
    kind = f"{_kind(client_streaming)}_{_kind(server_streaming)}"
    make = getattr(channel, kind)
    return make(path, request_serializer=serializer, response_deserializer=deserializer)


def _kind(streaming: bool) -> str:
    return "stream" if streaming else "unary"
