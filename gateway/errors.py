"""Errors on their way out: any failure -> `google.rpc.Status` -> response."""

from __future__ import annotations

import math

import grpc
from aiohttp import web
from google.rpc import error_details_pb2, status_pb2

from gateway.transcode import TranscodeError, error_body
from kernel.reasons import Reason, Refused
from mesh.interceptors import to_refused
from mesh.status import DOMAIN, http_status_of, refused_from, rpc_status_from, to_rpc_status
from mesh.validation import InvalidRequest

# What gRPC itself says about a dead peer names addresses; these are for our callers.
_PLAIN_MESSAGES = {
    Reason.UNAVAILABLE: "the service cannot be reached now; try again",
    Reason.DEADLINE_PASSED: "it took too long; it may still have happened",
    Reason.NOT_IMPLEMENTED: "not offered here (yet)",
    Reason.INTERNAL: "an internal error; it was logged",
}
JSON = "application/json"


def status_of(error: Exception) -> status_pb2.Status:
    """What goes to the caller for a failure; nothing internal in it."""
    if isinstance(error, TranscodeError):
        return error.to_status(DOMAIN)
    if isinstance(error, InvalidRequest):
        return to_rpc_status(error, violations=error.violations)
    if isinstance(error, grpc.RpcError):
        status = rpc_status_from(error)
        if status.details:
            return status
        refused = refused_from(error)
        message = _PLAIN_MESSAGES.get(refused.reason, refused.message)
        return to_rpc_status(Refused(refused.reason, message))
    return to_rpc_status(to_refused(error))


def is_fault(error: Exception) -> bool:
    """Whether a failure is a mistake of ours, to be logged with its trace. What a service behind
    has failed at is in that service's log.
    """
    if isinstance(error, TranscodeError | grpc.RpcError):
        return False
    return to_refused(error).reason is Reason.INTERNAL


def reason_of(status: status_pb2.Status) -> str:
    """Name of the reason in a status, empty when it has none."""
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        if detail.Unpack(info):
            return str(info.reason)
    return ""


def retry_after_seconds(status: status_pb2.Status) -> int | None:
    """Whole seconds for `Retry-After`, None when trying again does not help."""
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(retry):
            return max(1, math.ceil(int(retry.retry_delay.ToMilliseconds()) / 1000))
    return None


def error_response(error: Exception) -> web.Response:
    """The response for a failure, with the headers that belong to its status."""
    status = status_of(error)
    if isinstance(error, TranscodeError):
        code, headers = error.http_status, dict(error.headers)
    else:
        code, headers = http_status_of(status.code), {}
    retry = retry_after_seconds(status)
    if retry is not None:
        headers["Retry-After"] = str(retry)
    if code == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return web.Response(status=code, body=error_body(status), content_type=JSON, headers=headers)
