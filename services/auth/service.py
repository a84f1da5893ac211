"""Accounts: signing up, signing in and passwords.

No answer here depends on whether an address is registered, and neither does the work done for it:
an unknown address gets the same hashing, the same rows and the same limits as a known one. An
account exists only once its address is proven.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Protocol

import structlog

from kernel.clock import Clock
from kernel.reasons import Reason, Refused
from mesh.identity import Caller, require
from services.auth import mail
from services.auth.addresses import parse_address
from services.auth.audit import AuditTrail, Happened, SecurityEvent
from services.auth.clocks import utc
from services.auth.codes import Codes
from services.auth.domain.model import (
    API_KEY_SESSION,
    Address,
    Client,
    Credentials,
    Mail,
    PendingCode,
    Proof,
    Purpose,
    Tokens,
    User,
)
from services.auth.domain.password_rules import check_password
from services.auth.rate_limits import RateLimits
from services.auth.second_factor import SecondFactor
from services.auth.sessions import Sessions
from services.auth.sign_in_codes import SignInCodes
from services.auth.welcome import Welcome

log = structlog.get_logger("tidebook.auth.accounts")


class UserStore(Protocol):
    """Where users and codes are kept; `store.PostgresUsers` is the real one."""

    async def is_registered(self, address: Address) -> bool: ...

    async def user(self, user_id: str) -> User | None: ...

    async def credentials(self, address: Address) -> Credentials | None: ...

    async def password_hash(self, user_id: str) -> str | None: ...

    async def set_password_hash(self, user_id: str, password_hash: str, mail: Mail) -> None: ...

    async def renew_password_hash(self, user_id: str, old: str, new: str) -> None: ...

    async def save_code(self, code: PendingCode, mail: Mail, now: dt.datetime) -> None: ...

    async def complete_sign_up(
        self, address: Address, code_hash: bytes, now: dt.datetime
    ) -> User: ...

    async def complete_reset(
        self, address: Address, code_hash: bytes, password_hash: str, mail: Mail, now: dt.datetime
    ) -> str: ...


class Passwords(Protocol):
    """Hashes passwords, slowly; `passwords.BcryptPasswords` is the real one."""

    async def hash(self, password: str) -> str: ...

    async def matches(self, password: str, password_hash: str | None) -> bool: ...

    def is_cheap(self, password_hash: str) -> bool: ...


class Breaches(Protocol):
    """Passwords that others have lost; `breached_passwords.BreachedPasswords` is the real one."""

    async def has(self, password: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class AccountPolicy:
    """What an operator may set."""

    code_seconds: int
    production: bool


@dataclass(frozen=True, slots=True)
class Accounts:
    """Use cases around accounts."""

    users: UserStore
    sessions: Sessions
    second_factor: SecondFactor
    # None where the password is enough.
    sign_in_codes: SignInCodes | None
    passwords: Passwords
    codes: Codes
    limits: RateLimits
    audit: AuditTrail
    welcome: Welcome
    clock: Clock
    policy: AccountPolicy
    common_passwords: frozenset[str]
    breached: Breaches | None

    async def sign_up(self, email: str, password: str, client: Client) -> int:
        """Mail a code to the address; returns how long it is good for, in seconds.

        The owner of a registered address gets a mail that says so instead. Raises `Refused`:
        `EMAIL_INVALID`, `PASSWORD_TOO_WEAK`, `RATE_LIMITED`.
        """
        await self.limits.attempt(client.ip)
        address = self._address(email)
        await self._check_new_password(password, address.email, "password")
        await self.limits.code(address.key)
        password_hash = await self.passwords.hash(password)
        if await self.users.is_registered(address):
            await self._save_decoy(
                address, Purpose.SIGN_UP, mail.already_registered(address, self._code_expiry())
            )
        else:
            await self._mail_sign_up_code(address, password_hash)
        return self.policy.code_seconds

    async def verify_code(self, email: str, code: str, client: Client) -> tuple[User, Tokens]:
        """The address is proven: make the account and open its first session.

        Raises `Refused`: `OTP_INVALID`, `OTP_EXPIRED`, `OTP_TOO_MANY_ATTEMPTS`, `RATE_LIMITED`.
        """
        await self.limits.attempt(client.ip)
        address = self._address(email)
        code_hash = self.codes.hash(address, Purpose.SIGN_UP, code)
        user = await self.users.complete_sign_up(address, code_hash, utc(self.clock))
        await self.audit.note(user.user_id, Happened.ACCOUNT_OPENED, client)
        log.info("account_opened", user_id=user.user_id, account_id=user.account_id)
        tokens = await self.sessions.open(user, client)
        await self.welcome.give(tokens.access_token)
        return user, tokens

    async def sign_in(
        self, email: str, password: str, proof: Proof, client: Client, *, email_code: str = ""
    ) -> tuple[User, Tokens]:
        """Open a session.

        Raises `Refused`: `BAD_CREDENTIALS`; with the right password `EMAIL_NOT_VERIFIED` or
        `EMAIL_CODE_REQUIRED` (and mails a new code), `TOTP_REQUIRED` or `OTP_...`;
        `ACCOUNT_LOCKED`, `RATE_LIMITED`.
        """
        await self.limits.attempt(client.ip)
        address = self._address(email)
        who = f"password:{address.key}"
        await self.limits.check_not_locked(who)
        found = await self.users.credentials(address)
        matches = await self.passwords.matches(password, found.password_hash if found else None)
        if found is None or not matches:
            await self._failed(who, found.user if found else None, client)
            raise Refused(Reason.BAD_CREDENTIALS, "address or password is wrong")
        await self.limits.succeeded(who)
        if found.user is None:
            await self.limits.code(address.key)
            await self._mail_sign_up_code(address, found.password_hash)
            raise Refused(Reason.EMAIL_NOT_VERIFIED, "a new code was sent to the address")
        user = await self.second_factor.check(found.user, proof, client)
        if self.sign_in_codes is not None and not user.totp_enabled:
            await self.sign_in_codes.check(address, user, email_code, client)
        tokens = await self.sessions.open(found.user, client)
        # Whoever set a new password meanwhile has ended all sessions there were: not yet this one.
        if not await self._is_still(user, password, found.password_hash):
            await self.sessions.take_back(user.user_id, tokens)
            raise Refused(Reason.BAD_CREDENTIALS, "address or password is wrong")
        await self.audit.note(user.user_id, Happened.SIGNED_IN, client)
        self.welcome.give_later(tokens.access_token)
        if self.passwords.is_cheap(found.password_hash):
            await self._renew_hash(user, password, found.password_hash)
        return user, tokens

    async def me(self) -> tuple[User, Caller]:
        """The user a token belongs to. Raises `Refused(SESSION_REVOKED)` when that has ended."""
        caller = require("read")
        if not caller.session_id.startswith(API_KEY_SESSION):
            await self.sessions.current()
        return await self._user(caller), caller

    async def change_password(self, current: str, new: str, client: Client) -> None:
        """Set a new password and end the caller's other sessions.

        Raises `Refused`: `BAD_CREDENTIALS`, `PASSWORD_TOO_WEAK`, `ACCOUNT_LOCKED`.
        """
        caller = await self.sessions.current()
        user = await self._user(caller)
        await self._check_new_password(new, user.email, "new_password")
        await self._check_password(user, current, client)
        password_hash = await self.passwords.hash(new)
        await self.users.set_password_hash(
            user.user_id, password_hash, self._changed_mail(user.email)
        )
        await self.sessions.end_all(user.user_id, keep=caller.session_id)
        await self.audit.note(user.user_id, Happened.PASSWORD_CHANGED, client)
        log.info("password_changed", user_id=user.user_id)

    async def request_password_reset(self, email: str, client: Client) -> int:
        """Mail a code for a new password, if the address is registered; returns its life (s).

        Raises `Refused`: `EMAIL_INVALID`, `RATE_LIMITED`.
        """
        await self.limits.attempt(client.ip)
        address = self._address(email)
        await self.limits.code(address.key)
        now, expires_at = utc(self.clock), self._code_expiry()
        code = self.codes.new()
        found = await self.users.credentials(address)
        if found is not None and found.user is not None:
            self.audit.note_later(found.user.user_id, Happened.PASSWORD_RESET_REQUESTED, client)
            code_hash = self.codes.hash(address, Purpose.PASSWORD_RESET, code)
            await self.users.save_code(
                PendingCode(address, Purpose.PASSWORD_RESET, code_hash, expires_at),
                mail.reset_code(address, code, expires_at, self._code_minutes()),
                now,
            )
        else:
            # The same work, with a mail that has expired already and so is never sent.
            await self._save_decoy(
                address,
                Purpose.PASSWORD_RESET,
                mail.reset_code(address, code, now, self._code_minutes()),
            )
        return self.policy.code_seconds

    async def reset_password(self, email: str, code: str, new: str, client: Client) -> None:
        """Set a new password with a mailed code and end all sessions.

        Raises `Refused`: `OTP_INVALID`, `OTP_EXPIRED`, `OTP_TOO_MANY_ATTEMPTS`,
        `PASSWORD_TOO_WEAK`, `RATE_LIMITED`.
        """
        await self.limits.attempt(client.ip)
        address = self._address(email)
        await self._check_new_password(new, address.email, "new_password")
        code_hash = self.codes.hash(address, Purpose.PASSWORD_RESET, code)
        password_hash = await self.passwords.hash(new)
        user_id = await self.users.complete_reset(
            address, code_hash, password_hash, self._changed_mail(address.email), utc(self.clock)
        )
        await self.sessions.end_all(user_id)
        # The owner of the mailbox has just proven it: failures of others no longer count.
        await self.limits.succeeded(f"password:{address.key}")
        await self.audit.note(user_id, Happened.PASSWORD_RESET, client)
        log.info("password_reset", user_id=user_id)

    async def begin_second_factor(self, password: str, client: Client) -> tuple[str, str]:
        """A new authenticator secret and its address; in force once confirmed.

        Raises `Refused`: `BAD_CREDENTIALS`, `ALREADY_EXISTS`, `ACCOUNT_LOCKED`.
        """
        user = await self._user(await self.sessions.current())
        await self._check_password(user, password, client)
        return await self.second_factor.begin(user)

    async def confirm_second_factor(self, code: str, client: Client) -> list[str]:
        """Put the second factor in force; returns its recovery codes.

        Raises `Refused`: `NOT_FOUND`, `OTP_INVALID`, `ACCOUNT_LOCKED`.
        """
        user = await self._user(await self.sessions.current())
        return await self.second_factor.confirm(user, code, client)

    async def end_second_factor(self, password: str, proof: Proof, client: Client) -> None:
        """End the factor.

        Raises `Refused`: `BAD_CREDENTIALS`, `NOT_FOUND`, `OTP_INVALID`, `ACCOUNT_LOCKED`.
        """
        user = await self._user(await self.sessions.current())
        await self._check_password(user, password, client)
        await self.second_factor.end(user, proof, client)

    async def new_recovery_codes(self, password: str, proof: Proof, client: Client) -> list[str]:
        """Recovery codes in place of all earlier ones.

        Raises `Refused`: `BAD_CREDENTIALS`, `NOT_FOUND`, `OTP_INVALID`, `ACCOUNT_LOCKED`.
        """
        user = await self._user(await self.sessions.current())
        await self._check_password(user, password, client)
        return await self.second_factor.renew_recovery_codes(user, proof, client)

    async def security_events(self, *, before: int, most: int) -> list[SecurityEvent]:
        """The caller's own, newest first, below the id `before` (0: from the newest)."""
        caller = await self.sessions.current()
        return await self.audit.page(caller.user_id, before=before, most=most)

    async def _check_password(self, user: User, password: str, client: Client) -> None:
        # A stolen session is no place to try passwords: failures count as they do at the door.
        who = f"password:{self._address(user.email).key}"
        await self.limits.check_not_locked(who)
        password_hash = await self.users.password_hash(user.user_id)
        if not await self.passwords.matches(password, password_hash):
            await self._failed(who, user, client)
            raise Refused(Reason.BAD_CREDENTIALS, "the password is wrong")
        await self.limits.succeeded(who)

    async def _is_still(self, user: User, password: str, password_hash: str) -> bool:
        """Whether the password that had this hash is the user's now."""
        newest = await self.users.password_hash(user.user_id)
        # Another sign-in may have renewed the hash meanwhile.
        return newest == password_hash or await self.passwords.matches(password, newest)

    async def _renew_hash(self, user: User, password: str, old: str) -> None:
        """The cost was raised since the hash was made, and only now the password is at hand."""
        try:
            new = await self.passwords.hash(password)
        except Refused:
            return  # Too many hash just now; the next sign-in will do.
        await self.users.renew_password_hash(user.user_id, old, new)
        log.info("password_hash_renewed", user_id=user.user_id)

    async def _failed(self, who: str, user: User | None, client: Client) -> None:
        """Count a wrong password, and let the account's owner know."""
        locked = await self.limits.failed(who)
        if user is not None:
            kind = Happened.ACCOUNT_LOCKED if locked else Happened.SIGN_IN_FAILED
            self.audit.note_later(user.user_id, kind, client)

    async def _mail_sign_up_code(self, address: Address, password_hash: str) -> None:
        code, expires_at = self.codes.new(), self._code_expiry()
        await self.users.save_code(
            PendingCode(
                address,
                Purpose.SIGN_UP,
                self.codes.hash(address, Purpose.SIGN_UP, code),
                expires_at,
                password_hash,
            ),
            mail.sign_up_code(address, code, expires_at, self._code_minutes()),
            utc(self.clock),
        )

    async def _save_decoy(self, address: Address, purpose: Purpose, notice: Mail) -> None:
        """A code that no digits match, so that trying codes tells nothing either."""
        await self.users.save_code(
            PendingCode(address, purpose, self.codes.decoy(), self._code_expiry()),
            notice,
            utc(self.clock),
        )

    async def _user(self, caller: Caller) -> User:
        user = await self.users.user(caller.user_id)
        if user is None:
            raise Refused(Reason.TOKEN_INVALID, "the access token is not valid")
        return user

    async def _check_new_password(self, password: str, email: str, field: str) -> None:
        check_password(password, email=email, field=field, common=self.common_passwords)
        if self.breached is not None and await self.breached.has(password):
            raise Refused(
                Reason.PASSWORD_TOO_WEAK,
                "was in a breach of some site and is tried everywhere; take another",
                field=field,
            )

    def _address(self, email: str) -> Address:
        return parse_address(email, production=self.policy.production)

    def _changed_mail(self, email: str) -> Mail:
        return mail.password_changed(email, utc(self.clock))

    def _code_expiry(self) -> dt.datetime:
        return utc(self.clock) + dt.timedelta(seconds=self.policy.code_seconds)

    def _code_minutes(self) -> int:
        return max(1, self.policy.code_seconds // 60)
