"""What the examples share: signing up over HTTP, tokens that stay fresh, and gRPC calls.

Only public contracts are used: JSON over HTTP, and the generated stubs of `gen/`. A real client
would look the same, except that it would not read its own mails.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import re
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, Self

import aiohttp
import grpc
from google.rpc import error_details_pb2, status_pb2
from tidebook.auth.v1 import auth_pb2, auth_pb2_grpc
from tidebook.settlement.v1 import ledger_pb2, ledger_pb2_grpc

Json = dict[str, Any]
Metadata = Sequence[tuple[str, str]]

_TIMEOUT_SECONDS = 30.0
_MAIL_SECONDS = 30.0
# Renew a token when it has less than this left.
_MARGIN_SECONDS = 60.0
_CODE = re.compile(r"\b(\d{6})\b")
_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a running Tidebook is."""

    http: str
    grpc: str

    @property
    def websocket(self) -> str:
        return "ws" + self.http.removeprefix("http") + "/ws"


def endpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a command line the arguments that `endpoints_of` reads."""
    parser.add_argument(
        "--http", type=_http_address, default="http://127.0.0.1:8080", help="the gateway's HTTP"
    )
    parser.add_argument("--grpc", default="127.0.0.1:50050", help="the gateway's gRPC door")


def endpoints_of(given: argparse.Namespace) -> Endpoints:
    """Where the command line says that Tidebook is."""
    return Endpoints(given.http, given.grpc)


def _http_address(text: str) -> str:
    if not re.fullmatch(r"https?://[^/]+/*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not like http://127.0.0.1:8080")
    return text.rstrip("/")


class ApiError(Exception):
    """An answer of the HTTP API that is not 2xx. `reason` is a name of `common.v1.Reason`."""

    def __init__(self, status: int, body: Json) -> None:
        self.status = status
        self.reason = next(
            (detail["reason"] for detail in body.get("details", ()) if "reason" in detail), ""
        )
        super().__init__(f"{status} {self.reason}: {body.get('message', '')}")


class HttpApi:
    """JSON calls to the gateway."""

    def __init__(self, endpoints: Endpoints) -> None:
        self.endpoints = endpoints
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def call(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        token: str = "",
        query: Mapping[str, str] | None = None,
    ) -> Json:
        """One call; raises `ApiError`, or `aiohttp.ClientError` when there is nobody."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with self._session.request(
            method, self.endpoints.http + path, json=body, headers=headers, params=query or {}
        ) as response:
            answer: Json = await response.json(content_type=None)
            if response.status >= 400:
                raise ApiError(response.status, answer)
            return answer

    @asynccontextmanager
    async def websocket(self) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """The gateway's WebSocket."""
        async with self._session.ws_connect(self.endpoints.websocket) as socket:
            yield socket

    async def mailed_code(self, email: str) -> str:
        """The code of the newest mail to `email`; raises `TimeoutError` when none comes."""
        async with asyncio.timeout(_MAIL_SECONDS):
            while True:
                mails = (await self.call("GET", "/dev/mailbox", query={"to": email}))["mails"]
                if mails and (found := _CODE.search(mails[0]["text"])):
                    return found[1]
                await asyncio.sleep(0.1)


class TokenSource(Protocol):
    """Something that always has a good access token."""

    async def token(self) -> str: ...


class Person:
    """A user with an open session, whose access token is renewed before it expires."""

    def __init__(self, http: HttpApi, email: str, password: str, answer: Json) -> None:
        self.email = email
        self.password = password
        self.account_id = int(answer["user"]["accountId"])
        self._http = http
        self._keep(answer["tokens"])

    @classmethod
    async def sign_up(cls, http: HttpApi, *, name: str) -> Person:
        """A new user, proven by the code that is mailed to it."""
        email = f"{name}-{secrets.token_hex(6)}@example.com"
        password = secrets.token_urlsafe(18)
        body = {"email": email, "password": password}
        await http.call("POST", "/v1/auth/signup", body)
        code = await http.mailed_code(email)
        answer = await http.call("POST", "/v1/auth/verify-otp", {"email": email, "code": code})
        return cls(http, email, password, answer)

    async def token(self) -> str:
        """A good access token."""
        if time.monotonic() >= self._renew_at:
            answer = await self._http.call(
                "POST", "/v1/auth/refresh", {"refreshToken": self._refresh_token}
            )
            self._keep(answer["tokens"])
        return self._access_token

    async def make_api_key(self, name: str, scopes: Sequence[str]) -> ApiKey:
        """A key for a bot; scopes such as `SCOPE_TRADE`."""
        answer = await self._http.call(
            "POST",
            "/v1/auth/api-keys",
            {"name": name, "scopes": list(scopes)},
            token=await self.token(),
        )
        return ApiKey(answer["apiKey"]["apiKeyId"], answer["secret"])

    def _keep(self, tokens: Json) -> None:
        self._access_token: str = tokens["accessToken"]
        self._refresh_token: str = tokens["refreshToken"]
        self._renew_at = time.monotonic() + _token_seconds(tokens["accessExpireTime"])


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key and its secret."""

    api_key_id: str
    secret: str


class KeyHolder:
    """Access tokens for an API key, exchanged over gRPC before they expire."""

    def __init__(self, channel: grpc.aio.Channel, key: ApiKey) -> None:
        self._stub = auth_pb2_grpc.AuthServiceStub(channel)
        self._key = key
        self._token = ""
        self._renew_at = 0.0

    async def token(self) -> str:
        """A good access token; raises `grpc.aio.AioRpcError`."""
        if time.monotonic() >= self._renew_at:
            answer = await self._stub.ExchangeApiKey(
                auth_pb2.ExchangeApiKeyRequest(
                    api_key_id=self._key.api_key_id, secret=self._key.secret
                ),
                timeout=_TIMEOUT_SECONDS,
            )
            self._token = answer.access_token
            left = answer.expire_time.seconds - time.time()
            self._renew_at = time.monotonic() + max(1.0, left - _MARGIN_SECONDS)
        return self._token


async def bearer(source: TokenSource) -> Metadata:
    """Metadata of a gRPC call made as `source`."""
    return (("authorization", f"Bearer {await source.token()}"),)


def grpc_channel(address: str) -> grpc.aio.Channel:
    """A channel to the gRPC door that notices a dead peer and comes back quickly."""
    return grpc.aio.insecure_channel(
        address,
        options=[
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 5_000),
        ],
    )


async def faucet(
    channel: grpc.aio.Channel, source: TokenSource, asset: str, amount: str
) -> ledger_pb2.Transfer:
    """Play money from the demo faucet; raises `grpc.aio.AioRpcError`."""
    answer = await ledger_pb2_grpc.LedgerServiceStub(channel).CreateDeposit(
        ledger_pb2.CreateDepositRequest(
            asset=asset, amount=amount, request_id=secrets.token_hex(16)
        ),
        metadata=await bearer(source),
        timeout=_TIMEOUT_SECONDS,
    )
    return answer.transfer


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The name of the `common.v1.Reason` that an error carries, else its gRPC status."""
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            info = error_details_pb2.ErrorInfo()
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info):
                    return str(info.reason)
    return error.code().name


def _token_seconds(expire_time: str) -> float:
    """Seconds until a token should be renewed, from the time (RFC 3339, UTC) it expires at."""
    expires = dt.datetime.fromisoformat(expire_time[:19] + "+00:00").timestamp()
    return max(1.0, expires - time.time() - _MARGIN_SECONDS)
