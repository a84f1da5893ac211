"""Between auth's contract and its values, one function each way."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence

from google.protobuf.timestamp_pb2 import Timestamp
from tidebook.auth.v1 import auth_pb2 as pb

from kernel.reasons import Reason, Refused
from mesh.tokens import encode_key
from services.auth.audit import SecurityEvent
from services.auth.domain.model import ApiKey, Session, Tokens, User

_SCOPES: dict[str, pb.Scope.ValueType] = {
    "read": pb.SCOPE_READ,
    "trade": pb.SCOPE_TRADE,
    "withdraw": pb.SCOPE_WITHDRAW,
}
_SCOPE_NAMES = {number: name for name, number in _SCOPES.items()}


def scopes_from_proto(scopes: Iterable[pb.Scope.ValueType]) -> frozenset[str]:
    return frozenset(_SCOPE_NAMES[scope] for scope in scopes)


def scopes_to_proto(scopes: Iterable[str]) -> list[pb.Scope.ValueType]:
    return sorted(_SCOPES[scope] for scope in scopes)


def tokens_to_proto(tokens: Tokens) -> pb.Tokens:
    return pb.Tokens(
        access_token=tokens.access_token,
        access_expire_time=timestamp(tokens.access_expires_at),
        refresh_token=tokens.refresh_token,
        refresh_expire_time=timestamp(tokens.refresh_expires_at),
    )


def user_to_proto(user: User) -> pb.User:
    return pb.User(
        user_id=user.user_id,
        account_id=user.account_id,
        email=user.email,
        # There is no user before the address is proven.
        email_verified=True,
        totp_enabled=user.totp_enabled,
        recovery_codes_left=user.recovery_codes_left,
        create_time=timestamp(user.created_at),
    )


def security_events_to_proto(
    events: Sequence[SecurityEvent], size: int
) -> pb.ListSecurityEventsResponse:
    """The first `size` of them, and a token when there are more."""
    page = events[:size]
    return pb.ListSecurityEventsResponse(
        events=[
            pb.SecurityEvent(
                kind=pb.SecurityEventKind.Value(f"SECURITY_EVENT_KIND_{event.happened}"),
                time=timestamp(event.at),
                ip_address=event.client.ip,
                user_agent=event.client.user_agent,
                subject=event.subject,
            )
            for event in page
        ],
        next_page_token=str(page[-1].event_id) if len(events) > size else "",
    )


def event_page_from(token: str) -> int:
    """Where a page begins. Raises `Refused(INVALID_ARGUMENT)`."""
    if not token:
        return 0
    if not (token.isascii() and token.isdigit() and len(token) < 19):
        raise Refused(Reason.INVALID_ARGUMENT, "is not of a page of this list", field="page_token")
    return int(token)


def session_to_proto(session: Session, *, current: bool) -> pb.Session:
    return pb.Session(
        session_id=session.session_id,
        create_time=timestamp(session.created_at),
        last_used_time=timestamp(session.last_used_at),
        ip_address=session.client.ip,
        user_agent=session.client.user_agent,
        current=current,
    )


def api_key_to_proto(key: ApiKey) -> pb.ApiKey:
    return pb.ApiKey(
        api_key_id=key.api_key_id,
        name=key.name,
        scopes=scopes_to_proto(key.scopes),
        ip_allow_list=key.ip_allow_list,
        create_time=timestamp(key.created_at),
        expire_time=timestamp(key.expires_at),
        last_used_time=timestamp(key.last_used_at),
    )


def signing_keys_to_proto(keys: Mapping[str, bytes]) -> pb.GetSigningKeysResponse:
    return pb.GetSigningKeysResponse(
        keys=[
            pb.SigningKey(kid=kid, kty="OKP", crv="Ed25519", alg="EdDSA", x=encode_key(raw))
            for kid, raw in keys.items()
        ]
    )


def timestamp(time: dt.datetime | None) -> Timestamp | None:
    """A time, or not set."""
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def time_from_proto(stamp: Timestamp, *, field: str) -> dt.datetime:
    """Raises `Refused(INVALID_ARGUMENT)` for what is no time between the years 1 and 9999."""
    try:
        return stamp.ToDatetime(tzinfo=dt.UTC)
    except (ValueError, OverflowError):
        raise Refused(Reason.INVALID_ARGUMENT, "is not a time", field=field) from None
