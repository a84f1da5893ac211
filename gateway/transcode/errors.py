"""Errors as grpc-gateway writes them: `{"code": 3, "message": "...", "details": [...]}`."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import orjson
from google.protobuf import any_pb2
from google.protobuf.json_format import MessageToDict
from google.rpc import code_pb2, error_details_pb2, status_pb2

from mesh.status import http_status_of

INVALID_ARGUMENT = code_pb2.INVALID_ARGUMENT
NOT_FOUND = code_pb2.NOT_FOUND
UNIMPLEMENTED = code_pb2.UNIMPLEMENTED


class TranscodeError(Exception):
    """A request that cannot become a call.

    `code` is a `google.rpc.Code`, `field` the path of the field at fault, `reason` what goes into
    `ErrorInfo`, `http_status` another status than the code's own.
    """

    def __init__(
        self,
        code: int,
        message: str,
        *,
        field: str = "",
        reason: str = "INVALID_ARGUMENT",
        http_status: int | None = None,
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.reason = reason
        self.http_status = http_status or http_status_of(code)
        self.headers = tuple(headers)

    @classmethod
    def invalid(cls, message: str, *, field: str = "") -> TranscodeError:
        """400: path, query or body is wrong."""
        return cls(INVALID_ARGUMENT, f"{field}: {message}" if field else message, field=field)

    def to_status(self, domain: str) -> status_pb2.Status:
        """As `google.rpc.Status` with ErrorInfo, and BadRequest when a field is at fault."""
        info = error_details_pb2.ErrorInfo(reason=self.reason, domain=domain)
        status = status_pb2.Status(code=self.code, message=self.message)
        if self.field:
            info.metadata["field"] = self.field
        status.details.add().Pack(info)
        if self.field:
            bad = error_details_pb2.BadRequest()
            bad.field_violations.add(field=self.field, description=self.message)
            status.details.add().Pack(bad)
        return status


def status_to_dict(status: status_pb2.Status) -> dict[str, Any]:
    """A status as JSON data; each detail carries its `@type`."""
    return {
        "code": status.code,
        "message": status.message,
        "details": [_detail(detail) for detail in status.details],
    }


def error_body(status: status_pb2.Status) -> bytes:
    """The body of an error response."""
    return orjson.dumps(status_to_dict(status))


def _detail(detail: any_pb2.Any) -> dict[str, Any]:
    try:
        return MessageToDict(detail)
    except TypeError:
        # A type that is not linked in here: better opaque than lost.
        return {"@type": detail.type_url, "value": base64.b64encode(detail.value).decode()}
