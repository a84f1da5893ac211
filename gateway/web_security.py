"""What browsers are told: security headers, content policy, and who else may call (CORS)."""

from __future__ import annotations

from aiohttp import web

from gateway.exchange import Exchange

# On every response.
HEADERS: dict[str, str] = {
    # Not which library of which version this is.
    "Server": "tidebook",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=()",
}
# For pages of our own. Styles may stand in elements: chart libraries position things that way.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " font-src 'self'; connect-src 'self'; manifest-src 'self'; worker-src 'self';"
    " base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
# For everything that is data.
DATA_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox"
)
_OF_ALL = HEADERS | {"Content-Security-Policy": DATA_POLICY, "Cache-Control": "no-store"}
_YEAR_SECONDS = 31_536_000
_PREFLIGHT_SECONDS = "600"
_ALLOWED_METHODS = "GET, POST, PUT, PATCH, DELETE"
_ALLOWED_HEADERS = (
    "Authorization, Content-Type, Grpc-Timeout, Traceparent, X-CSRF-Token, X-Request-Id,"
    " X-Tidebook-Session"
)
_EXPOSED_HEADERS = (
    "X-Request-Id, Traceparent, Retry-After, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset"
)


class Origins:
    """The web origins that may call besides our own; `allowed` is a comma list."""

    def __init__(self, allowed: str) -> None:
        self._allowed = frozenset(
            origin.strip().rstrip("/") for origin in allowed.split(",") if origin.strip()
        )

    def allows(self, exchange: Exchange) -> bool:
        """Whether the page that asks may: no page at all, our own, or a listed one."""
        origin = exchange.request.headers.get("Origin")
        return origin is None or origin == exchange.origin or origin in self._allowed

    def add_headers(self, exchange: Exchange) -> None:
        """Let a listed origin read the response."""
        origin = exchange.request.headers.get("Origin")
        if origin not in self._allowed:
            return
        exchange.headers.update(
            {
                "Access-Control-Allow-Origin": origin or "",
                "Access-Control-Allow-Credentials": "true",
                "Access-Control-Expose-Headers": _EXPOSED_HEADERS,
                "Cross-Origin-Resource-Policy": "cross-origin",
                "Vary": "Origin",
            }
        )

    def preflight(self, exchange: Exchange) -> web.Response | None:
        """The answer to a preflight request, None for anything else."""
        headers = exchange.request.headers
        if exchange.method != "OPTIONS" or "Access-Control-Request-Method" not in headers:
            return None
        if headers.get("Origin") not in self._allowed:
            return web.Response(status=403)
        return web.Response(
            status=204,
            headers={
                "Access-Control-Allow-Methods": _ALLOWED_METHODS,
                "Access-Control-Allow-Headers": _ALLOWED_HEADERS,
                "Access-Control-Max-Age": _PREFLIGHT_SECONDS,
            },
        )


def secure(exchange: Exchange) -> None:
    """Add the headers that every response has."""
    exchange.headers.update(_OF_ALL)
    if exchange.https:
        exchange.headers["Strict-Transport-Security"] = (
            f"max-age={_YEAR_SECONDS}; includeSubDomains"
        )
