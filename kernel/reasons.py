"""The one list of reasons for which Tidebook refuses something.

The numbers are those of the `tidebook.common.v1.Reason` enum (a test holds the two together);
`mesh.status` maps each reason to a gRPC and an HTTP status once.
"""

from __future__ import annotations

from enum import IntEnum


class Reason(IntEnum):
    """Why a request was refused. Names are stable: clients match on them."""

    UNSPECIFIED = 0

    # Requests as such.
    INVALID_ARGUMENT = 1
    NOT_FOUND = 2
    ALREADY_EXISTS = 3
    UNSUPPORTED = 4
    INTERNAL = 5
    UNAVAILABLE = 6
    OVERLOADED = 7
    DRAINING = 8
    DEADLINE_PASSED = 9
    RATE_LIMITED = 10
    SLOW_READER = 11
    SEQUENCE_TOO_OLD = 12
    LOG_UNAVAILABLE = 13
    FENCED = 14
    IDEMPOTENCY_CONFLICT = 15
    WRONG_SHARD = 16
    NOT_IMPLEMENTED = 17

    # Who is asking.
    UNAUTHENTICATED = 20
    TOKEN_EXPIRED = 21
    TOKEN_INVALID = 22
    SCOPE_MISSING = 23
    CALLER_NOT_ALLOWED = 24
    CSRF_FAILED = 25
    BAD_CREDENTIALS = 26
    EMAIL_NOT_VERIFIED = 27
    OTP_INVALID = 28
    OTP_EXPIRED = 29
    OTP_TOO_MANY_ATTEMPTS = 30
    PASSWORD_TOO_WEAK = 31
    SESSION_REVOKED = 32
    API_KEY_INVALID = 33
    IP_NOT_ALLOWED = 34
    ACCOUNT_LOCKED = 35
    TOTP_REQUIRED = 36
    EMAIL_INVALID = 37
    HTTPS_REQUIRED = 38
    EMAIL_CODE_REQUIRED = 39

    # Orders.
    MARKET_NOT_FOUND = 50
    MARKET_HALTED = 51
    MARKET_CANCEL_ONLY = 52
    MARKET_POST_ONLY = 53
    PRICE_NOT_ON_TICK = 54
    PRICE_OUT_OF_RANGE = 55
    PRICE_OUTSIDE_BAND = 56
    PRICE_REQUIRED = 57
    PRICE_NOT_ALLOWED = 58
    QUANTITY_NOT_ON_LOT = 59
    QUANTITY_TOO_SMALL = 60
    QUANTITY_TOO_LARGE = 61
    QUANTITY_REQUIRED = 62
    NOTIONAL_TOO_SMALL = 63
    NOTIONAL_TOO_LARGE = 64
    INSUFFICIENT_BALANCE = 65
    POST_ONLY_WOULD_TRADE = 66
    FOK_NOT_FILLABLE = 67
    NO_LIQUIDITY = 68
    SELF_TRADE_PREVENTED = 69
    REDUCE_ONLY_WOULD_INCREASE = 70
    DUPLICATE_CLIENT_ORDER_ID = 71
    ORDER_NOT_FOUND = 72
    ORDER_ALREADY_CLOSED = 73
    TOO_MANY_OPEN_ORDERS = 74
    ORDER_TYPE_NOT_SUPPORTED = 75
    TIME_IN_FORCE_NOT_SUPPORTED = 76
    TRIGGER_PRICE_REQUIRED = 77
    EXPIRED = 78
    CANCELLED_BY_USER = 79
    CANCELLED_ON_DISCONNECT = 80
    IOC_REMAINDER = 81
    AMEND_CHANGES_NOTHING = 82
    AMEND_BELOW_FILLED = 83
    SLIPPAGE_LIMIT_REACHED = 84
    INSUFFICIENT_MARGIN = 85
    OCO_CANCELLED = 86

    # Money in and out.
    ASSET_NOT_FOUND = 100
    AMOUNT_INVALID = 101
    AMOUNT_TOO_PRECISE = 102
    FAUCET_LIMIT_REACHED = 103
    TRANSFER_NOT_FOUND = 104
    TRANSFER_NOT_CANCELLABLE = 105
    WITHDRAWAL_LIMIT_REACHED = 106
    BALANCE_OVERFLOW = 107

    # Positions and CFDs.
    PRICE_STALE = 120
    LEVERAGE_OUT_OF_RANGE = 121
    POSITION_NOT_FOUND = 122
    CFD_NOT_FOUND = 123
    WOULD_BE_LIQUIDATED = 124
    EXPOSURE_LIMIT_REACHED = 125
    TRIGGER_ON_WRONG_SIDE = 126
    LIQUIDATION = 127
    AUTO_DELEVERAGED = 128
    LEVERAGE_LOCKED = 129


class Refused(Exception):
    """A request that Tidebook understood and will not do; nothing was changed.

    `field` names the request field at fault, if one is. `details` carries what the caller needs to
    correct it, as strings (`{"tick_size": "0.01"}`). Never put a secret in either.
    """

    def __init__(
        self, reason: Reason, message: str = "", *, field: str = "", **details: object
    ) -> None:
        self.reason = reason
        self.message = message or reason.name.replace("_", " ").lower()
        self.field = field
        self.details = {name: str(value) for name, value in details.items()}
        super().__init__(f"{reason.name}: {self.message}")
