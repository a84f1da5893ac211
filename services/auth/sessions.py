"""Sessions: opening, refreshing, listing and ending them.

A refresh token is `<user id>.<session id>.<family>.<number>`: the family is one secret for the
session's whole life, the number is good for one refresh. A token with the right family and a wrong
number is one that was spent before, so somebody has a copy, and the session ends for both
(RFC 9700 section 4.14.2).
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import structlog

from kernel.clock import Clock
from kernel.reasons import Reason, Refused
from mesh.identity import Caller, require
from services.auth.audit import AuditTrail, Happened
from services.auth.clocks import now_ms, utc
from services.auth.domain.model import (
    ALL_SCOPES,
    API_KEY_SESSION,
    Client,
    Session,
    Tokens,
    User,
)
from services.auth.session_store import Rotation
from services.auth.vault import Vault

_SESSION_BYTES, _FAMILY_BYTES, _NUMBER_BYTES = 12, 16, 24
_VAULT_PURPOSE = "refresh-token"
log = structlog.get_logger("tidebook.auth.sessions")


class SessionStore(Protocol):
    """What `Sessions` needs to keep sessions; `session_store.RedisSessions` is the real one."""

    async def add(
        self, session: Session, *, family_hash: bytes, refresh_hash: bytes, ttl_ms: int
    ) -> list[str]: ...

    async def rotate(
        self,
        user_id: str,
        session_id: str,
        *,
        family_hash: bytes,
        old_hash: bytes,
        new_hash: bytes,
        now_ms: int,
        client: Client,
        ttl_ms: int,
        most_ms: int,
    ) -> tuple[Rotation, int, int]: ...

    async def is_open(self, user_id: str, session_id: str) -> bool: ...

    async def of_user(self, user_id: str) -> list[Session]: ...

    async def ids_of(self, user_id: str) -> list[str]: ...

    async def remove(self, user_id: str, session_ids: list[str]) -> int: ...


class Revocations(Protocol):
    """Tells all who verify tokens; `mesh.revocation.RevocationLog` is the real one."""

    async def add(self, session_ids: Iterable[str]) -> None: ...


class Signer(Protocol):
    """Signs access tokens; `signing.SigningKeys` is the real one."""

    def sign(
        self,
        *,
        user_id: str,
        account_id: int,
        session_id: str,
        scopes: frozenset[str],
        ttl_seconds: int,
        networks: Iterable[str] = (),
    ) -> str: ...


@dataclass(frozen=True, slots=True)
class SessionPolicy:
    """How long things last: an access token, an unused session, a session however it is used."""

    access_seconds: int
    refresh_seconds: int
    most_seconds: int


class Sessions:
    """Use cases around sessions."""

    def __init__(
        self,
        store: SessionStore,
        vault: Vault,
        signer: Signer,
        audit: AuditTrail,
        revocations: Revocations,
        clock: Clock,
        policy: SessionPolicy,
    ) -> None:
        self._store = store
        self._vault = vault
        self._signer = signer
        self._audit = audit
        self._revocations = revocations
        self._clock = clock
        self._policy = policy

    async def open(self, user: User, client: Client) -> Tokens:
        """A new session of a user who has just proven to be it."""
        session_id = secrets.token_urlsafe(_SESSION_BYTES)
        family = secrets.token_urlsafe(_FAMILY_BYTES)
        number = secrets.token_urlsafe(_NUMBER_BYTES)
        now = utc(self._clock)
        policy = self._policy
        seconds = min(policy.refresh_seconds, policy.most_seconds)
        too_many = await self._store.add(
            Session(session_id, user.user_id, user.account_id, now, now, client),
            family_hash=self._hash(session_id, family),
            refresh_hash=self._hash(session_id, number),
            ttl_ms=seconds * 1000,
        )
        await self._end(user.user_id, too_many)
        log.info("session_opened", user_id=user.user_id, session_id=session_id)
        return self._tokens(user.user_id, user.account_id, session_id, family, number, seconds)

    async def refresh(self, refresh_token: str, client: Client) -> Tokens:
        """New tokens for a good refresh token.

        Raises `Refused`: `TOKEN_INVALID`, or `SESSION_REVOKED` when the session has ended or the
        token was spent before (which ends it).
        """
        try:
            user_id, session_id, family, old = refresh_token.split(".")
        except ValueError:
            raise Refused(Reason.TOKEN_INVALID, "not a refresh token") from None
        new = secrets.token_urlsafe(_NUMBER_BYTES)
        policy = self._policy
        outcome, account_id, left_ms = await self._store.rotate(
            user_id,
            session_id,
            family_hash=self._hash(session_id, family),
            old_hash=self._hash(session_id, old),
            new_hash=self._hash(session_id, new),
            now_ms=now_ms(self._clock),
            client=client,
            ttl_ms=policy.refresh_seconds * 1000,
            most_ms=policy.most_seconds * 1000,
        )
        if outcome is Rotation.UNKNOWN:
            raise Refused(Reason.TOKEN_INVALID, "not a refresh token")
        if outcome is Rotation.REUSED:
            await self._revocations.add([session_id])
            log.warning("refresh_token_reused", user_id=user_id, session_id=session_id)
            await self._audit.note(
                user_id, Happened.REFRESH_TOKEN_REUSED, client, subject=session_id
            )
        if outcome is not Rotation.ROTATED:
            raise Refused(Reason.SESSION_REVOKED, "the session has ended; sign in again")
        return self._tokens(user_id, account_id, session_id, family, new, left_ms // 1000)

    async def current(self) -> Caller:
        """The caller, a person in a session that is still open.

        Raises `Refused`: `UNAUTHENTICATED`, `SCOPE_MISSING` for an API key's token, or
        `SESSION_REVOKED`.
        """
        caller = require("read")
        if caller.session_id.startswith(API_KEY_SESSION):
            raise Refused(Reason.SCOPE_MISSING, "an API key may not do this; sign in")
        if not await self._store.is_open(caller.user_id, caller.session_id):
            raise Refused(Reason.SESSION_REVOKED, "the session has ended; sign in again")
        return caller

    async def of_caller(self) -> tuple[Caller, list[Session]]:
        """The caller and the caller's open sessions, newest first."""
        caller = await self.current()
        return caller, await self._store.of_user(caller.user_id)

    async def sign_out(self, client: Client, *, everywhere: bool) -> None:
        """End the caller's session, or all of them. One that has ended already is no error."""
        caller = require("read")
        if everywhere:
            await self.current()
            await self.end_all(caller.user_id)
        else:
            await self._end(caller.user_id, [caller.session_id])
        await self._audit.note(
            caller.user_id, Happened.SIGNED_OUT, client, subject=caller.session_id
        )
        log.info("signed_out", user_id=caller.user_id, everywhere=everywhere)

    async def revoke(self, session_id: str, client: Client) -> None:
        """End one of the caller's sessions. Raises `Refused(NOT_FOUND)`."""
        caller = await self.current()
        if not await self._store.is_open(caller.user_id, session_id):
            raise Refused(Reason.NOT_FOUND, "no such session", field="session_id")
        await self._end(caller.user_id, [session_id])
        await self._audit.note(caller.user_id, Happened.SESSION_REVOKED, client, subject=session_id)
        log.info("session_revoked", user_id=caller.user_id, session_id=session_id)

    async def take_back(self, user_id: str, tokens: Tokens) -> None:
        """End the session of tokens that were not given to anybody yet."""
        await self._end(user_id, [tokens.refresh_token.split(".")[1]])

    async def end_all(self, user_id: str, *, keep: str = "") -> None:
        """End every session of a user, but the one to keep."""
        session_ids = await self._store.ids_of(user_id)
        await self._end(user_id, [found for found in session_ids if found != keep])

    async def _end(self, user_id: str, session_ids: list[str]) -> None:
        await end_sessions(self._store, self._revocations, user_id, session_ids)

    def _tokens(
        self,
        user_id: str,
        account_id: int,
        session_id: str,
        family: str,
        number: str,
        refresh_seconds: int,
    ) -> Tokens:
        now = utc(self._clock)
        # An access token must not outlive its session.
        access_seconds = max(1, min(self._policy.access_seconds, refresh_seconds))
        access = self._signer.sign(
            user_id=user_id,
            account_id=account_id,
            session_id=session_id,
            scopes=ALL_SCOPES,
            ttl_seconds=access_seconds,
        )
        return Tokens(
            access_token=access,
            access_expires_at=now + dt.timedelta(seconds=access_seconds),
            refresh_token=f"{user_id}.{session_id}.{family}.{number}",
            refresh_expires_at=now + dt.timedelta(seconds=refresh_seconds),
        )

    def _hash(self, session_id: str, secret: str) -> bytes:
        return self._vault.mac(_VAULT_PURPOSE, session_id, secret)


async def end_sessions(
    store: SessionStore, revocations: Revocations, user_id: str, session_ids: list[str]
) -> None:
    """End sessions of a user, and every token that was given out for them."""
    # Told first: if only one of the two happens, no token must stay good for it.
    await revocations.add(session_ids)
    await store.remove(user_id, session_ids)
