"""The optional second factor: codes of an authenticator app (RFC 6238, 30 s, 6 digits)."""

from __future__ import annotations

from typing import Protocol

import pyotp
import structlog

from kernel.clock import NS_PER_SECOND, Clock
from kernel.reasons import Reason, Refused
from services.auth.audit import AuditTrail, Happened
from services.auth.domain.model import Client, Totp, User
from services.auth.rate_limits import RateLimits
from services.auth.vault import Vault

ISSUER = "Tidebook"
_STEP_SECONDS = 30
# A clock may be one step off, either way.
_DRIFT_STEPS = (0, -1, 1)
_VAULT_PURPOSE = "totp"
log = structlog.get_logger("tidebook.auth.second_factor")


class TotpStore(Protocol):
    """Where secrets are kept; `store.PostgresUsers` is the real one."""

    async def totp(self, user_id: str) -> Totp | None: ...

    async def begin_totp(self, user_id: str, sealed_secret: bytes) -> bool: ...

    async def spend_totp_step(self, user_id: str, step: int, *, enable: bool = False) -> bool: ...

    async def end_totp(self, user_id: str) -> None: ...


class SecondFactor:
    """Begins, proves, checks and ends a user's second factor."""

    def __init__(
        self,
        store: TotpStore,
        vault: Vault,
        limits: RateLimits,
        audit: AuditTrail,
        clock: Clock,
    ) -> None:
        self._store = store
        self._vault = vault
        self._limits = limits
        self._audit = audit
        self._clock = clock

    async def begin(self, user: User) -> tuple[str, str]:
        """A new secret (base32) and its `otpauth://` address. Raises `Refused(ALREADY_EXISTS)`."""
        secret = pyotp.random_base32()
        if not await self._store.begin_totp(
            user.user_id, self._vault.seal(_VAULT_PURPOSE, secret.encode())
        ):
            raise Refused(Reason.ALREADY_EXISTS, "a second factor is in force already")
        return secret, pyotp.TOTP(secret).provisioning_uri(name=user.email, issuer_name=ISSUER)

    async def confirm(self, user_id: str, code: str, client: Client) -> None:
        """Put the begun factor in force. Raises `Refused`: `NOT_FOUND` or `OTP_INVALID`."""
        totp = await self._store.totp(user_id)
        if totp is None or totp.enabled:
            raise Refused(Reason.NOT_FOUND, "no second factor was begun")
        await self._spend(user_id, totp, code, client, enable=True)
        await self._audit.note(user_id, Happened.SECOND_FACTOR_ENABLED, client)
        log.info("second_factor_enabled", user_id=user_id)

    async def end(self, user_id: str, code: str, client: Client) -> None:
        """End the factor. Raises `Refused`: `NOT_FOUND` or `OTP_INVALID`."""
        totp = await self._store.totp(user_id)
        if totp is None or not totp.enabled:
            raise Refused(Reason.NOT_FOUND, "no second factor is in force")
        await self._spend(user_id, totp, code, client)
        await self._store.end_totp(user_id)
        await self._audit.note(user_id, Happened.SECOND_FACTOR_DISABLED, client)
        log.info("second_factor_disabled", user_id=user_id)

    async def check(self, user: User, code: str, client: Client) -> None:
        """Nothing if the user has no factor in force; else the code must be right.

        Raises `Refused`: `TOTP_REQUIRED` without a code, `OTP_INVALID`, `ACCOUNT_LOCKED`.
        """
        totp = await self._store.totp(user.user_id) if user.totp_enabled else None
        if totp is None:
            return
        if not code:
            raise Refused(Reason.TOTP_REQUIRED, "a code of the authenticator app is required")
        await self._spend(user.user_id, totp, code, client)

    async def _spend(
        self, user_id: str, totp: Totp, code: str, client: Client, *, enable: bool = False
    ) -> None:
        who = f"totp:{user_id}"
        await self._limits.check_not_locked(who)
        app = pyotp.TOTP(self._vault.unseal(_VAULT_PURPOSE, totp.sealed_secret).decode())
        now_step = self._clock.now_ns() // (_STEP_SECONDS * NS_PER_SECOND)
        for step in (now_step + drift for drift in _DRIFT_STEPS):
            right = pyotp.utils.strings_equal(code, app.generate_otp(step))
            # A code seen over a shoulder must not open a second session: each step counts once.
            if right and await self._store.spend_totp_step(user_id, step, enable=enable):
                await self._limits.succeeded(who)
                return
        locked = await self._limits.failed(who)
        kind = Happened.ACCOUNT_LOCKED if locked else Happened.SECOND_FACTOR_FAILED
        self._audit.note_later(user_id, kind, client)
        raise Refused(
            Reason.OTP_INVALID, "the code is wrong or was used already", field="totp_code"
        )
