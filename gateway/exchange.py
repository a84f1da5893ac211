"""What the gateway knows about one HTTP request, whatever serves it."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

from aiohttp import web

from mesh.addresses import is_within, networks_of
from mesh.telemetry import TraceContext, new_trace, parse_traceparent, random_id

# A proxy may send `GET http://host/path`.
_ABSOLUTE = re.compile(r"^https?://[^/?#]*", re.IGNORECASE)
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


@dataclass(slots=True)
class Exchange:
    """One request and its surroundings.

    `name` is what metrics and spans call it (`POST /v1/orders`), set when the route is known.
    """

    request: web.BaseRequest
    path: str
    query: str
    request_id: str
    client_ip: str
    https: bool
    trace: TraceContext
    parent_span_id: bytes
    start_ns: int
    started: float
    name: str = ""
    # Answered by an engine's order line.
    by_line: bool = False
    # Headers that every response of this request gets.
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def method(self) -> str:
        return self.request.method

    @property
    def origin(self) -> str:
        """Our own origin as the client sees it."""
        return f"{'https' if self.https else 'http'}://{self.request.headers.get('Host', '')}"


class Networks:
    """A comma list of addresses or networks. Raises `ValueError` for what is neither."""

    def __init__(self, text: str) -> None:
        self._networks = networks_of(text)

    def __len__(self) -> int:
        return len(self._networks)

    def __contains__(self, address: str) -> bool:
        return is_within(address, self._networks)


class ProxyRules:
    """Whose `X-Forwarded-*` is believed; `trusted` is a comma list of addresses or networks.

    Raises `ValueError` for what is neither.
    """

    def __init__(self, trusted: str) -> None:
        self._networks = Networks(trusted)

    def client_of(self, request: web.BaseRequest) -> tuple[str, bool]:
        """(address of the client, whether it came by https)."""
        peer = request.transport.get_extra_info("peername") if request.transport else None
        address = str(peer[0]) if isinstance(peer, tuple) else ""
        https = request.secure
        if not self._networks or not self.is_trusted(address):
            return address, https
        https = https or request.headers.get("X-Forwarded-Proto", "").lower() == "https"
        # The last entry was written by the proxy next to us, the first by anybody.
        for hop in reversed(request.headers.get("X-Forwarded-For", "").split(",")):
            address = hop.strip() or address
            if not self.is_trusted(address):
                break
        return address, https

    def is_trusted(self, address: str) -> bool:
        """Whether it is one of these proxies."""
        return address in self._networks


def request_id_of(given: str) -> str:
    """The id of a request: the client's if it has given a good one, else one of ours."""
    return given if _REQUEST_ID.fullmatch(given) else random_id(8).hex()


def begin(request: web.BaseRequest, proxies: ProxyRules) -> Exchange:
    """Start an exchange: its request id, its place in a trace, its client."""
    parent = parse_traceparent(request.headers.get("traceparent"))
    address, https = proxies.client_of(request)
    target = request.raw_path
    if not target.startswith("/"):
        target = _ABSOLUTE.sub("", target)
    path, _, query = target.partition("?")
    return Exchange(
        request=request,
        path=path,
        query=query,
        request_id=request_id_of(request.headers.get("X-Request-Id", "")),
        client_ip=address,
        https=https,
        trace=new_trace() if parent is None else parent.child(),
        parent_span_id=b"" if parent is None else parent.span_id,
        start_ns=time.time_ns(),
        started=time.monotonic(),
    )
