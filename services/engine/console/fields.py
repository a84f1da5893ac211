"""The fields of one line of a script: taken one by one, and none may be left over."""

from __future__ import annotations

import re
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from kernel.money import INT64_MAX
from kernel.reasons import Reason, Refused

M = TypeVar("M", bound=Message)
_DEPTH_MAX = 16


def camel(name: str) -> str:
    """`client_order_id` -> `clientOrderId`, as proto3 JSON has it."""
    return re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), name)


class Fields:
    """Reads a JSON object; both spellings of a name are understood, as in proto3 JSON."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._data: dict[str, Any] = {}
        for key, value in data.items():
            name = camel(key)
            if name in self._data:
                raise _invalid(key, "is given twice")
            self._data[name] = value

    def given(self, name: str) -> bool:
        """Whether a field is there, and not null."""
        return self._data.get(name) is not None

    def text(self, name: str) -> str:
        """A string that must be there and not be empty."""
        value = self._data.pop(name, None)
        if not isinstance(value, str) or not value:
            raise _invalid(name, "must be a string that is not empty")
        return value

    def optional_text(self, name: str) -> str:
        """A string, empty when it is not there."""
        return self.text(name) if self.given(name) else ""

    def number(self, name: str) -> int:
        """A positive int64, as a number or, as proto3 JSON has it, in a string."""
        value = self._data.pop(name, None)
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,19}", value, re.ASCII):
            value = int(value)
        if type(value) is not int or not 0 < value <= INT64_MAX:
            raise _invalid(name, "must be a whole number above zero")
        return value

    def objects(self, name: str) -> list[dict[str, Any]]:
        """A list of JSON objects, empty when it is not there."""
        values = self._data.pop(name, None)
        if values is None:
            return []
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise _invalid(name, "must be a list of objects")
        return values

    def object(self, name: str) -> dict[str, Any]:
        """A JSON object that must be there."""
        value = self._data.pop(name, None)
        if not isinstance(value, dict):
            raise _invalid(name, "must be an object")
        return value

    def duration_ns(self, name: str) -> int:
        """A proto3 JSON duration such as "1.5s" -> nanoseconds."""
        duration = Duration()
        try:
            duration.FromJsonString(self.text(name))
        except ValueError as error:
            raise _invalid(name, 'must be a duration such as "1.5s"') from error
        return duration.ToNanoseconds()

    def time_ns(self, name: str) -> int:
        """A proto3 JSON time such as "2026-01-01T00:00:00Z" -> Unix nanoseconds."""
        timestamp = Timestamp()
        try:
            timestamp.FromJsonString(self.text(name))
        except ValueError as error:
            raise _invalid(name, 'must be a time such as "2026-01-01T00:00:00Z"') from error
        return timestamp.ToNanoseconds()

    def names(self) -> set[str]:
        """What is there and has not been taken yet."""
        return {name for name in self._data if self.given(name)}

    def message(self, message: M) -> M:
        """All that is left, as the public message it is."""
        try:
            json_format.ParseDict(self._data, message, max_recursion_depth=_DEPTH_MAX)
        except (json_format.ParseError, ValueError, TypeError, AttributeError) as error:
            raise Refused(Reason.INVALID_ARGUMENT, str(error)) from error
        self._data = {}
        return message

    def end(self) -> None:
        """Raise `Refused` for a field that nobody has taken."""
        for name in self._data:
            raise _invalid(name, "is not a field of this command")


def _invalid(name: str, message: str) -> Refused:
    return Refused(Reason.INVALID_ARGUMENT, message, field=name)
