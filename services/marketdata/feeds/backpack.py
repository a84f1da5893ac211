"""Backpack Exchange over its public WebSocket: best bid and ask, and trades.

The protocol as documented: one SUBSCRIBE message names streams such as `bookTicker.SOL_USDC`; data
arrives as `{"stream": name, "data": {...}}`, errors as `{"id": null, "error": {...}}`; times are
microseconds. The server pings every 60 s and closes on silence; aiohttp answers pings.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import aiohttp
import structlog

from mesh.aio import Backoff
from services.marketdata.domain.prices import FeedEvent, FeedKind, FeedTrade, Quote
from services.marketdata.feeds.port import BadFrame, FeedHealth, FeedSink, positive

WS_URL = "wss://ws.backpack.exchange"
REST_URL = "https://api.backpack.exchange"

_CONNECT_SECONDS = 5.0
_FRAME_BYTES_MAX = 1 << 20
# Longer than this no server is believed, in seconds.
_RETRY_AFTER_MAX = 300
# 2001-09-09 to 2286-11-20 in microseconds: seconds or milliseconds in that field are a mistake.
_TIME_US = range(10**15, 10**16)

log = structlog.get_logger()


class _Lost(Exception):
    """The connection is of no more use; the message says why. `wait_seconds` at least must pass
    before the next one: the server asked for it.
    """

    def __init__(self, why: str, wait_seconds: float = 0.0) -> None:
        super().__init__(why)
        self.wait_seconds = wait_seconds


async def _stay(_session: object, _context: object, redirect: Any) -> None:
    raise _Lost(f"{redirect.url} sends elsewhere, which nobody asked for")


class BackpackFeed:
    """Live prices. Connects again after every fault, with growing and jittered pauses."""

    kind = FeedKind.BACKPACK
    name = "backpack"
    simulated = False
    # Events of several pairs share a connection, and none waits longer than this for another.
    late_ns = 2_000_000_000

    def __init__(
        self,
        pairs: Sequence[str],
        *,
        ws_url: str = WS_URL,
        rest_url: str = REST_URL,
        silence_seconds: float = 30.0,
        backoff: Backoff | None = None,
    ) -> None:
        """Without a frame for `silence_seconds` the connection counts as dead."""
        self._wanted = tuple(pairs)
        self._ws_url = ws_url
        self._rest_url = rest_url.rstrip("/")
        self._silence_seconds = silence_seconds
        self._backoff = backoff or Backoff(first_seconds=0.5, most_seconds=30.0)
        # Newest (time, id) per stream: what comes again, or after something newer, is skipped.
        self._newest: dict[tuple[type[FeedEvent], str], tuple[int, int]] = {}
        self.health = FeedHealth(detail="connecting to Backpack")

    async def run(self, sink: FeedSink) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
        # A handshake follows redirects, and has no option for it as other requests have.
        watch = aiohttp.TraceConfig()
        watch.on_request_redirect.append(_stay)
        async with aiohttp.ClientSession(timeout=timeout, trace_configs=[watch]) as session:
            while True:
                try:
                    await self._connected(session, sink)
                except (aiohttp.ClientError, TimeoutError, OSError, _Lost) as error:
                    why = str(error) or type(error).__name__
                    asked = error.wait_seconds if isinstance(error, _Lost) else 0.0
                self.health.connected = False
                self.health.detail = f"Backpack is not reachable: {why}"
                pause = max(asked, self._backoff.next_seconds())
                log.warning("feed_disconnected", feed="backpack", why=why, retry_s=round(pause, 2))
                await asyncio.sleep(pause)
                self.health.reconnects += 1

    async def _connected(self, session: aiohttp.ClientSession, sink: FeedSink) -> None:
        """One connection from subscribing to its end, which always raises."""
        symbols = await self._existing(session)
        async with (
            asyncio.timeout(_CONNECT_SECONDS) as connecting,
            session.ws_connect(self._ws_url, max_msg_size=_FRAME_BYTES_MAX) as socket,
        ):
            params = [f"{kind}.{symbol}" for symbol in symbols for kind in ("bookTicker", "trade")]
            await socket.send_json({"method": "SUBSCRIBE", "params": params})
            connecting.reschedule(None)
            log.info("feed_subscribed", feed="backpack", symbols=symbols)
            while True:
                message = await self._receive(socket)
                events = self._events(message, symbols)
                if events:
                    # Only data proves that the connection is any good.
                    self._backoff.reset()
                    self.health.connected = True
                    self.health.detail = f"Backpack, live: {', '.join(symbols)}"
                    sink.on_events(self, events)

    async def _existing(self, session: aiohttp.ClientSession) -> tuple[str, ...]:
        """Which of our pairs Backpack has."""
        url = f"{self._rest_url}/api/v1/markets"
        timeout = aiohttp.ClientTimeout(total=10)
        async with session.get(url, timeout=timeout, allow_redirects=False) as response:
            if response.status != 200:
                asked = response.headers.get("Retry-After", "")
                wait = min(int(asked), _RETRY_AFTER_MAX) if asked.isdecimal() else 0
                raise _Lost(f"{url} answered {response.status}", wait)
            try:
                rows = json.loads(await response.text())
                known = {row["symbol"] for row in rows}
            except (ValueError, TypeError, KeyError):
                raise _Lost(f"{url} did not answer with a list of markets") from None
        missing = [symbol for symbol in self._wanted if symbol not in known]
        if missing:
            log.warning("feed_symbols_missing", feed="backpack", symbols=missing)
        if len(missing) == len(self._wanted):
            raise _Lost("Backpack has none of our pairs")
        return tuple(symbol for symbol in self._wanted if symbol in known)

    async def _receive(self, socket: aiohttp.ClientWebSocketResponse) -> aiohttp.WSMessage:
        try:
            message = await socket.receive(timeout=self._silence_seconds)
        except TimeoutError:
            raise _Lost(f"nothing came for {self._silence_seconds:g} s") from None
        if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING):
            raise _Lost(f"Backpack closed the connection ({message.data} {message.extra or ''})")
        if message.type is aiohttp.WSMsgType.CLOSED:
            raise _Lost("the connection was cut")
        if message.type is aiohttp.WSMsgType.ERROR:
            raise _Lost(f"the connection broke: {message.data}")
        return message

    def _events(self, message: aiohttp.WSMessage, symbols: Sequence[str]) -> list[FeedEvent]:
        """What a frame says; a frame that breaks the format is counted and dropped."""
        try:
            if message.type is not aiohttp.WSMsgType.TEXT:
                raise BadFrame("not a text frame")
            frame = _json_object(message.data)
            if "error" in frame:
                log.warning("feed_error_received", feed="backpack", error=frame["error"])
                self.health.detail = f"Backpack answered with an error: {frame['error']}"
                return []
            event = _event(frame, symbols)
            return [event[0]] if self._is_news(*event) else []
        except BadFrame as error:
            self.health.bad_frames += 1
            log.warning("feed_frame_dropped", feed="backpack", error=str(error))
            return []

    def _is_news(self, event: FeedEvent, number: int) -> bool:
        key, position = (type(event), event.pair), (event.time_ns, number)
        if position <= self._newest.get(key, (0, 0)):
            return False
        self._newest[key] = position
        return True


def _json_object(text: str) -> dict[str, Any]:
    try:
        # Numbers that are not whole stay text: no price passes through a float.
        frame = json.loads(text, parse_float=str)
    except (ValueError, RecursionError):
        raise BadFrame("not JSON") from None
    if not isinstance(frame, dict):
        raise BadFrame("not an object")
    return frame


def _event(frame: dict[str, Any], symbols: Sequence[str]) -> tuple[FeedEvent, int]:
    """(event, its rising number) of a data frame. Raises `BadFrame`."""
    data = frame.get("data")
    if not isinstance(data, dict):
        raise BadFrame("without data")
    kind, symbol = data.get("e"), data.get("s")
    if not isinstance(symbol, str) or symbol not in symbols:
        raise BadFrame("not of a pair that was subscribed to")
    if frame.get("stream") != f"{kind}.{symbol}":
        raise BadFrame("not of a stream that was subscribed to")
    time_us = _whole(data.get("T"), "T")
    if time_us not in _TIME_US:
        raise BadFrame("T is not in microseconds")
    if kind == "bookTicker":
        bid, ask = positive(data.get("b"), "b"), positive(data.get("a"), "a")
        if bid > ask:
            raise BadFrame("bid above ask")
        return Quote(symbol, bid, ask, time_us * 1000), _whole(data.get("u"), "u")
    if kind == "trade":
        price, quantity = positive(data.get("p"), "p"), positive(data.get("q"), "q")
        return FeedTrade(symbol, price, quantity, time_us * 1000), _whole(data.get("t"), "t")
    raise BadFrame("not of a stream that was subscribed to")


def _whole(value: object, field: str) -> int:
    """A whole number that may come as text (Backpack sends both)."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise BadFrame(f"{field} is not a whole number")
