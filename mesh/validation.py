"""Messages held to the rules that their protos state (`buf.validate`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import protovalidate

from kernel.reasons import Reason, Refused


class InvalidRequest(Refused):
    """A request that breaks rules of its message; `violations` are (field path, what is wrong)."""

    def __init__(self, violations: list[tuple[str, str]]) -> None:
        self.violations = violations
        field, message = violations[0]
        text = f"{field}: {message}" if field else message
        super().__init__(Reason.INVALID_ARGUMENT, text, field=field)


class MessageRules:
    """Checks messages of any type."""

    def __init__(self) -> None:
        self._validator = protovalidate.Validator()

    def check(self, message: Any) -> None:
        """Raises `InvalidRequest` when the message breaks the rules its proto states."""
        violations = self._validator.collect_violations(message)
        if violations:
            raise InvalidRequest([(_path(v.proto.field), v.proto.message) for v in violations])

    def warm(self, messages: Iterable[Any]) -> None:
        """Compile the rules of these messages now (16 ms each), not in somebody's first call."""
        for message in messages:
            self._validator.collect_violations(message)


def _path(field: Any) -> str:
    """`orders[3].price` from a violation's field path."""
    if field is None:
        return ""
    parts = []
    for element in field.elements:
        subscript = element.subscript
        parts.append(element.field_name + ("" if subscript is None else f"[{subscript.value}]"))
    return ".".join(parts)
