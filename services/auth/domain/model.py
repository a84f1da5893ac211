"""The things auth keeps, as plain values."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum

# Everything a signed-in person may do; an API key gets a part of it.
ALL_SCOPES: frozenset[str] = frozenset({"read", "trade", "withdraw"})
# Session ids of tokens that an API key was exchanged for begin with this.
API_KEY_SESSION = "key_"


class Purpose(StrEnum):
    """What a one-time code proves."""

    SIGN_UP = "sign_up"
    PASSWORD_RESET = "password_reset"
    SIGN_IN = "sign_in"


@dataclass(frozen=True, slots=True)
class Address:
    """An e-mail address: as its owner writes it, and the form in which two are the same."""

    email: str
    key: str


@dataclass(frozen=True, slots=True)
class Client:
    """Where a request comes from. `ip` is empty when it is not known."""

    ip: str = ""
    user_agent: str = ""


@dataclass(frozen=True, slots=True)
class User:
    """A person whose address is proven; before that there is only a pending sign-up."""

    user_id: str
    account_id: int
    email: str
    totp_enabled: bool
    recovery_codes_left: int
    created_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a sign-in is checked against. `user` is None for a sign-up that is still pending."""

    password_hash: str
    user: User | None


@dataclass(frozen=True, slots=True)
class Totp:
    """A second factor: the sealed secret, and whether sign-ins ask for it yet."""

    sealed_secret: bytes
    enabled: bool


@dataclass(frozen=True, slots=True)
class Proof:
    """What a second factor is proven with: a code of the app, or a recovery code in its place."""

    code: str = ""
    recovery_code: str = ""


@dataclass(frozen=True, slots=True)
class PendingCode:
    """A one-time code as it is stored: only its keyed hash.

    `password_hash` is that of the sign-up which asked for the code and becomes the user's.
    """

    address: Address
    purpose: Purpose
    code_hash: bytes
    expires_at: dt.datetime
    password_hash: str | None = None


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail to be sent until `expires_at`."""

    to: str
    subject: str
    text: str
    expires_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a client holds of a session. Never log one."""

    access_token: str
    access_expires_at: dt.datetime
    refresh_token: str
    refresh_expires_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Session:
    """An open session."""

    session_id: str
    user_id: str
    account_id: int
    created_at: dt.datetime
    last_used_at: dt.datetime
    client: Client


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key; its secret is known to its owner alone."""

    api_key_id: str
    user_id: str
    name: str
    scopes: frozenset[str]
    ip_allow_list: tuple[str, ...]
    created_at: dt.datetime
    expires_at: dt.datetime | None = None
    last_used_at: dt.datetime | None = None
