"""The optional second factor: codes of an authenticator app (RFC 6238, 30 s, 6 digits), and
recovery codes for who has lost it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Protocol

import pyotp
import structlog

from kernel.clock import NS_PER_SECOND, Clock
from kernel.reasons import Reason, Refused
from services.auth import mail
from services.auth.audit import AuditTrail, Happened
from services.auth.clocks import utc
from services.auth.domain.model import Client, Mail, Proof, Totp, User
from services.auth.rate_limits import RateLimits
from services.auth.recovery_codes import RecoveryCodes
from services.auth.vault import Vault

ISSUER = "Tidebook"
_STEP_SECONDS = 30
# A clock may be one step off, either way.
_DRIFT_STEPS = (0, -1, 1)
_VAULT_PURPOSE = "totp"
log = structlog.get_logger("tidebook.auth.second_factor")


class SecondFactorStore(Protocol):
    """Where secrets are kept; `second_factor_store.PostgresSecondFactors` is the real one."""

    async def totp(self, user_id: str) -> Totp | None: ...

    async def begin(self, user_id: str, sealed_secret: bytes) -> bool: ...

    async def enable(
        self, user_id: str, step: int, hashes: Sequence[bytes], mail: Mail
    ) -> bool: ...

    async def spend_step(self, user_id: str, step: int) -> bool: ...

    async def spend_recovery_code(
        self, user_id: str, code_hash: bytes, mail: Callable[[int], Mail]
    ) -> bool: ...

    async def renew_recovery_codes(
        self, user_id: str, hashes: Sequence[bytes], mail: Mail
    ) -> bool: ...

    async def end(self, user_id: str, mail: Mail) -> None: ...


class SecondFactor:
    """Begins, proves, checks and ends a user's second factor."""

    def __init__(
        self,
        store: SecondFactorStore,
        vault: Vault,
        limits: RateLimits,
        audit: AuditTrail,
        clock: Clock,
    ) -> None:
        self._store = store
        self._vault = vault
        self._recovery_codes = RecoveryCodes(vault)
        self._limits = limits
        self._audit = audit
        self._clock = clock

    async def begin(self, user: User) -> tuple[str, str]:
        """A new secret (base32) and its `otpauth://` address. Raises `Refused(ALREADY_EXISTS)`."""
        secret = pyotp.random_base32()
        if not await self._store.begin(
            user.user_id, self._vault.seal(_VAULT_PURPOSE, secret.encode())
        ):
            raise Refused(Reason.ALREADY_EXISTS, "a second factor is in force already")
        return secret, pyotp.TOTP(secret).provisioning_uri(name=user.email, issuer_name=ISSUER)

    async def confirm(self, user: User, code: str, client: Client) -> list[str]:
        """Put the begun factor in force; returns its recovery codes.

        Raises `Refused`: `NOT_FOUND`, `OTP_INVALID` or `ACCOUNT_LOCKED`.
        """
        totp = await self._store.totp(user.user_id)
        if totp is None or totp.enabled:
            raise Refused(Reason.NOT_FOUND, "no second factor was begun")
        codes = self._recovery_codes.new()
        hashes, notice = self._hashes(user, codes), self._codes_made(user)

        async def enable(step: int) -> bool:
            return await self._store.enable(user.user_id, step, hashes, notice)

        await self._attempt(user, client, "totp_code", lambda: self._matches(totp, code, enable))
        await self._audit.note(user.user_id, Happened.SECOND_FACTOR_ENABLED, client)
        await self._audit.note(user.user_id, Happened.RECOVERY_CODES_CREATED, client)
        log.info("second_factor_enabled", user_id=user.user_id)
        return codes

    async def renew_recovery_codes(self, user: User, proof: Proof, client: Client) -> list[str]:
        """New recovery codes in place of all others.

        Raises `Refused`: `NOT_FOUND`, `OTP_INVALID` or `ACCOUNT_LOCKED`.
        """
        await self._prove(user, await self._in_force(user), proof, client)
        codes = self._recovery_codes.new()
        if not await self._store.renew_recovery_codes(
            user.user_id, self._hashes(user, codes), self._codes_made(user)
        ):
            raise _not_in_force()
        await self._audit.note(user.user_id, Happened.RECOVERY_CODES_CREATED, client)
        log.info("recovery_codes_created", user_id=user.user_id)
        return codes

    async def end(self, user: User, proof: Proof, client: Client) -> None:
        """End the factor. Raises `Refused`: `NOT_FOUND`, `OTP_INVALID` or `ACCOUNT_LOCKED`."""
        await self._prove(user, await self._in_force(user), proof, client)
        await self._store.end(user.user_id, mail.second_factor_ended(user.email, utc(self._clock)))
        await self._audit.note(user.user_id, Happened.SECOND_FACTOR_DISABLED, client)
        log.info("second_factor_disabled", user_id=user.user_id)

    async def check(self, user: User, proof: Proof, client: Client) -> User:
        """Nothing if the user has no factor in force; else the proof must be right. Returns the
        user, with one recovery code less where one was spent.

        Raises `Refused`: `TOTP_REQUIRED` without a code, `OTP_INVALID`, `ACCOUNT_LOCKED`.
        """
        totp = await self._store.totp(user.user_id) if user.totp_enabled else None
        if totp is None:
            return user
        if proof == Proof():
            raise Refused(Reason.TOTP_REQUIRED, "a code of the authenticator app is required")
        await self._prove(user, totp, proof, client)
        spent = 1 if proof.recovery_code else 0
        return replace(user, recovery_codes_left=user.recovery_codes_left - spent)

    async def _in_force(self, user: User) -> Totp:
        totp = await self._store.totp(user.user_id)
        if totp is None or not totp.enabled:
            raise _not_in_force()
        return totp

    async def _prove(self, user: User, totp: Totp, proof: Proof, client: Client) -> None:
        if not proof.recovery_code:
            await self._attempt(
                user,
                client,
                "totp_code",
                lambda: self._matches(
                    totp, proof.code, lambda step: self._store.spend_step(user.user_id, step)
                ),
            )
            return
        if proof.code:
            raise Refused(
                Reason.INVALID_ARGUMENT,
                "one of the two codes must be empty",
                field="recovery_code",
            )
        await self._attempt(
            user,
            client,
            "recovery_code",
            lambda: self._store.spend_recovery_code(
                user.user_id,
                self._recovery_codes.hash(user.user_id, proof.recovery_code),
                lambda left: mail.recovery_code_used(user.email, left, utc(self._clock)),
            ),
        )
        await self._audit.note(user.user_id, Happened.RECOVERY_CODE_USED, client)
        log.info("recovery_code_used", user_id=user.user_id)

    async def _attempt(
        self, user: User, client: Client, field: str, spend: Callable[[], Awaitable[bool]]
    ) -> None:
        """Let `spend` try a code, unless too many of either kind were wrong."""
        who = f"totp:{user.user_id}"
        await self._limits.check_not_locked(who)
        if await spend():
            await self._limits.succeeded(who)
            return
        locked = await self._limits.failed(who)
        kind = Happened.ACCOUNT_LOCKED if locked else Happened.SECOND_FACTOR_FAILED
        self._audit.note_later(user.user_id, kind, client)
        raise Refused(Reason.OTP_INVALID, "the code is wrong or was used already", field=field)

    async def _matches(
        self, totp: Totp, code: str, spend: Callable[[int], Awaitable[bool]]
    ) -> bool:
        """Whether a code of the app is right and its time step could be spent."""
        app = pyotp.TOTP(self._vault.unseal(_VAULT_PURPOSE, totp.sealed_secret).decode())
        now_step = self._clock.now_ns() // (_STEP_SECONDS * NS_PER_SECOND)
        for step in (now_step + drift for drift in _DRIFT_STEPS):
            right = pyotp.utils.strings_equal(code, app.generate_otp(step))
            # A code seen over a shoulder must not open a second session: each step counts once.
            if right and await spend(step):
                return True
        return False

    def _hashes(self, user: User, codes: Sequence[str]) -> list[bytes]:
        return [self._recovery_codes.hash(user.user_id, code) for code in codes]

    def _codes_made(self, user: User) -> Mail:
        return mail.recovery_codes_created(user.email, utc(self._clock))


def _not_in_force() -> Refused:
    return Refused(Reason.NOT_FOUND, "no second factor is in force")
