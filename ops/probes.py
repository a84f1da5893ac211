"""Asking a running part whether it is healthy."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Probe:
    """How to ask: `grpc` health of host:port, `http` 200 at a URL, `tcp` connect to host:port.

    `part` is the name under which a gRPC service tells the health of a part of what it does.
    """

    kind: Literal["grpc", "http", "tcp"]
    target: str
    part: str = ""

    async def is_healthy(self) -> bool:
        """Whether it answers that it is; False within `TIMEOUT_SECONDS` when it does not answer."""
        match self.kind:
            case "grpc":
                return await _grpc_healthy(self.target, self.part)
            case "http":
                return await _http_healthy(self.target)
            case "tcp":
                return await _tcp_open(self.target)


async def _grpc_healthy(address: str, part: str) -> bool:
    options = [("grpc.enable_http_proxy", 0), ("grpc.initial_reconnect_backoff_ms", 100)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        try:
            answer = await check(
                health_pb2.HealthCheckRequest(service=part),
                timeout=TIMEOUT_SECONDS,
                wait_for_ready=True,
            )
        except grpc.aio.AioRpcError:
            return False
        serving: bool = answer.status == health_pb2.HealthCheckResponse.SERVING
        return serving


async def _http_healthy(url: str) -> bool:
    parts = urlsplit(url)
    request = (
        f"GET {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
    )
    try:
        # By hand: a client library costs each command that asks a third of a second to load.
        async with asyncio.timeout(TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
            try:
                writer.write(request.encode())
                status_line = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    return status_line.split()[1:2] == [b"200"]


async def _tcp_open(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            _, writer = await asyncio.open_connection(host, int(port))
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def main(arguments: list[str]) -> int:
    """`python -m ops.probes KIND TARGET`: exit code 0 when healthy, for container health checks."""
    match arguments:
        case ["grpc" | "http" | "tcp" as kind, target]:
            return 0 if asyncio.run(Probe(kind, target).is_healthy()) else 1
        case _:
            print("usage: python -m ops.probes grpc|http|tcp TARGET", file=sys.stderr)
            return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
