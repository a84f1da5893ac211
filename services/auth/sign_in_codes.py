"""A code by mail beside the password, for accounts without an authenticator app."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Protocol

from kernel.clock import Clock
from kernel.reasons import Reason, Refused
from services.auth import mail
from services.auth.audit import AuditTrail, Happened
from services.auth.clocks import utc
from services.auth.codes import Codes
from services.auth.domain.model import Address, Client, Mail, PendingCode, Purpose, User
from services.auth.rate_limits import RateLimits


class CodeStore(Protocol):
    """Where codes are kept; `store.PostgresUsers` is the real one."""

    async def save_code(self, code: PendingCode, mail: Mail, now: dt.datetime) -> None: ...

    async def spend_sign_in_code(
        self, address: Address, code_hash: bytes, now: dt.datetime
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class SignInCodes:
    """Asks whoever knows the password for what only the owner of the mailbox can read."""

    store: CodeStore
    codes: Codes
    limits: RateLimits
    audit: AuditTrail
    clock: Clock
    code_seconds: int

    async def check(self, address: Address, user: User, code: str, client: Client) -> None:
        """Nothing if the code is right; without one a new one is mailed.

        Raises `Refused`: `EMAIL_CODE_REQUIRED` without a code, `OTP_INVALID`, `OTP_EXPIRED`,
        `OTP_TOO_MANY_ATTEMPTS`, `RATE_LIMITED`.
        """
        now = utc(self.clock)
        if not code:
            await self.limits.sign_in_code(address.key)
            await self._mail(address, now)
            raise Refused(Reason.EMAIL_CODE_REQUIRED, "a code was sent to the address")
        code_hash = self.codes.hash(address, Purpose.SIGN_IN, code)
        try:
            await self.store.spend_sign_in_code(address, code_hash, now)
        except Refused:
            self.audit.note_later(user.user_id, Happened.SECOND_FACTOR_FAILED, client)
            raise

    async def _mail(self, address: Address, now: dt.datetime) -> None:
        code = self.codes.new()
        expires_at = now + dt.timedelta(seconds=self.code_seconds)
        await self.store.save_code(
            PendingCode(
                address,
                Purpose.SIGN_IN,
                self.codes.hash(address, Purpose.SIGN_IN, code),
                expires_at,
            ),
            mail.sign_in_code(address, code, expires_at, max(1, self.code_seconds // 60)),
            now,
        )
