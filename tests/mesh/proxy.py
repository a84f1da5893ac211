"""A proxy before a Redis server that loses answers and cuts connections when told to."""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import urlsplit


class LossyProxy:
    """Listens on 127.0.0.1 and passes bytes to the unix socket of `server_url` and back."""

    def __init__(self, server_url: str) -> None:
        self._socket = urlsplit(server_url).path
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._lose_answer_to: bytes | None = None
        self.lost = 0

    async def __aenter__(self) -> LossyProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    def lose_answer_to(self, command: str) -> None:
        """The next such command is carried out, but its answer is lost and the connection cut."""
        self._lose_answer_to = command.encode()

    def cut(self) -> None:
        """Cut all connections."""
        for writer in tuple(self._connections):
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._connections.add(writer)
        server_reader, server_writer = await asyncio.open_unix_connection(self._socket)
        answers = asyncio.create_task(self._pass_answers(server_reader, writer))
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if self._lose_answer_to is not None and self._lose_answer_to in data:
                    self._lose_answer_to = None
                    await self._lose_one(data, answers, server_reader, server_writer)
                    break
                server_writer.write(data)
                await server_writer.drain()
        answers.cancel()
        for end in (writer, server_writer):
            end.close()
        self._connections.discard(writer)

    async def _lose_one(
        self,
        data: bytes,
        answers: asyncio.Task[None],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        answers.cancel()
        await asyncio.gather(answers, return_exceptions=True)
        writer.write(data)
        # The answer shows that the server did it; the client never sees it.
        await reader.read(1 << 16)
        self.lost += 1

    async def _pass_answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()
