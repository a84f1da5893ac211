"""Many WebSocket clients in one light process: `python -m bench.support.ws_load HOST PORT CLIENTS`.

Each client subscribes to the external price of one market and measures, for every frame, how long
ago the feed's server had sent the tick that it tells of. Speaks with its parent by lines: "ready"
out, "go" in, "stop" in, one JSON object out. Nothing but what a client must do is done here, so
that the measured time is the server's.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import resource
import sys
import time

from bench.support.loops import run_on_fast_loop
from bench.support.ws_client import WebSocketClient

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


class Client(WebSocketClient):
    """A subscriber."""

    def __init__(self, load: Load, host: str) -> None:
        super().__init__(host)
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._load = load
        self._now_ns = 0

    def data_received(self, data: bytes) -> None:
        self._now_ns = time.time_ns()
        super().data_received(data)

    def opened(self) -> None:
        self.send(_SUBSCRIBE)

    def text(self, payload: bytes) -> None:
        if not self.ready.done() and b'"done"' in payload:
            self.ready.set_result(None)
        else:
            self._load.take(payload, self._now_ns)

    def lost(self, error: Exception) -> None:
        self._load.lost += 1
        if not self.ready.done():
            self.ready.set_exception(error)


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
    run_on_fast_loop(run(host, port, clients))


if __name__ == "__main__":
    main()
