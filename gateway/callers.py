"""Who calls, and how often they may: tokens checked, buckets charged."""

from __future__ import annotations

import contextlib

from gateway.limits import Limit, RateLimiter, Spent
from gateway.metrics import Metrics
from kernel.reasons import Reason, Refused
from mesh.config import Settings
from mesh.identity import ANONYMOUS, Caller
from mesh.tokens import TokenVerifier, bearer_token, check_address

# Where somebody might guess passwords and codes, or make us send mail.
_GUESSABLE = frozenset(
    f"/tidebook.auth.v1.AuthService/{name}"
    for name in (
        "SignUp",
        "VerifyOtp",
        "SignIn",
        "RequestPasswordReset",
        "ResetPassword",
        "ExchangeApiKey",
    )
)


class Callers:
    """The account behind an `authorization`, and the rate limits of address and account."""

    def __init__(
        self, settings: Settings, verifier: TokenVerifier, limiter: RateLimiter, metrics: Metrics
    ) -> None:
        self._verifier = verifier
        self._limiter = limiter
        self._metrics = metrics
        self._per_ip = Limit.parse("ip", settings.rate_limit_ip)
        self._per_account = Limit.parse("account", settings.rate_limit_account)
        self._guesses = Limit.parse("auth", settings.auth_rate_limit)

    async def verify(self, authorization: str, client_ip: str) -> Caller:
        """The caller of a header `Bearer TOKEN`; raises `Refused` when the token is not good, or
        not from that address.
        """
        token = bearer_token(authorization)
        if token is None:
            raise Refused(Reason.TOKEN_INVALID, "authorization must be `Bearer <access token>`")
        caller = await self._verifier.verify(token)
        check_address(caller, client_ip)
        return caller

    async def need(self, authorization: str, client_ip: str) -> Caller:
        """The caller of a method that is not for everybody; raises `Refused` without a token."""
        if not authorization:
            raise Refused(Reason.UNAUTHENTICATED, "an access token is required")
        return await self.verify(authorization, client_ip)

    def verified(self, token: str, client_ip: str) -> Caller | None:
        """The caller of a token that was verified before; None when it has to be looked at again.

        Raises `Refused` like `verify`.
        """
        caller = self._verifier.verified(token)
        if caller is not None:
            check_address(caller, client_ip)
        return caller

    def charge(self, caller: Caller, client_ip: str) -> Spent | None:
        """Charge a call to its address and account; None, and nothing charged, when it has to wait
        for that or is to be refused.
        """
        return self._limiter.spend(
            (self._per_ip, client_ip), (self._per_account, str(caller.account_id))
        )

    async def admit(
        self, rpc_path: str, client_ip: str, authorization: str
    ) -> tuple[Caller, dict[str, str]]:
        """Charge a call to its address and account: (caller, `RateLimit-*` headers).

        A bad token makes an anonymous caller here: the service that is called refuses it with the
        reason, and methods that need no token do not care. Raises `Refused(RATE_LIMITED)`.
        """
        caller = ANONYMOUS
        try:
            spent = await self._limiter.check(self._per_ip, client_ip)
            if rpc_path in _GUESSABLE:
                spent = await self._limiter.check(self._guesses, client_ip)
            if authorization:
                with contextlib.suppress(Refused):
                    caller = await self.verify(authorization, client_ip)
            if caller.account_id:
                spent = await self._limiter.check(self._per_account, str(caller.account_id))
        except Refused as refused:
            self._metrics.rate_limited[refused.details.get("limit", "")] += 1
            raise
        return caller, {} if spent is None else spent.headers()
