"""Many WebSocket clients in one light process: `python -m bench.support.ws_load HOST PORT CLIENTS`.

Each client subscribes to the external price of one market and measures, for every frame, how long
ago the feed's server had sent the tick that it tells of. Speaks with its parent by lines: "ready"
out, "go" in, "stop" in, one JSON object out. Nothing but what a client must do is done here, so
that the measured time is the server's.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import importlib
import json
import os
import resource
import sys
import time
from typing import cast

_SUBSCRIBE = json.dumps(
    {"id": "1", "subscribe": {"channel": "CHANNEL_PRICES", "markets": ["BTC_USDC"]}}
).encode()
_TIME_KEY = b'"sourceTime":"'
_CONNECT_AT_ONCE = 50


class Load:
    """What all clients have seen."""

    def __init__(self) -> None:
        # Frames are the same bytes for everybody: each is read once.
        self.sent_ns: dict[bytes, int] = {}
        self.delays_ns: list[int] = []
        self.frames = 0
        self.measuring = False
        self.lost = 0

    def take(self, frame: bytes, now_ns: int) -> None:
        """A data frame that arrived."""
        sent_ns = self.sent_ns.get(frame)
        if sent_ns is None:
            at = frame.find(_TIME_KEY)
            if at < 0:
                return
            text = frame[at + len(_TIME_KEY) : frame.index(b'"', at + len(_TIME_KEY))].decode()
            sent_ns = self.sent_ns[frame] = _nanoseconds(text)
        self.frames += 1
        if self.measuring:
            self.delays_ns.append(now_ns - sent_ns)


class Client(asyncio.Protocol):
    """One WebSocket, by hand (RFC 6455)."""

    def __init__(self, load: Load, host: str) -> None:
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._load = load
        self._host = host
        self._buffer = b""
        self._upgraded = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are no subclass of it.
        self._transport = writable = cast(asyncio.Transport, transport)
        key = base64.b64encode(os.urandom(16)).decode()
        writable.write(
            f"GET /ws HTTP/1.1\r\nHost: {self._host}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        now_ns = time.time_ns()
        buffer = self._buffer + data if self._buffer else data
        if not self._upgraded:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                self._buffer = buffer
                return
            if not buffer.startswith(b"HTTP/1.1 101"):
                self.ready.set_exception(ConnectionError(buffer[:200].decode()))
                return
            self._upgraded = True
            assert self._transport is not None
            self._transport.write(_masked(1, _SUBSCRIBE))
            buffer = buffer[end + 4 :]
        at, size = 0, len(buffer)
        while size - at >= 2:
            length, head = buffer[at + 1], 2
            if length == 126:
                if size - at < 4:
                    break
                length, head = int.from_bytes(buffer[at + 2 : at + 4], "big"), 4
            elif length == 127:
                if size - at < 10:
                    break
                length, head = int.from_bytes(buffer[at + 2 : at + 10], "big"), 10
            if size - at < head + length:
                break
            self._frame(buffer[at] & 15, buffer[at + head : at + head + length], now_ns)
            at += head + length
        self._buffer = buffer[at:]

    def connection_lost(self, error: Exception | None) -> None:
        self._load.lost += 1
        if not self.ready.done():
            self.ready.set_exception(error or ConnectionError("closed"))

    def _frame(self, kind: int, payload: bytes, now_ns: int) -> None:
        if kind == 1:
            if not self.ready.done() and b'"done"' in payload:
                self.ready.set_result(None)
            else:
                self._load.take(payload, now_ns)
        elif kind == 9 and self._transport is not None:
            self._transport.write(_masked(10, payload))


def _masked(kind: int, payload: bytes) -> bytes:
    # A mask of zeros changes nothing and is allowed.
    size = len(payload)
    assert size < 1 << 16
    head = bytes([0x80 | kind, 0x80 | size]) if size < 126 else bytes([0x80 | kind, 0xFE])
    if size >= 126:
        head += size.to_bytes(2, "big")
    return head + bytes(4) + payload


def _nanoseconds(text: str) -> int:
    """RFC 3339 in UTC -> Unix nanoseconds, without a float."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    moment = dt.datetime.fromisoformat(whole).replace(tzinfo=dt.UTC)
    return int(moment.timestamp()) * 10**9 + int(fraction.ljust(9, "0") or "0")


async def run(host: str, port: int, clients: int) -> None:
    """Connect them all, then measure between "go" and "stop"."""
    loop = asyncio.get_running_loop()
    load = Load()
    for start in range(0, clients, _CONNECT_AT_ONCE):
        some = []
        for _ in range(start, min(clients, start + _CONNECT_AT_ONCE)):
            _, client = await loop.create_connection(
                lambda: Client(load, f"{host}:{port}"), host, port
            )
            some.append(client.ready)
        await asyncio.gather(*some)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    load.measuring, frames = True, load.frames
    started, cpu = time.monotonic(), time.process_time()
    await asyncio.to_thread(sys.stdin.readline)
    load.measuring = False
    seconds = time.monotonic() - started
    delays = sorted(load.delays_ns) or [0]
    result = {
        "frames": load.frames - frames,
        "seconds": round(seconds, 2),
        "lost": load.lost,
        "p50_ms": round(delays[len(delays) // 2] / 1e6, 1),
        "p99_ms": round(delays[len(delays) * 99 // 100] / 1e6, 1),
        "max_ms": round(delays[-1] / 1e6, 1),
        "client_cpu_us_per_frame": round(
            (time.process_time() - cpu) * 1e6 / max(1, load.frames - frames), 1
        ),
    }
    print(json.dumps(result), flush=True)


def main() -> None:
    host, port, clients = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    factory = None
    with contextlib.suppress(ImportError):
        factory = importlib.import_module("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run(host, port, clients))


if __name__ == "__main__":
    main()
