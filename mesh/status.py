"""The one map between Tidebook's reasons and gRPC and HTTP statuses, and rich errors both ways.

A `Refused` travels as `google.rpc.Status` (AIP-193): `ErrorInfo` always, `BadRequest` when a field
is at fault, `RetryInfo` when trying again later can help.
"""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from kernel.reasons import Reason, Refused

DOMAIN = "tidebook"
STATUS_DETAILS_KEY = "grpc-status-details-bin"
# Detail of a `Refused` that says when to try again; becomes RetryInfo and Retry-After.
RETRY_AFTER_MS = "retry_after_ms"
_DEFAULT_RETRY_MS = 1000

_BY_STATUS: dict[grpc.StatusCode, tuple[Reason, ...]] = {
    grpc.StatusCode.INVALID_ARGUMENT: (
        Reason.INVALID_ARGUMENT,
        Reason.PASSWORD_TOO_WEAK,
        Reason.EMAIL_INVALID,
        Reason.OTP_INVALID,
        Reason.PRICE_NOT_ON_TICK,
        Reason.PRICE_OUT_OF_RANGE,
        Reason.PRICE_REQUIRED,
        Reason.PRICE_NOT_ALLOWED,
        Reason.QUANTITY_NOT_ON_LOT,
        Reason.QUANTITY_TOO_SMALL,
        Reason.QUANTITY_TOO_LARGE,
        Reason.QUANTITY_REQUIRED,
        Reason.NOTIONAL_TOO_SMALL,
        Reason.NOTIONAL_TOO_LARGE,
        Reason.ORDER_TYPE_NOT_SUPPORTED,
        Reason.TIME_IN_FORCE_NOT_SUPPORTED,
        Reason.TRIGGER_PRICE_REQUIRED,
        Reason.AMEND_CHANGES_NOTHING,
        Reason.AMOUNT_INVALID,
        Reason.AMOUNT_TOO_PRECISE,
        Reason.LEVERAGE_OUT_OF_RANGE,
        Reason.TRIGGER_ON_WRONG_SIDE,
    ),
    grpc.StatusCode.NOT_FOUND: (
        Reason.NOT_FOUND,
        Reason.MARKET_NOT_FOUND,
        Reason.ORDER_NOT_FOUND,
        Reason.ASSET_NOT_FOUND,
        Reason.TRANSFER_NOT_FOUND,
        Reason.POSITION_NOT_FOUND,
        Reason.CFD_NOT_FOUND,
    ),
    grpc.StatusCode.ALREADY_EXISTS: (
        Reason.ALREADY_EXISTS,
        Reason.IDEMPOTENCY_CONFLICT,
        Reason.DUPLICATE_CLIENT_ORDER_ID,
    ),
    grpc.StatusCode.UNAUTHENTICATED: (
        Reason.UNAUTHENTICATED,
        Reason.TOKEN_EXPIRED,
        Reason.TOKEN_INVALID,
        Reason.BAD_CREDENTIALS,
        Reason.SESSION_REVOKED,
        Reason.API_KEY_INVALID,
        Reason.TOTP_REQUIRED,
        Reason.EMAIL_CODE_REQUIRED,
    ),
    grpc.StatusCode.PERMISSION_DENIED: (
        Reason.SCOPE_MISSING,
        Reason.CALLER_NOT_ALLOWED,
        Reason.CSRF_FAILED,
        Reason.EMAIL_NOT_VERIFIED,
        Reason.IP_NOT_ALLOWED,
        Reason.ACCOUNT_LOCKED,
        Reason.HTTPS_REQUIRED,
    ),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (
        Reason.RATE_LIMITED,
        Reason.SLOW_READER,
        Reason.OTP_TOO_MANY_ATTEMPTS,
        Reason.TOO_MANY_OPEN_ORDERS,
        Reason.FAUCET_LIMIT_REACHED,
        Reason.WITHDRAWAL_LIMIT_REACHED,
        Reason.EXPOSURE_LIMIT_REACHED,
    ),
    grpc.StatusCode.UNAVAILABLE: (
        Reason.UNAVAILABLE,
        Reason.OVERLOADED,
        Reason.DRAINING,
        Reason.LOG_UNAVAILABLE,
        Reason.FENCED,
    ),
    grpc.StatusCode.DEADLINE_EXCEEDED: (Reason.DEADLINE_PASSED,),
    grpc.StatusCode.OUT_OF_RANGE: (Reason.SEQUENCE_TOO_OLD, Reason.BALANCE_OVERFLOW),
    grpc.StatusCode.UNIMPLEMENTED: (Reason.NOT_IMPLEMENTED,),
    grpc.StatusCode.INTERNAL: (Reason.INTERNAL, Reason.UNSPECIFIED),
    # Right request, wrong moment: the state of the market, order, account or code says no.
    grpc.StatusCode.FAILED_PRECONDITION: (
        Reason.UNSUPPORTED,
        Reason.WRONG_SHARD,
        Reason.OTP_EXPIRED,
        Reason.MARKET_HALTED,
        Reason.MARKET_CANCEL_ONLY,
        Reason.MARKET_POST_ONLY,
        Reason.PRICE_OUTSIDE_BAND,
        Reason.INSUFFICIENT_BALANCE,
        Reason.POST_ONLY_WOULD_TRADE,
        Reason.FOK_NOT_FILLABLE,
        Reason.NO_LIQUIDITY,
        Reason.SELF_TRADE_PREVENTED,
        Reason.REDUCE_ONLY_WOULD_INCREASE,
        Reason.ORDER_ALREADY_CLOSED,
        Reason.EXPIRED,
        Reason.CANCELLED_BY_USER,
        Reason.CANCELLED_ON_DISCONNECT,
        Reason.IOC_REMAINDER,
        Reason.AMEND_BELOW_FILLED,
        Reason.SLIPPAGE_LIMIT_REACHED,
        Reason.TRANSFER_NOT_CANCELLABLE,
        Reason.PRICE_STALE,
        Reason.WOULD_BE_LIQUIDATED,
        Reason.LIQUIDATION,
        Reason.AUTO_DELEVERAGED,
        Reason.INSUFFICIENT_MARGIN,
        Reason.OCO_CANCELLED,
        Reason.LEVERAGE_LOCKED,
    ),
}
_STATUS = {reason: code for code, reasons in _BY_STATUS.items() for reason in reasons}

