"""Access tokens: short-lived JWTs signed by auth with Ed25519, verified locally by everyone else.

A signature check costs about 320 us, so a verified token is remembered until it expires.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Iterable

import grpc
import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from tidebook.auth.v1 import auth_pb2, auth_pb2_grpc

from kernel.clock import NS_PER_SECOND, Clock, SystemClock
from kernel.reasons import Reason, Refused
from mesh.addresses import is_within
from mesh.identity import Caller
from mesh.revocation import EndedSessions

ISSUER = "tidebook"
# What the tokens are for and what kind they are (RFC 9068): no other token of ours passes for one.
AUDIENCE = "tidebook-api"
TYPE = "at+jwt"
SCOPES: frozenset[str] = frozenset({"read", "trade", "withdraw"})
_ALGORITHM = "EdDSA"
_CACHE_MAX = 50_000
# Tokens with made-up key ids must not turn into a flood of key fetches.
_REFETCH_EVERY_NS = 2 * NS_PER_SECOND
_FETCH_SECONDS = 3.0
_FAILED_FOR_NS = NS_PER_SECOND // 2
# How far another machine's clock may run ahead of ours.
_CLOCK_SKEW_SECONDS = 5

FetchKeys = Callable[[], Awaitable[dict[str, bytes]]]
log = structlog.get_logger()


class TokenSigner:
    """Signs access tokens with one private key, named by `kid`."""

    def __init__(self, key: Ed25519PrivateKey, kid: str, *, clock: Clock | None = None) -> None:
        self.kid = kid
        self._key = key
        self._clock = clock or SystemClock()

    @property
    def public_key(self) -> bytes:
        """The raw 32-byte public key, as `TokenVerifier` wants it."""
        return self._key.public_key().public_bytes_raw()

    def sign(
        self,
        *,
        user_id: str,
        account_id: int,
        session_id: str,
        scopes: Iterable[str],
        ttl_seconds: int,
        networks: Iterable[str] = (),
    ) -> str:
        """An access token, good for `ttl_seconds` from now, and in `networks` if any are named."""
        now = self._clock.now_ns() // NS_PER_SECOND
        claims: dict[str, object] = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": user_id,
            "acc": account_id,
            "sid": session_id,
            "scp": sorted(scopes),
            "iat": now,
            "exp": now + ttl_seconds,
        }
        if within := list(networks):
            claims["net"] = within
        return jwt.encode(
            claims, self._key, algorithm=_ALGORITHM, headers={"kid": self.kid, "typ": TYPE}
        )


def token_expired() -> Refused:
    """Why a token is refused that was good once."""
    return Refused(Reason.TOKEN_EXPIRED, "the access token has expired")


def session_ended() -> Refused:
    """Why a token is refused whose session or API key has ended."""
    return Refused(Reason.SESSION_REVOKED, "the session or API key of the token has ended")


def check_address(caller: Caller, address: str | None) -> None:
    """Raises `Refused(IP_NOT_ALLOWED)` when the caller's token may not be used from there.

    None stands for a service of ours that calls another on the client's behalf: it has checked.
    """
    if caller.networks and address is not None and not is_within(address, caller.networks):
        raise Refused(Reason.IP_NOT_ALLOWED)


def bearer_token(authorization: str) -> str | None:
    """The token of an `authorization` header `Bearer TOKEN`; None for any other scheme."""
    scheme, space, token = authorization.partition(" ")
    return token.strip() if space and scheme.lower() == "bearer" else None


class TokenVerifier:
    """Turns access tokens into callers.

    `fetch_keys` gives every current signing key, kid -> raw Ed25519 public key; it is called when
    a token names a key that is not known yet. Tokens of `ended` sessions are refused.
    """

    def __init__(
        self,
        fetch_keys: FetchKeys,
        *,
        clock: Clock | None = None,
        ended: EndedSessions | None = None,
    ) -> None:
        self.ended = ended
        self._fetch_keys = fetch_keys
        self._clock = clock or SystemClock()
        self._keys: dict[str, Ed25519PublicKey] = {}
        self._fetched_ns: int | None = None
        self._failed_ns: int | None = None
        self._fetching = asyncio.Lock()
        self._verified: dict[str, tuple[int, Caller]] = {}

    async def verify(self, token: str) -> Caller:
        """The caller a token stands for.

        Raises `Refused`: `TOKEN_EXPIRED`, `TOKEN_INVALID`, `SESSION_REVOKED`, or `UNAVAILABLE` when
        the keys cannot be fetched.
        """
        caller = self.verified(token)
        if caller is None:
            now = self._clock.now_ns() // NS_PER_SECOND
            if self.ended is not None:
                await self.ended.read_once()
            known = self._check(token, await self._key(token), now)
            self._remember(token, known)
            caller = self._still_good(token, known, now)
        return caller

    def verified(self, token: str) -> Caller | None:
        """The caller of a token that was verified before, without waiting; None for any other.

        Raises `Refused`: `TOKEN_EXPIRED`, `SESSION_REVOKED`.
        """
        known = self._verified.get(token)
        if known is None:
            return None
        return self._still_good(token, known, self._clock.now_ns() // NS_PER_SECOND)

    def _still_good(self, token: str, known: tuple[int, Caller], now: int) -> Caller:
        expires, caller = known
        if expires <= now:
            self._verified.pop(token, None)
            raise token_expired()
        if self.ended is not None and caller.session_id in self.ended:
            raise session_ended()
        return caller

    def seconds_left(self, caller: Caller) -> float:
        """How long the token of a verified caller is still good."""
        return max(0.0, caller.expires_s - self._clock.now_ns() / NS_PER_SECOND)

    def _check(self, token: str, key: Ed25519PublicKey, now: int) -> tuple[int, Caller]:
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[_ALGORITHM],
                issuer=ISSUER,
                audience=AUDIENCE,
                # Times are checked here, by the clock that was given.
                options={
                    "require": ["exp", "iat", "sub", "acc", "sid", "scp"],
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
            expires, issued = int(claims["exp"]), int(claims["iat"])
            caller = Caller(
                account_id=int(claims["acc"]),
                user_id=str(claims["sub"]),
                session_id=str(claims["sid"]),
                scopes=frozenset(claims["scp"]) & SCOPES,
                expires_s=expires,
                networks=tuple(str(network) for network in claims.get("net", ())),
            )
        except (jwt.InvalidTokenError, TypeError, ValueError) as error:
            raise Refused(Reason.TOKEN_INVALID, "the access token is not valid") from error
        if issued > now + _CLOCK_SKEW_SECONDS or caller.account_id <= 0:
            raise Refused(Reason.TOKEN_INVALID, "the access token is not valid")
        return expires, caller

    def _remember(self, token: str, verified: tuple[int, Caller]) -> None:
        if len(self._verified) >= _CACHE_MAX:
            # Insertion order is close to expiry order: the oldest half is mostly dead.
            for old in list(self._verified)[: _CACHE_MAX // 2]:
                del self._verified[old]
        self._verified[token] = verified

    async def _key(self, token: str) -> Ed25519PublicKey:
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError as error:
            raise Refused(Reason.TOKEN_INVALID, "the access token is not valid") from error
        if header.get("typ") != TYPE:
            raise Refused(Reason.TOKEN_INVALID, "the token is not an access token")
        kid = header.get("kid", "")
        key = self._keys.get(kid)
        if key is None:
            async with self._fetching:
                if kid not in self._keys:
                    await self._refresh()
            key = self._keys.get(kid)
        if key is None:
            raise Refused(Reason.TOKEN_INVALID, "the access token is not valid")
        return key

    async def _refresh(self) -> None:
        now = self._clock.now_ns()
        if self._fetched_ns is not None and now - self._fetched_ns < _REFETCH_EVERY_NS:
            return
        # Whoever waited while a fetch failed is not to wait for the next one to fail as well.
        if self._failed_ns is not None and now - self._failed_ns < _FAILED_FOR_NS:
            raise Refused(Reason.UNAVAILABLE, "tokens cannot be checked right now")
        try:
            raw = await self._fetch_keys()
        except (grpc.RpcError, OSError, Refused) as error:
            self._failed_ns = self._clock.now_ns()
            log.warning("signing_keys_unreachable", error=str(error))
            raise Refused(Reason.UNAVAILABLE, "tokens cannot be checked right now") from error
        self._keys = {kid: Ed25519PublicKey.from_public_bytes(key) for kid, key in raw.items()}
        self._fetched_ns = now


def signing_keys_from(channel: grpc.aio.Channel) -> FetchKeys:
    """`fetch_keys` for a `TokenVerifier` that asks the auth service."""
    stub = auth_pb2_grpc.AuthServiceStub(channel)

    async def fetch() -> dict[str, bytes]:
        # Auth may be starting just now as well.
        answer = await stub.GetSigningKeys(
            auth_pb2.GetSigningKeysRequest(), timeout=_FETCH_SECONDS, wait_for_ready=True
        )
        return {key.kid: decode_key(key.x) for key in answer.keys if key.alg == _ALGORITHM}

    return fetch


def decode_key(x: str) -> bytes:
    """base64url without padding (the `x` of a JWK, RFC 8037) -> 32 bytes."""
    return base64.urlsafe_b64decode(x + "=" * (-len(x) % 4))


def encode_key(raw: bytes) -> str:
    """32 bytes -> the `x` of a JWK."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
