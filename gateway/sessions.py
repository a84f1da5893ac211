"""Browser sessions: tokens in httpOnly cookies, and CSRF protection by double submit.

A client asks for cookies with `X-Tidebook-Session: cookie` when it signs in. Afterwards its calls
carry the cookies; those that change something also the header `X-CSRF-Token` with the value of the
readable CSRF cookie, which another site can neither read nor send. A bearer header always goes
first and needs no CSRF token: browsers do not add it by themselves.

Over https the cookies are called `__Host-...`: browsers then take them from this very host alone,
so that no neighbour under the same domain can slip in a session or a CSRF token of its own.
"""

from __future__ import annotations

import hmac
import secrets
import time
from typing import Any

from aiohttp import web
from google.protobuf.message import Message
from tidebook.auth.v1 import auth_pb2

from gateway.exchange import Exchange
from kernel.reasons import Reason, Refused
from mesh.interceptors import is_public

ACCESS_COOKIE = "tidebook_access"
REFRESH_COOKIE = "tidebook_refresh"
CSRF_COOKIE = "tidebook_csrf"
CSRF_HEADER = "X-CSRF-Token"
SESSION_HEADER = "X-Tidebook-Session"
HOST_PREFIX = "__Host-"
# Over http the refresh token goes nowhere else; a `__Host-` cookie must have the path /.
_REFRESH_PATH = "/v1/auth"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_SIGN_OUT = "/tidebook.auth.v1.AuthService/SignOut"


def authorization_of(exchange: Exchange, rpc_path: str) -> str:
    """The `authorization` to send on: the bearer header, else the session cookie, else "".

    Raises `Refused`: `CSRF_FAILED` for a cookie call that changes something without its token,
    `TOKEN_INVALID` for what is not printable ASCII, which gRPC cannot send on.
    """
    header = exchange.request.headers.get("Authorization", "")
    token = "" if header or is_public(rpc_path) else _cookie(exchange, ACCESS_COOKIE)
    if not ((header + token).isascii() and (header + token).isprintable()):
        raise Refused(Reason.TOKEN_INVALID, "the access token is not valid")
    if header:
        return header
    if not token:
        return ""
    if exchange.method not in _SAFE_METHODS:
        check_csrf(exchange)
    return f"Bearer {token}"


def upgrade_authorization(exchange: Exchange) -> str:
    """The same for a WebSocket's first request, whose origin has been checked instead."""
    header = exchange.request.headers.get("Authorization", "")
    token = _cookie(exchange, ACCESS_COOKIE)
    return header or (f"Bearer {token}" if token else "")


def check_csrf(exchange: Exchange) -> None:
    """Raises `Refused(CSRF_FAILED)` unless header and cookie carry the same token."""
    cookie = _cookie(exchange, CSRF_COOKIE)
    header = exchange.request.headers.get(CSRF_HEADER, "")
    if not cookie or not hmac.compare_digest(cookie.encode(), header.encode()):
        raise Refused(
            Reason.CSRF_FAILED,
            f"{CSRF_HEADER} must be the value of the cookie {_name(exchange, CSRF_COOKIE)}",
        )


def complete_request(exchange: Exchange, message: Message) -> bool:
    """Fill in what a browser leaves out (the refresh token); whether it wants cookies back.

    Raises `Refused(CSRF_FAILED)` when the cookie is used without the CSRF token.
    """
    wants_cookies = exchange.request.headers.get(SESSION_HEADER, "").lower() == "cookie"
    if isinstance(message, auth_pb2.RefreshTokenRequest) and not message.refresh_token:
        token = _cookie(exchange, REFRESH_COOKIE)
        if token:
            check_csrf(exchange)
            message.refresh_token = token
            return True
    return wants_cookies


def take_tokens(message: Message) -> auth_pb2.Tokens | None:
    """Take the tokens out of an answer that has some, so that no script gets to see them."""
    if not isinstance(
        message,
        auth_pb2.SignInResponse | auth_pb2.VerifyOtpResponse | auth_pb2.RefreshTokenResponse,
    ):
        return None
    tokens = auth_pb2.Tokens()
    tokens.CopyFrom(message.tokens)
    message.tokens.access_token = ""
    message.tokens.refresh_token = ""
    return tokens


def previous_token(exchange: Exchange, answer: Message) -> str:
    """The refresh token of the session that a browser had when `answer` opened another one, or "".
    Without its CSRF token it may be a neighbour under the same domain who signs somebody in.
    """
    opened = isinstance(answer, auth_pb2.SignInResponse | auth_pb2.VerifyOtpResponse)
    token = _cookie(exchange, REFRESH_COOKIE) if opened else ""
    if token:
        try:
            check_csrf(exchange)
        except Refused:
            return ""
    return token


def set_cookies(response: web.StreamResponse, exchange: Exchange, tokens: auth_pb2.Tokens) -> None:
    """Keep a session's tokens in the browser, for as long as they are good."""
    now = time.time()
    shared: dict[str, Any] = {"samesite": "Strict", "secure": exchange.https}
    access_age = max(0, int(tokens.access_expire_time.seconds - now))
    refresh_age = max(0, int(tokens.refresh_expire_time.seconds - now))
    access, refresh, csrf = _names(exchange)
    response.set_cookie(access, tokens.access_token, max_age=access_age, httponly=True, **shared)
    response.set_cookie(
        refresh,
        tokens.refresh_token,
        max_age=refresh_age,
        httponly=True,
        path=_refresh_path(exchange),
        **shared,
    )
    response.set_cookie(csrf, secrets.token_urlsafe(32), max_age=refresh_age, **shared)


def ends_session(rpc_path: str) -> bool:
    """Whether the browser forgets its session with this call, however it ends."""
    return rpc_path == _SIGN_OUT


def clear_cookies(response: web.StreamResponse, exchange: Exchange) -> None:
    """Make the browser forget its session."""
    access, refresh, csrf = _names(exchange)
    # Browsers do not take a `__Host-` cookie that is not secure, not even to forget it.
    response.del_cookie(access, secure=exchange.https)
    response.del_cookie(refresh, path=_refresh_path(exchange), secure=exchange.https)
    response.del_cookie(csrf, secure=exchange.https)


def _cookie(exchange: Exchange, name: str) -> str:
    return exchange.request.cookies.get(_name(exchange, name), "")


def _name(exchange: Exchange, name: str) -> str:
    return HOST_PREFIX + name if exchange.https else name


def _names(exchange: Exchange) -> tuple[str, str, str]:
    return (
        _name(exchange, ACCESS_COOKIE),
        _name(exchange, REFRESH_COOKIE),
        _name(exchange, CSRF_COOKIE),
    )


def _refresh_path(exchange: Exchange) -> str:
    return "/" if exchange.https else _REFRESH_PATH