RETRYABLE: frozenset[Reason] = frozenset(
    {*_BY_STATUS[grpc.StatusCode.UNAVAILABLE], Reason.RATE_LIMITED, Reason.SLOW_READER}
)

# As grpc-gateway's runtime.HTTPStatusFromCode.
_HTTP: dict[grpc.StatusCode, int] = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DATA_LOSS: 500,
}

# For errors that carry no ErrorInfo: gRPC's own (a dead peer, a passed deadline).
_REASON_FOR_PLAIN: dict[grpc.StatusCode, Reason] = {
    grpc.StatusCode.CANCELLED: Reason.UNAVAILABLE,
    grpc.StatusCode.INVALID_ARGUMENT: Reason.INVALID_ARGUMENT,
    grpc.StatusCode.DEADLINE_EXCEEDED: Reason.DEADLINE_PASSED,
    grpc.StatusCode.NOT_FOUND: Reason.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS: Reason.ALREADY_EXISTS,
    grpc.StatusCode.PERMISSION_DENIED: Reason.CALLER_NOT_ALLOWED,
    grpc.StatusCode.UNAUTHENTICATED: Reason.UNAUTHENTICATED,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Reason.OVERLOADED,
    grpc.StatusCode.OUT_OF_RANGE: Reason.SEQUENCE_TOO_OLD,
    grpc.StatusCode.UNIMPLEMENTED: Reason.NOT_IMPLEMENTED,
    grpc.StatusCode.UNAVAILABLE: Reason.UNAVAILABLE,
}
_CODE_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


