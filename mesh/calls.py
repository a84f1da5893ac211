"""The call being served, as far as calls made on its behalf need to know it."""

from __future__ import annotations

import time
from contextvars import ContextVar, Token
from dataclasses import dataclass

AUTHORIZATION = "authorization"
REQUEST_ID = "x-request-id"


@dataclass(frozen=True, slots=True)
class CallContext:
    """What goes on with every outgoing call: deadline, request id and the user's token.

    `deadline` is a `time.monotonic()` value in seconds, None for no deadline; `authorization` the
    header as it came, empty without one.
    """

    method: str = ""
    request_id: str = ""
    authorization: str = ""
    deadline: float | None = None

    def remaining_seconds(self) -> float | None:
        """Time left until the deadline (negative when passed), None without one."""
        return None if self.deadline is None else self.deadline - time.monotonic()


_OUTSIDE = CallContext()
_current: ContextVar[CallContext] = ContextVar("tidebook_call", default=_OUTSIDE)


def current_call() -> CallContext:
    """The call being served; an empty one outside."""
    return _current.get()


def set_call(call: CallContext) -> Token[CallContext]:
    """Make `call` the current one (interceptors; the gateway for each HTTP request)."""
    return _current.set(call)


def reset_call(token: Token[CallContext]) -> None:
    """Undo `set_call`."""
    _current.reset(token)
