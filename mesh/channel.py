"""Channels between services: mTLS, balancing over healthy replicas, retries, shrinking deadlines.

A channel is long-lived and shared; open one per peer in `__main__`. Calls of abandoned streams are
never collected by gRPC, so hold every stream in `async with cancelling(stub.Watch(...)) as call`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import ipaddress
import json
import pkgutil
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import grpc
from google.protobuf import descriptor_pb2

from kernel.reasons import Reason, Refused
from mesh.calls import AUTHORIZATION, REQUEST_ID, current_call
from mesh.config import Settings
from mesh.identity import CertificateAuthority, service_dns_name
from mesh.telemetry import TRACEPARENT, current_trace, format_traceparent

# What a hop keeps of its deadline for itself: time to answer after the next one gave up.
HOP_SECONDS = 0.05
_IDEMPOTENT = frozenset(
    {
        descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS,
        descriptor_pb2.MethodOptions.IDEMPOTENT,
    }
)
_RETRY = {
    "maxAttempts": 4,
    "initialBackoff": "0.05s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
CallT = TypeVar("CallT", bound=grpc.aio.Call)


def open_channel(
    settings: Settings, service: str, *, caller: str, address: str | None = None
) -> grpc.aio.Channel:
    """A channel to the internal listeners of `service`, with the certificate of `caller`.

    `address` stands for that of the settings. Unary calls get a deadline (`min(rpc_timeout_ms, what
    the current call has left - 50 ms)`); all calls take the trace, the request id and the user's
    token of the current call along. Metadata given explicitly wins. A call whose deadline has
    passed raises `Refused(DEADLINE_PASSED)`.
    """
    files = CertificateAuthority(settings.certificates_dir).issue(caller)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=files.authority.read_bytes(),
        private_key=files.key.read_bytes(),
        certificate_chain=files.certificate.read_bytes(),
    )
    options: list[tuple[str, Any]] = [
        # The certificate names the service, not the host it happens to run on.
        ("grpc.ssl_target_name_override", service_dns_name(service)),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_receive_message_length", settings.grpc_max_message_bytes),
        ("grpc.max_send_message_length", settings.grpc_max_message_bytes),
        # A restarted peer is back within a second; do not wait for minutes to look.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 3000),
        ("grpc.service_config", service_config(service)),
        # Two channels of one process must not share a connection with another identity.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    target = target_of(address or settings.address_of(service))
    inner = grpc.aio.secure_channel(target, credentials, options)
    return MeshChannel(inner, settings.rpc_timeout_ms / 1000)


def target_of(address: str) -> str:
    """`host:port`, a comma list of `ip:port`, or any gRPC target -> gRPC target."""
    if "//" in address or address.startswith(("dns:", "unix:", "ipv4:", "ipv6:")):
        return address
    parts = [part.strip() for part in address.split(",")]
    if all(_is_ipv4(part.rpartition(":")[0]) for part in parts):
        return "ipv4:" + ",".join(parts)
    if len(parts) > 1:
        raise ValueError(
            f"a list of replicas must be of IPv4 addresses, or one dns name: {address}"
        )
    return f"dns:///{parts[0]}"


def _is_ipv4(host: str) -> bool:
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


@functools.cache
def service_config(service: str) -> str:
    """gRPC service config as JSON: round robin over healthy replicas, retries where safe.

    Safe are unary methods marked `idempotency_level` in the proto, and those named Get or List.
    """
    return json.dumps(
        {
            "loadBalancingConfig": [{"round_robin": {}}],
            "healthCheckConfig": {"serviceName": ""},
            "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
            "methodConfig": [
                {
                    "name": [
                        {"service": name, "method": method}
                        for name, method in idempotent_methods(service)
                    ],
                    "retryPolicy": _RETRY,
                }
            ],
        }
    )


def idempotent_methods(service: str) -> list[tuple[str, str]]:
    """(full service name, method name) of what may be sent twice in `tidebook.<service>.v1`."""
    package = importlib.import_module(f"tidebook.{service}.v1")
    found = []
    for module_info in pkgutil.iter_modules(package.__path__):
        if not module_info.name.endswith("_pb2"):
            continue
        module = importlib.import_module(f"{package.__name__}.{module_info.name}")
        for descriptor in module.DESCRIPTOR.services_by_name.values():
            for method in descriptor.methods:
                if method.client_streaming or method.server_streaming:
                    continue
                level = method.GetOptions().idempotency_level
                if level in _IDEMPOTENT or method.name.startswith(("Get", "List")):
                    found.append((descriptor.full_name, method.name))
    return sorted(found)


@contextlib.asynccontextmanager
async def cancelling(call: CallT) -> AsyncIterator[CallT]:
    """Hold a call and cancel it at the end whatever happens; harmless when it is done."""
    try:
        yield call
    finally:
        call.cancel()


class MeshChannel(grpc.aio.Channel):
    """A channel that adds deadline and metadata to each call.

    Not done with gRPC's client interceptors: each costs a task per call and wraps calls in objects
    whose cancellation has a history of leaks.
    """

    def __init__(self, inner: grpc.aio.Channel, timeout_seconds: float) -> None:
        self._inner = inner
        self._timeout = timeout_seconds

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _Unary(self._inner.unary_unary(method, *args, **kwargs), self._timeout)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _Stream(self._inner.unary_stream(method, *args, **kwargs))

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _Stream(self._inner.stream_unary(method, *args, **kwargs))

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _Stream(self._inner.stream_stream(method, *args, **kwargs))

    async def close(self, grace: float | None = None) -> None:
        await self._inner.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._inner.channel_ready()

    async def __aenter__(self) -> MeshChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class _Unary:
    """Unary calls of one method: a deadline always."""

    def __init__(self, inner: Any, timeout_seconds: float) -> None:
        self._inner = inner
        self._timeout = timeout_seconds

    def __call__(
        self, request: Any, *, timeout: float | None = None, metadata: Any = None, **kwargs: Any
    ) -> Any:
        left = current_call().remaining_seconds()
        seconds = self._timeout if timeout is None else timeout
        if left is not None:
            seconds = min(seconds, left - HOP_SECONDS)
        if seconds <= 0:
            raise Refused(Reason.DEADLINE_PASSED)
        return self._inner(request, timeout=seconds, metadata=outgoing(metadata), **kwargs)


class _Stream:
    """Streaming calls of one method: the deadline of the current call if it has one."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __call__(
        self, *args: Any, timeout: float | None = None, metadata: Any = None, **kwargs: Any
    ) -> Any:
        left = current_call().remaining_seconds()
        if left is not None:
            timeout = left - HOP_SECONDS if timeout is None else min(timeout, left - HOP_SECONDS)
            if timeout <= 0:
                raise Refused(Reason.DEADLINE_PASSED)
        return self._inner(*args, timeout=timeout, metadata=outgoing(metadata), **kwargs)


def outgoing(metadata: Any = None) -> tuple[tuple[str, str | bytes], ...]:
    """`metadata` and what the current call hands on, where it is not in there already."""
    call, trace = current_call(), current_trace()
    given = tuple(metadata or ())
    names = {key for key, _ in given}
    added: list[tuple[str, str | bytes]] = []
    if trace is not None and TRACEPARENT not in names:
        added.append((TRACEPARENT, format_traceparent(trace)))
    if call.request_id and REQUEST_ID not in names:
        added.append((REQUEST_ID, call.request_id))
    if call.authorization and AUTHORIZATION not in names:
        added.append((AUTHORIZATION, call.authorization))
    return (*given, *added)
