"""What the repeated lines of a head mean, as the library and the gateway have read them once."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import HttpVersion11, web

from gateway.exchange import Exchange
from gateway.express.head import Head
from gateway.transcode import parse_grpc_timeout
from mesh.tokens import bearer_token

# Requests with one of these are more than a head and a body of a known length.
_UNUSUAL = (
    "Content-Encoding",
    "Expect",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
)
# Headers of an answer that are worked out for each.
_OF_EACH = frozenset({"x-request-id", "traceparent", "content-length", "content-type", "date"})
_OF_LIMITS = "ratelimit-"
_PLANS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Plan:
    """How to deal with every request that has these lines and comes from this address."""

    token: str
    client_ip: str
    # None for as long as calls may take.
    timeout: float | None
    # The headers that every answer has, as they are sent.
    block: bytes
    headers: dict[str, str]


class Plans:
    """The plans of this process, by address of the peer and repeated lines."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes], Plan] = {}

    def __len__(self) -> int:
        return len(self._known)

    def find(self, address: str, repeated: bytes) -> Plan | None:
        """The plan for requests of a peer with these lines; None before they were learnt."""
        return self._known.get((address, repeated))

    def learn(self, address: str, head: Head, exchange: Exchange) -> None:
        """Remember what a plain head, of a request that was served just now, has come to."""
        headers = exchange.request.headers
        token = bearer_token(headers.get("Authorization", ""))
        if not token:
            return
        timeout = headers.get("Grpc-Timeout")
        if len(self._known) >= _PLANS_MAX and (address, head.repeated) not in self._known:
            # The oldest half: who is still there is learnt again.
            for old in list(self._known)[: _PLANS_MAX // 2]:
                del self._known[old]
        fixed = {
            name: value
            for name, value in exchange.headers.items()
            if name.lower() not in _OF_EACH and not name.lower().startswith(_OF_LIMITS)
        }
        self._known[address, head.repeated] = Plan(
            token=token,
            client_ip=exchange.client_ip,
            timeout=None if timeout is None else parse_grpc_timeout(timeout),
            block="".join(f"{name}: {value}\r\n" for name, value in fixed.items()).encode(),
            headers=fixed,
        )


def is_plain(head: Head, raw: bytes, exchange: Exchange) -> bool:
    """Whether this is what the library has read, and it asks for nothing more."""
    request: web.BaseRequest = exchange.request
    headers = request.headers
    lines = [line.partition(b":") for line in raw.split(b"\r\n")[1:]]
    return (
        # Byte for byte: a plan made of one request must never stand for another.
        [(name, value.strip(b" \t")) for name, _, value in lines] == list(request.raw_headers)
        and (exchange.method, exchange.path, exchange.query) == (head.method, head.path, head.query)
        and (request.content_length or 0) == head.length
        and request.version == HttpVersion11
        and request.keep_alive
        and not any(name in headers for name in _UNUSUAL)
        and headers.get("Connection", "keep-alive").lower() == "keep-alive"
        and len(headers.getall("Authorization", ())) == 1
    )
