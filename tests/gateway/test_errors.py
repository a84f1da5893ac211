"""Failures on their way out: all that is wrong is said, and only what is our fault is logged."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import grpc
import pytest
from structlog.testing import capture_logs

from gateway.errors import error_response, is_fault
from gateway.transcode import TranscodeError
from kernel.reasons import Reason, Refused
from mesh.validation import InvalidRequest
from tests.gateway.conftest import World


def test_every_wrong_field_is_named() -> None:
    response = error_response(InvalidRequest([("to", "too long"), ("limit", "too many")]))
    assert response.status == 400
    assert isinstance(response.body, bytes)
    info, bad = json.loads(response.body)["details"]
    assert info["metadata"] == {"field": "to"}
    assert [v["field"] for v in bad["fieldViolations"]] == ["to", "limit"]


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (ValueError("a bug"), True),
        (Refused(Reason.INTERNAL), True),
        (Refused(Reason.UNAVAILABLE), False),
        (Refused(Reason.UNSUPPORTED), False),
        (Refused(Reason.NOT_IMPLEMENTED), False),
        (TimeoutError(), False),
        (ConnectionResetError(), False),
        (TranscodeError.invalid("no"), False),
        (grpc.RpcError(), False),
    ],
    ids=repr,
)
def test_only_our_own_mistakes_are_faults(error: Exception, fault: bool) -> None:
    assert is_fault(error) is fault


async def test_what_is_not_offered_or_not_there_leaves_no_trace_in_the_log(
    world: World, http: aiohttp.ClientSession
) -> None:
    await world.stop_service("engine")
    with capture_logs() as logs:
        for path, status in (("/v1/reconciliation", 501), ("/v1/markets", 503)):
            async with http.get(path) as answer:
                assert answer.status == status
        await asyncio.sleep(0)
    assert [line for line in logs if "exc_info" in line] == []
