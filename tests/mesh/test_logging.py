"""Log lines: what each says, and what no client can make of them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs
from tidebook.engine.v1 import order_pb2, order_pb2_grpc

from tests.mesh.conftest import Mesh

SCRIPT = """
import structlog
from mesh.config import load_settings
from mesh.logging import setup_logging
from mesh.telemetry import new_trace, set_trace
setup_logging("auth", load_settings(log_format={form!r}))
set_trace(new_trace())
log = structlog.get_logger()
log.info({event!r}, **{values!r})
"""


def lines(form: str, event: str, **values: Any) -> list[str]:
    """What a process of its own writes for one event."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(form=form, event=event, values=values)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_a_line_says_when_where_and_what() -> None:
    [line] = lines("json", "session_opened", user_id="u-1")
    event = json.loads(line)
    assert event["event"] == "session_opened"
    assert event["service"] == "auth"
    assert event["user_id"] == "u-1"
    assert event["level"] == "info"
    assert len(event["trace_id"]) == 32
    assert event["timestamp"].endswith("Z")


@pytest.mark.parametrize("form", ["json", "console"])
def test_what_a_client_sends_cannot_make_a_line_of_its_own(form: str) -> None:
    sent = "curl\n2026-01-01 [info] signed_in user_id=root\r\x1b[2J"
    [line] = lines(form, "call_refused", message=sent)
    assert "\x1b[2J" not in line
    assert "\r" not in line


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_secret_that_was_logged_by_mistake_is_hidden(form: str) -> None:
    secrets = {"password": "hunter-22", "refresh_token": "hunter-22", "authorization": "hunter-22"}
    [line] = lines(form, "oops", **secrets)
    assert "hunter-22" not in line
    assert line.count("[hidden]") == len(secrets)


async def test_a_refused_call_is_a_line(mesh: Mesh) -> None:
    stub = order_pb2_grpc.OrderServiceStub(await mesh.public())
    request = order_pb2.GetAccountRequest()
    with capture_logs() as logs:
        for metadata in (
            (),
            mesh.bearer(scopes="trade"),
            (("authorization", "Bearer made.up.it"),),
        ):
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.GetAccount(request, metadata=metadata)
    refused = [line for line in logs if line["event"] == "call_refused"]
    reasons = ["UNAUTHENTICATED", "SCOPE_MISSING", "TOKEN_INVALID"]
    assert [line["reason"] for line in refused] == reasons
    assert {line["method"] for line in refused} == {"/tidebook.engine.v1.OrderService/GetAccount"}
    assert "made.up.it" not in str(logs)
