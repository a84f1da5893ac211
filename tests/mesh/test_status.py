"""Reasons and statuses."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from tidebook.common.v1 import reason_pb2

from kernel.reasons import Reason, Refused
from mesh.status import (
    STATUS_DETAILS_KEY,
    http_status_for,
    refused_from,
    status_for,
    to_rpc_status,
)


def failed(
    code: grpc.StatusCode, message: str = "", status: status_pb2.Status | None = None
) -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata()
    if status is not None:
        trailing.add(STATUS_DETAILS_KEY, status.SerializeToString())
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details=message)


def test_the_contract_lists_exactly_the_kernels_reasons() -> None:
    contract = {
        value.name.removeprefix("REASON_"): value.number
        for value in reason_pb2.Reason.DESCRIPTOR.values
    }
    assert contract == {reason.name: reason.value for reason in Reason}


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_survives_the_wire(reason: Reason) -> None:
    sent = Refused(reason, "why", field="f", limit=5)
    received = refused_from(failed(status_for(reason), "why", to_rpc_status(sent)))
    assert (received.reason, received.message) == (reason, "why")
    assert (received.field, received.details) == ("f", {"limit": "5"})


@pytest.mark.parametrize(
    ("reason", "grpc_status", "http_status"),
    [
        (Reason.INVALID_ARGUMENT, grpc.StatusCode.INVALID_ARGUMENT, 400),
        (Reason.TOKEN_EXPIRED, grpc.StatusCode.UNAUTHENTICATED, 401),
        (Reason.SCOPE_MISSING, grpc.StatusCode.PERMISSION_DENIED, 403),
        (Reason.MARKET_NOT_FOUND, grpc.StatusCode.NOT_FOUND, 404),
        (Reason.IDEMPOTENCY_CONFLICT, grpc.StatusCode.ALREADY_EXISTS, 409),
        (Reason.RATE_LIMITED, grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
        (Reason.INSUFFICIENT_BALANCE, grpc.StatusCode.FAILED_PRECONDITION, 400),
        (Reason.LOG_UNAVAILABLE, grpc.StatusCode.UNAVAILABLE, 503),
        (Reason.INTERNAL, grpc.StatusCode.INTERNAL, 500),
    ],
)
def test_a_reason_has_one_status(
    reason: Reason, grpc_status: grpc.StatusCode, http_status: int
) -> None:
    assert status_for(reason) is grpc_status
    assert http_status_for(reason) == http_status


def test_a_retryable_refusal_says_when_to_try_again() -> None:
    status = to_rpc_status(Refused(Reason.RATE_LIMITED, retry_after_ms=2500))
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in status.details)
    assert retry.retry_delay.ToMilliseconds() == 2500


def test_a_final_refusal_does_not_ask_for_another_try() -> None:
    status = to_rpc_status(Refused(Reason.INSUFFICIENT_BALANCE))
    assert not any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)


def test_an_error_of_grpc_itself_gets_a_reason() -> None:
    refused = refused_from(failed(grpc.StatusCode.UNAVAILABLE, "connection refused"))
    assert refused.reason is Reason.UNAVAILABLE


def test_the_text_of_an_unknown_failure_is_not_passed_on() -> None:
    refused = refused_from(failed(grpc.StatusCode.UNKNOWN, "KeyError: 'secret'"))
    assert refused.reason is Reason.INTERNAL
    assert "secret" not in str(refused)


def test_a_reason_this_version_does_not_know_is_internal() -> None:
    status = status_pb2.Status(code=code_pb2.ABORTED, message="new")
    info = error_details_pb2.ErrorInfo(reason="FROM_THE_FUTURE", domain="tidebook")
    status.details.add().Pack(info)
    assert refused_from(failed(grpc.StatusCode.ABORTED, "", status)).reason is Reason.INTERNAL
