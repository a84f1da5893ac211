"""One WebSocket by hand (RFC 6455): nothing but what a client must do, so that it costs little."""

from __future__ import annotations

import asyncio
import base64
import os
from typing import cast

_TEXT, _PING, _PONG = 1, 9, 10


class WebSocketClient(asyncio.Protocol):
    """Calls `opened` after the upgrade, `text` for each text frame, `lost` at the end."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._buffer = b""
        self._upgraded = False
        self._transport: asyncio.Transport | None = None

    def opened(self) -> None:
        """The upgrade is done."""
        raise NotImplementedError

    def text(self, payload: bytes) -> None:
        """A text frame."""
        raise NotImplementedError

    def lost(self, error: Exception) -> None:
        """It was refused, or is over."""
        raise NotImplementedError

    def send(self, *payloads: bytes) -> None:
        """Send text frames, in one write."""
        assert self._transport is not None
        self._transport.write(b"".join(_masked(_TEXT, payload) for payload in payloads))

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
        buffer = self._buffer + data if self._buffer else data
        if not self._upgraded:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                self._buffer = buffer
                return
            if not buffer.startswith(b"HTTP/1.1 101"):
                self.lost(ConnectionError(buffer[:200].decode()))
                return
            self._upgraded = True
            self.opened()
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
            self._frame(buffer[at] & 15, buffer[at + head : at + head + length])
            at += head + length
        self._buffer = buffer[at:]

    def connection_lost(self, error: Exception | None) -> None:
        self.lost(error or ConnectionError("closed"))

    def _frame(self, kind: int, payload: bytes) -> None:
        if kind == _TEXT:
            self.text(payload)
        elif kind == _PING and self._transport is not None:
            self._transport.write(_masked(_PONG, payload))


def _masked(kind: int, payload: bytes) -> bytes:
    # A mask of zeros changes nothing and is allowed.
    size = len(payload)
    assert size < 1 << 16
    head = bytes([0x80 | kind, 0x80 | size]) if size < 126 else bytes([0x80 | kind, 0xFE])
    if size >= 126:
        head += size.to_bytes(2, "big")
    return head + bytes(4) + payload
