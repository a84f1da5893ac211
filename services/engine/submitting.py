"""One command of a stream, queued as a submission of its own: with its own trace and answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tidebook.engine.v1 import order_pb2

from mesh.telemetry import TraceContext
from services.engine import codec
from services.engine.domain import commands as c
from services.engine.service import Engine
from services.engine.writer import Outcome

Write = Callable[[order_pb2.TradeResult, int, c.Command | None, Outcome], None]


def submit_command(
    engine: Engine,
    request: order_pb2.TradeCommand,
    result: order_pb2.TradeResult,
    account_id: int,
    trace: TraceContext,
    *,
    stream_id: int = 0,
    write: Write | None = None,
) -> asyncio.Future[Any]:
    """Queue it; `result` is written, by `write` if not in full, when the future is done."""
    request_id = request.request_id
    put = write or engine.encoder.write_result

    def answer(_: int, command: c.Command | None, outcome: Outcome) -> None:
        put(result, request_id, command, outcome)

    items = codec.trade_items((request,), engine.texts, account_id, stream_id)
    name = f"engine.{request.WhichOneof('command') or 'nothing'}"
    return engine.submit(name, items, answer, trace=trace)
