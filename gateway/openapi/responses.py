"""The answers that any method may give, as OpenAPI has them: once, referred to by name."""

from __future__ import annotations

from gateway.openapi.schemas import Schema

_JSON = "application/json"
ERROR = {"$ref": "#/components/schemas/Error"}

HEADERS: dict[str, Schema] = {
    "X-Request-Id": {
        "description": "Names this request in logs and traces; yours if you sent one.",
        "schema": {"type": "string"},
    },
    "RateLimit-Limit": {
        "description": "Requests that the tightest limit which was charged allows in its period.",
        "schema": {"type": "integer"},
    },
    "RateLimit-Remaining": {
        "description": "Requests left of these.",
        "schema": {"type": "integer"},
    },
    "RateLimit-Reset": {
        "description": "Seconds until all of them are there again.",
        "schema": {"type": "integer"},
    },
    "Retry-After": {
        "description": "Seconds after which trying again can help.",
        "schema": {"type": "integer", "minimum": 1},
    },
}
_ALWAYS = ("X-Request-Id",)
_LIMITS = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
# HTTP status -> name, meaning, headers.
_REFUSALS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "400": ("BadRequest", "The request is wrong, or wrong now; see `reason` and `field`.", ()),
    "401": ("Unauthenticated", "No token, or one that is not good (any more).", ()),
    "403": ("PermissionDenied", "The token, address or account may not do this.", ()),
    "404": ("NotFound", "There is no such thing, or it is not yours.", ()),
    "408": ("RequestTimeout", "The body took too long to arrive.", ()),
    "409": ("Conflict", "It exists already, or the same key came with other content.", ()),
    "413": ("TooLarge", "The body is larger than a mebibyte.", ()),
    "429": ("TooMany", "Too many requests, orders or attempts.", ("Retry-After",)),
    "431": ("HeadTooLarge", "The request line or a header is longer than 8,190 bytes.", ()),
    "503": ("Unavailable", "It cannot be done now; try again.", ("Retry-After",)),
    "504": ("DeadlineExceeded", "It took too long; it may still have happened.", ()),
}
_WITH_BODY_ONLY = frozenset({"408", "413"})


def header_references(*names: str) -> Schema:
    """Headers of a response, by reference."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def success_headers() -> Schema:
    """The headers of an answer that is no refusal."""
    return header_references(*_ALWAYS, *_LIMITS)


def refusals(*, has_body: bool) -> Schema:
    """Status -> response of an operation, but for the 200."""
    return {
        status: {"$ref": f"#/components/responses/{name}"}
        for status, (name, _, _) in _REFUSALS.items()
        if has_body or status not in _WITH_BODY_ONLY
    }


def components() -> Schema:
    """What `refusals` refers to."""
    return {
        name: {
            "description": meaning,
            "headers": header_references(*_ALWAYS, *headers),
            "content": {_JSON: {"schema": ERROR}},
        }
        for name, meaning, headers in _REFUSALS.values()
    }
