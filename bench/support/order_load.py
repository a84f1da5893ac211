"""Clients that send orders as fast as they are answered, in one light process.

`python -m bench.support.order_load` reads a `Plan` as one line of JSON and writes a `Result` as
another. Over HTTP each connection is kept alive and has one request under way; over a WebSocket one
connection has a window of commands under way. Nothing but what a client must do is done here.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import cast

from bench.support.loops import run_on_fast_loop
from bench.support.report import milliseconds
from bench.support.ws_client import WebSocketClient

_PATIENCE_SECONDS = 30.0


@dataclass
class Plan:
    """What to send. `bodies` has a body for each connection; `%d` in one is the request's number.

    With `window` it is one WebSocket: `headers` has the access token, and each body is the inside
    of a frame.
    """

    port: int
    headers: list[str]
    bodies: list[str]
    request: str = "POST /v1/orders"
    warm_seconds: float = 1.0
    seconds: float = 5.0
    window: int = 0


@dataclass
class Result:
    """What was answered: `answers` in `seconds` of measuring, `total` with the warm-up."""

    answers: int = 0
    seconds: float = 0.0
    total: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    client_cpu_us: float = 0.0
    # Status, or what a WebSocket said, to how many there were; and the first that was no order.
    outcomes: dict[str, int] = field(default_factory=dict)
    first_failure: str = ""


class Meter:
    """Counts answers and times them."""

    def __init__(self) -> None:
        self.sending = True
        self.measuring = False
        self.took: list[float] = []
        self.outcomes: Counter[str] = Counter()
        self.first_failure = ""
        self.open = 0
        self.idle = asyncio.Event()

    def sent(self) -> None:
        """A request is under way."""
        self.open += 1

    def answered(self, seconds: float, outcome: str, good: bool, answer: bytes) -> None:
        """It was answered."""
        self.open -= 1
        self.outcomes[outcome] += 1
        if self.measuring:
            self.took.append(seconds)
        if not good and not self.first_failure:
            self.first_failure = answer[-400:].decode(errors="replace")
        if not self.open and not self.sending:
            self.idle.set()


class HttpClient(asyncio.Protocol):
    """One connection that is kept alive, with one request at a time."""

    def __init__(self, meter: Meter, plan: Plan, number: int) -> None:
        self._meter = meter
        self._head = (
            f"{plan.request} HTTP/1.1\r\nHost: 127.0.0.1:{plan.port}\r\n{plan.headers[number]}"
        ).encode()
        self._body = plan.bodies[number].encode()
        self._count = 0
        self._buffer = b""
        self._missing = 0
        self._began = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if self._meter.sending:
            raise SystemExit(f"the server has closed a connection: {error}")

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        if not self._missing:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                self._buffer = buffer
                return
            head = buffer[:end].lower()
            at = head.index(b"content-length:") + 15
            stop = head.find(b"\r", at)
            self._missing = end + 4 + int(head[at:] if stop < 0 else head[at:stop])
        if len(buffer) < self._missing:
            self._buffer = buffer
            return
        self._buffer, self._missing = b"", 0
        status = buffer[9:12].decode()
        took = time.perf_counter() - self._began
        self._meter.answered(took, status, status == "200", buffer)
        if self._meter.sending:
            self._send()

    def _send(self) -> None:
        assert self._transport is not None
        self._count += 1
        body = self._body % self._count if b"%d" in self._body else self._body
        self._meter.sent()
        self._began = time.perf_counter()
        if body:
            head = self._head + b"Content-Type: application/json\r\nContent-Length: "
            self._transport.write(b"%b%d\r\n\r\n%b" % (head, len(body), body))
        else:
            self._transport.write(self._head + b"\r\n")


class OrderSocket(WebSocketClient):
    """One WebSocket with a window of commands; answers come in the order of the commands."""

    def __init__(self, meter: Meter, plan: Plan) -> None:
        super().__init__(f"127.0.0.1:{plan.port}")
        self._meter = meter
        self._plan = plan
        self._bodies = [body.encode() for body in plan.bodies]
        self._count = 0
        self._began: deque[float] = deque()
        self._known = False

    def opened(self) -> None:
        self.send(json.dumps({"id": 0, "auth": {"accessToken": self._plan.headers[0]}}).encode())

    def text(self, payload: bytes) -> None:
        if not self._known:
            if b'"done"' not in payload:
                raise SystemExit(f"the server has said {payload.decode()}")
            self._known = True
            self.send(*(self._next() for _ in range(self._plan.window)))
            return
        good = b'"placed"' in payload[:60]
        outcome = "placed" if good else "refused"
        took = time.perf_counter() - self._began.popleft()
        self._meter.answered(took, outcome, good, payload)
        if self._meter.sending:
            self.send(self._next())

    def lost(self, error: Exception) -> None:
        if self._meter.sending:
            raise SystemExit(f"the server has closed the connection: {error}")

    def _next(self) -> bytes:
        self._count += 1
        body = self._bodies[self._count % len(self._bodies)]
        self._meter.sent()
        self._began.append(time.perf_counter())
        return b'{"id":%d,"place":%b}' % (self._count, body % self._count)


async def run(plan: Plan) -> None:
    """Warm up, measure, and wait for what is under way."""
    loop = asyncio.get_running_loop()
    meter = Meter()
    cpu = time.process_time()
    if plan.window:
        await loop.create_connection(lambda: OrderSocket(meter, plan), "127.0.0.1", plan.port)
    for number in range(0 if plan.window else len(plan.headers)):
        await loop.create_connection(
            lambda number=number: HttpClient(meter, plan, number),  # type: ignore[misc]
            "127.0.0.1",
            plan.port,
        )
    await asyncio.sleep(plan.warm_seconds)
    meter.measuring, began = True, time.perf_counter()
    await asyncio.sleep(plan.seconds)
    meter.measuring, seconds = False, time.perf_counter() - began
    meter.sending = False
    if meter.open:
        await asyncio.wait_for(meter.idle.wait(), _PATIENCE_SECONDS)
    total = meter.outcomes.total()
    result = Result(
        answers=len(meter.took),
        seconds=seconds,
        total=total,
        p50_ms=milliseconds(meter.took, 50),
        p99_ms=milliseconds(meter.took, 99),
        client_cpu_us=round((time.process_time() - cpu) / max(1, total) * 1e6, 1),
        outcomes=dict(meter.outcomes),
        first_failure=meter.first_failure,
    )
    print(json.dumps(dataclasses.asdict(result)), flush=True)


def main() -> None:
    """Read the plan and run it."""
    run_on_fast_loop(run(Plan(**json.loads(sys.stdin.readline()))))


if __name__ == "__main__":
    main()
