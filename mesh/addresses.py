"""Network addresses of clients: where a call comes from, and whether it may come from there."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

import grpc

LOOPBACK = ("127.0.0.0/8", "::1/128")
FORWARDED_FOR = "x-forwarded-for"


def client_address(
    context: grpc.aio.ServicerContext[Any, Any], *, from_service: bool
) -> str | None:
    """The address of the client behind a call, None when one of our services does not pass it on.

    The gateway says so in `x-forwarded-for`, which is believed from our own services only: on a
    public listener anyone could write anything there.
    """
    if not from_service:
        return address_of_peer(context.peer())
    for key, value in context.invocation_metadata() or ():
        if key == FORWARDED_FOR and isinstance(value, str):
            # The last one is what the gateway itself saw.
            return value.rpartition(",")[2].strip() or None
    return None


def address_of_peer(peer: str) -> str:
    """gRPC's `ipv4:127.0.0.1:5000` or `ipv6:%5B::1%5D:5000` -> the address alone, else ""."""
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return ""
    return rest.rpartition(":")[0].strip("[]")


def networks_of(text: str) -> tuple[str, ...]:
    """A comma list of addresses or networks; raises `ValueError` for what is neither."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return tuple(str(ipaddress.ip_network(part)) for part in parts)


def is_within(address: str, networks: Iterable[str]) -> bool:
    """Whether an address is in one of the networks; what is no address is in none."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    return any(parsed in _network(network) for network in networks)


@functools.lru_cache(maxsize=4096)
def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(text)