def status_for(reason: Reason) -> grpc.StatusCode:
    """The gRPC status a reason is sent with."""
    return _STATUS[reason]


def http_status_for(reason: Reason) -> int:
    """HTTP status of a reason, as grpc-gateway maps its gRPC status."""
    return _HTTP[_STATUS[reason]]


def code_of(number: int) -> grpc.StatusCode:
    """The gRPC status of a `google.rpc.Code`; UNKNOWN for a number that is none."""
    return _CODE_BY_NUMBER.get(number, grpc.StatusCode.UNKNOWN)


def http_status_of(number: int) -> int:
    """HTTP status of a `google.rpc.Code`, as grpc-gateway maps it."""
    return _HTTP[code_of(number)]


def to_rpc_status(
    refused: Refused, *, violations: Iterable[tuple[str, str]] = ()
) -> status_pb2.Status:
    """A refusal as `google.rpc.Status`.

    `violations` are (field path, what is wrong) pairs for requests with several wrong fields.
    """
    metadata = dict(refused.details)
    if refused.field:
        metadata["field"] = refused.field
    details = [
        _pack(
            error_details_pb2.ErrorInfo(
                reason=refused.reason.name, domain=DOMAIN, metadata=metadata
            )
        )
    ]
    wrong = list(violations) or ([(refused.field, refused.message)] if refused.field else [])
    if wrong:
        bad = error_details_pb2.BadRequest()
        for field, description in wrong:
            bad.field_violations.add(field=field, description=description)
        details.append(_pack(bad))
    if refused.reason in RETRYABLE:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(retry_after_ms(refused))
        details.append(_pack(retry))
    code = _STATUS[refused.reason].value[0]
    return status_pb2.Status(
        code=code_pb2.Code.ValueType(code), message=refused.message, details=details
    )


def retry_after_ms(refused: Refused) -> int:
    """Milliseconds after which trying again can help."""
    return int(refused.details.get(RETRY_AFTER_MS, _DEFAULT_RETRY_MS))


def rpc_status_from(error: grpc.RpcError) -> status_pb2.Status:
    """The full `google.rpc.Status` of a failed call, made up from code and text if it has none."""
    code, message, trailing = _parts(error)
    for key, value in trailing:
        if key == STATUS_DETAILS_KEY:
            return status_pb2.Status.FromString(value)
    return status_pb2.Status(code=code_pb2.Code.ValueType(code.value[0]), message=message)


def refused_from(error: grpc.RpcError) -> Refused:
    """What another service's error means to us, ready to be raised again."""
    status = rpc_status_from(error)
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        if detail.Unpack(info) and info.domain == DOMAIN:
            metadata = dict(info.metadata)
            field = metadata.pop("field", "")
            reason = Reason.__members__.get(info.reason, Reason.INTERNAL)
            refused = Refused(reason, status.message, field=field)
            refused.details.update(metadata)
            return refused
    reason = _REASON_FOR_PLAIN.get(code_of(status.code), Reason.INTERNAL)
    # The text of an unknown failure may hold internals of the peer; it is not for our caller.
    return Refused(reason, "" if reason is Reason.INTERNAL else status.message)


def _pack(
    message: error_details_pb2.ErrorInfo
    | error_details_pb2.BadRequest
    | error_details_pb2.RetryInfo,
) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def _parts(error: grpc.RpcError) -> tuple[grpc.StatusCode, str, Iterable[tuple[str, bytes]]]:
    if isinstance(error, grpc.aio.AioRpcError | grpc.Call):
        return error.code(), error.details() or "", tuple(error.trailing_metadata() or ())
    return grpc.StatusCode.UNKNOWN, str(error), ()
