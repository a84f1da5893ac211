"""API keys: making, listing, ending, and exchanging one for a short access token.

The secret is 32 random bytes, far beyond guessing, so a fast keyed hash keeps it (a slow one would
only make every bot's start expensive).
"""

from __future__ import annotations

import datetime as dt
import hmac
import ipaddress
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import structlog

from kernel.clock import Clock
from kernel.reasons import Reason, Refused
from mesh.addresses import is_within
from services.auth.audit import AuditTrail, Happened
from services.auth.clocks import utc
from services.auth.domain.model import API_KEY_SESSION, ApiKey, Client
from services.auth.rate_limits import RateLimits
from services.auth.sessions import Revocations, Sessions, Signer
from services.auth.vault import Vault

KEYS_MAX = 50
_ID_BYTES, _SECRET_BYTES = 10, 32
_VAULT_PURPOSE = "api-key"
log = structlog.get_logger("tidebook.auth.api_keys")


class ApiKeyStore(Protocol):
    """Where keys are kept; `api_key_store.PostgresApiKeys` is the real one."""

    async def add(self, key: ApiKey, secret_hash: bytes, *, most: int) -> bool: ...

    async def of_user(self, user_id: str) -> list[ApiKey]: ...

    async def revoke(self, user_id: str, api_key_id: str, now: dt.datetime) -> bool: ...

    async def find(self, api_key_id: str) -> tuple[ApiKey, bytes, int] | None: ...

    async def mark_used(self, api_key_id: str, now: dt.datetime) -> None: ...


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """Use cases around API keys."""

    store: ApiKeyStore
    sessions: Sessions
    vault: Vault
    signer: Signer
    audit: AuditTrail
    limits: RateLimits
    revocations: Revocations
    clock: Clock
    access_seconds: int

    async def create(
        self,
        name: str,
        scopes: frozenset[str],
        ip_allow_list: Iterable[str],
        expires_at: dt.datetime | None,
        client: Client,
    ) -> tuple[ApiKey, str]:
        """A new key of the caller and its secret, which is not kept.

        Raises `Refused`: `SCOPE_MISSING` for more than the session may do, `INVALID_ARGUMENT` for a
        bad network or an expiry in the past, `RATE_LIMITED` for too many keys.
        """
        caller = await self.sessions.current()
        if not scopes <= caller.scopes:
            raise Refused(Reason.SCOPE_MISSING, "a key cannot do more than its maker")
        now = utc(self.clock)
        if expires_at is not None and expires_at <= now:
            raise Refused(Reason.INVALID_ARGUMENT, "must be in the future", field="expire_time")
        key = ApiKey(
            api_key_id=f"tk_{secrets.token_hex(_ID_BYTES)}",
            user_id=caller.user_id,
            name=name,
            scopes=scopes,
            ip_allow_list=tuple(_network(text) for text in ip_allow_list),
            created_at=now,
            expires_at=expires_at,
        )
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        if not await self.store.add(key, self._hash(key.api_key_id, secret), most=KEYS_MAX):
            raise Refused(
                Reason.RATE_LIMITED, f"at most {KEYS_MAX} keys; revoke one", most=KEYS_MAX
            )
        await self.audit.note(
            caller.user_id, Happened.API_KEY_CREATED, client, subject=key.api_key_id
        )
        log.info("api_key_made", user_id=caller.user_id, api_key_id=key.api_key_id)
        return key, secret

    async def of_caller(self) -> list[ApiKey]:
        """The caller's keys, newest first."""
        return await self.store.of_user((await self.sessions.current()).user_id)

    async def revoke(self, api_key_id: str, client: Client) -> None:
        """End a key of the caller, and the tokens it was exchanged for.

        Raises `Refused(NOT_FOUND)`.
        """
        caller = await self.sessions.current()
        if not await self.store.revoke(caller.user_id, api_key_id, utc(self.clock)):
            raise Refused(Reason.NOT_FOUND, "no such API key", field="api_key_id")
        await self.revocations.add([API_KEY_SESSION + api_key_id])
        await self.audit.note(caller.user_id, Happened.API_KEY_REVOKED, client, subject=api_key_id)
        log.info("api_key_revoked", user_id=caller.user_id, api_key_id=api_key_id)

    async def exchange(
        self, api_key_id: str, secret: str, client: Client
    ) -> tuple[str, dt.datetime]:
        """An access token with the key's scopes, and when it expires.

        Raises `Refused`: `API_KEY_INVALID` (unknown, wrong secret, expired or revoked: not said
        which), `IP_NOT_ALLOWED`, `RATE_LIMITED`.
        """
        await self.limits.token(client.ip)
        found = await self.store.find(api_key_id)
        given = self._hash(api_key_id, secret)
        now = utc(self.clock)
        if found is None or not hmac.compare_digest(found[1], given):
            raise Refused(Reason.API_KEY_INVALID)
        key, _, account_id = found
        if key.expires_at is not None and key.expires_at <= now:
            raise Refused(Reason.API_KEY_INVALID)
        if key.ip_allow_list and not is_within(client.ip, key.ip_allow_list):
            self.audit.note_later(key.user_id, Happened.API_KEY_REFUSED, client, subject=api_key_id)
            raise Refused(Reason.IP_NOT_ALLOWED)
        await self.store.mark_used(api_key_id, now)
        # The token must not outlive the key.
        seconds = self.access_seconds
        if key.expires_at is not None:
            seconds = min(seconds, max(1, int((key.expires_at - now).total_seconds())))
        token = self.signer.sign(
            user_id=key.user_id,
            account_id=account_id,
            session_id=API_KEY_SESSION + api_key_id,
            scopes=key.scopes,
            ttl_seconds=seconds,
            # Whoever gets hold of the token alone must be there as well.
            networks=key.ip_allow_list,
        )
        return token, now + dt.timedelta(seconds=seconds)

    def _hash(self, api_key_id: str, secret: str) -> bytes:
        return self.vault.mac(_VAULT_PURPOSE, api_key_id, secret)


def _network(text: str) -> str:
    """`"10.0.0.7"` -> `"10.0.0.7/32"`; raises `Refused(INVALID_ARGUMENT)`."""
    try:
        return str(ipaddress.ip_network(text.strip(), strict=False))
    except ValueError:
        raise Refused(
            Reason.INVALID_ARGUMENT, "must be addresses or networks", field="ip_allow_list"
        ) from None
